"""ZSKD as a data source: images with sampled soft labels, and what a student learns from them."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any, cast

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_teacher import SIZE, TinyNet, described, digits_teacher, untrained
from torch import nn

from autocompress import models
from autocompress.contract import Context, DataSource, Params, Space, TransferSet, manager
from autocompress.data import DataInfo, TensorSplit
from autocompress.errors import InvalidRecipe
from autocompress.job import load_job
from autocompress.recipes.choosers import Policy, Replay
from autocompress.synthesis import teacher_logits
from autocompress.testing import check_source, example_job, example_model
from autocompress.training import TrainSettings, answers_of, distillation, evaluate, recover, train
from autocompress_zskd import Zskd, networks
from autocompress_zskd.head import head_weight
from autocompress_zskd.method import BETAS, impressions
from autocompress_zskd.sampling import all_soft_labels

METHOD = Zskd()


def params_of(teacher: nn.Module, **values: Any) -> Params:
    limits = {f"zskd.{name}": value for name, value in values.items()}
    return METHOD.search_space(Space(Replay({}), "model", limits).scope("zskd"), teacher)


def make(teacher: nn.Module, seed: int = 0, most: int | None = None, **values: Any) -> TransferSet:
    params = params_of(teacher, **{"images": 12, "iterations": 3, **values})
    cfg: Any = teacher.pretrained_cfg
    return METHOD.apply(teacher, params, Context(cfg["input_size"], seed=seed, images=most))


def images_of(transfer: TransferSet) -> torch.Tensor:
    return next(iter(transfer.train.loader(len(transfer.train))))[0]


def divergence(teacher: nn.Module, images: torch.Tensor, targets: torch.Tensor, tau: float) -> torch.Tensor:
    """``KL(targets || teacher(x) at temperature tau)`` of each image, in nats."""
    answers = (teacher_logits(teacher, images) / tau).log_softmax(1)
    return (targets * (targets.clamp_min(1e-30).log() - answers)).sum(1)


def without_norms() -> nn.Module:
    torch.manual_seed(0)
    return described(TinyNet(norm=nn.Identity).eval(), SIZE, 10)


# --- the contract ---------------------------------------------------------------------------------


def test_it_is_installed() -> None:
    (found,) = [method for method in manager().methods() if method.name == "zskd"]
    assert isinstance(found, DataSource)


def test_it_conforms_at_every_scale() -> None:
    model = example_model()
    for betas in BETAS:
        check_source(METHOD, model, params_of(model, betas=betas, images=12, iterations=3))


def test_the_scales_alone_are_searched() -> None:
    space = Space(Policy({}), "stage")
    params = METHOD.search_space(space.scope("zskd"), untrained())
    searched = {name: parameter for name, parameter in space.asked.items() if len(parameter.choices) != 1}
    assert set(searched) == {"zskd.betas"}
    assert searched["zskd.betas"].choices == ("mixed", "even", "sharp")
    assert BETAS[params["betas"]] == (1.0, 0.1)
    assert not any(parameter.structural for parameter in space.asked.values())


# --- what it makes --------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [4.0, 20.0])
def test_the_outputs_of_the_teacher_approach_the_soft_labels(tau: float) -> None:
    teacher = digits_teacher()[0]
    targets = all_soft_labels(head_weight(teacher), 60, BETAS["mixed"], np.random.default_rng(0))
    values = {"tau": tau, "images": 60}
    found = {
        steps: impressions(teacher, targets, params_of(teacher, iterations=steps, **values), Context(SIZE))
        for steps in (1, 40, 200)
    }
    away = {steps: divergence(teacher, images, targets, tau) for steps, images in found.items()}
    assert all((kl > -1e-5).all() for kl in away.values())
    assert away[200].mean() < away[40].mean() < away[1].mean()
    best, second = targets.topk(2, 1).values.unbind(1)
    clear = best - second > 0.3
    assert clear.sum() > 20
    hits = teacher_logits(teacher, found[200]).argmax(1) == targets.argmax(1)
    assert float(hits[clear].float().mean()) > 0.9


def test_at_a_high_temperature_targets_are_out_of_reach() -> None:
    """Digest 8.9: the optimum is equal, but a small teacher does not have the logits for it."""
    teacher = digits_teacher()[0]
    targets = all_soft_labels(head_weight(teacher), 40, BETAS["mixed"], np.random.default_rng(0))
    left = {}
    for tau in (4.0, 20.0):
        params = params_of(teacher, tau=tau, iterations=200, images=40)
        left[tau] = float(
            divergence(teacher, impressions(teacher, targets, params, Context(SIZE)), targets, tau).mean()
        )
    assert left[4.0] < left[20.0] / 2


def test_images_start_from_uniform_noise_and_stay_in_range() -> None:
    teacher = digits_teacher()[0]
    for steps in (1, 60):
        pixels = images_of(make(teacher, images=30, iterations=steps, lr=0.1)) * 0.35 + 0.3
        assert -1e-5 <= float(pixels.min()) <= float(pixels.max()) <= 1 + 1e-5
        if steps == 1:  # after one iteration, the best images are the start
            assert float(pixels.mean()) == pytest.approx(0.5, abs=0.02)
            assert float(pixels.std()) == pytest.approx(12**-0.5, abs=0.02)


def test_the_teacher_is_not_changed_and_results_depend_on_the_seed() -> None:
    teacher = copy.deepcopy(digits_teacher()[0]).train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    first, again, other = (make(teacher, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(images_of(first), images_of(again))
    assert first.digest == again.digest != other.digest
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in teacher.parameters())
    assert all(module.training for module in teacher.modules())


def test_batches_have_their_own_noise_and_optimizer() -> None:
    """Images do not depend on each other, so other batches give the same first images."""
    teacher = digits_teacher()[0]
    whole, parts = (images_of(make(teacher, images=12, batch_size=size)) for size in (12, 6))
    # Adam's epsilon matters where a gradient is almost zero: the mean over a batch scales it by 1 /
    # B.
    same = (whole[:6] - parts[:6]).abs() < 1e-3
    assert float(same.float().mean()) > 0.95
    assert not torch.allclose(parts[:6], parts[6:], atol=0.1)


def test_targets_of_the_set_are_outputs_of_the_teacher() -> None:
    teacher = digits_teacher()[0]
    transfer = make(teacher, most=7)
    assert len(transfer.train) == 7
    assert transfer.soft_targets is None
    assert not transfer.labelled
    assert transfer.demands == {"freeze_batch_norm"}
    assert torch.equal(transfer.train.labels(), teacher_logits(teacher, images_of(transfer)).argmax(1))
    asked: list[torch.Tensor] = []
    watched = copy.deepcopy(teacher)
    watched.register_forward_hook(lambda _module, inputs, _output: asked.append(inputs[0]))
    context = Context(SIZE, transfer=transfer, teacher=watched)
    recover(copy.deepcopy(teacher), {"epochs": 2, "lr": 1e-3, "distill": 0.5}, context, [])
    stored = images_of(transfer)
    assert len(asked) == 2
    assert not any(torch.isclose(view, image, atol=1e-3).all() for batch in asked for view in batch for image in stored)


# --- where it works -------------------------------------------------------------------------------


def test_it_needs_a_linear_head_but_no_batch_norm() -> None:
    assert METHOD.check(without_norms(), example_job()) == []
    assert len(make(without_norms()).train) == 12
    assert METHOD.check(example_model("test_vit"), example_job()) == []
    headless = described(nn.Sequential(nn.Conv2d(1, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval(), SIZE, 10)
    (reason,) = METHOD.check(headless, example_job())
    assert "is a convolution over places" in reason
    with pytest.raises(InvalidRecipe, match="zskd cannot be used"):
        make(headless)


# --- distillation ---------------------------------------------------------------------------------


@given(tau=st.sampled_from([20.0, 50.0, 100.0]), seed=st.integers(0, 20))
@settings(max_examples=10, deadline=None)
def test_the_square_of_the_temperature_keeps_the_size_of_the_gradient(tau: float, seed: int) -> None:
    """At a high temperature, the gradient of the logits does not depend on it.

    At S = T it is zero, and the loss of the paper, a cross-entropy, is tau^2 H(t).
    """
    generator = torch.Generator().manual_seed(seed)
    teacher, student = torch.randn(2, 8, 10, generator=generator)

    def gradient(at: float, logits: torch.Tensor) -> torch.Tensor:
        x = logits.clone().requires_grad_()
        (found,) = torch.autograd.grad(distillation(x, None, answers_of(teacher, at), 1.0), x)
        return found

    assert gradient(tau, student).norm() == pytest.approx(gradient(2 * tau, student).norm().item(), rel=0.05)
    assert gradient(tau, teacher).abs().max() < 1e-3
    soft = (teacher / tau).softmax(1)
    entropy = -(soft * soft.log()).sum(1).mean()
    cross = tau**2 * F.cross_entropy(teacher / tau, soft)
    assert cross.item() == pytest.approx(tau**2 * entropy.item(), rel=1e-5)
    assert distillation(teacher, None, answers_of(teacher, tau), 1.0).item() == pytest.approx(0, abs=1e-3)


TOY = (1, 8, 8)
TOY_INFO = DataInfo(3, 1, (8, 8), (0.5,), (0.25,), ("left", "right", "below"))


def toy_images(n: int, seed: int) -> TensorSplit:
    """A bright bar on the left, on the right or below, with noise; uint8."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    pixels = 0.25 + 0.3 * torch.rand(n, *TOY, generator=generator)
    pixels[labels == 0, :, :, :3] += 0.4
    pixels[labels == 1, :, :, 5:] += 0.4
    pixels[labels == 2, :, 5:, :] += 0.4
    return TensorSplit((pixels.clamp(0, 1) * 255).to(torch.uint8), labels, TOY_INFO)


class ToyNet(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, stride=2, padding=1)
        self.hidden = nn.Linear(width * 16, 4 * width)
        self.fc = nn.Linear(4 * width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.hidden(self.conv(x).relu().flatten(1)).relu())


@cache
def toy_teacher() -> nn.Module:
    torch.manual_seed(0)
    teacher: Any = described(ToyNet(8), TOY, 3)
    teacher.pretrained_cfg |= {"mean": TOY_INFO.mean, "std": TOY_INFO.std}
    train(teacher, toy_images(300, 0), TrainSettings(epochs=10, lr=5e-3, batch_size=32, augment=False))
    return cast(nn.Module, teacher.eval())


def test_a_student_learns_more_from_impressions_than_from_noise() -> None:
    teacher, real = toy_teacher(), toy_images(300, 1)
    assert evaluate(teacher, real)[0] > 95
    count = 96
    sets = {"impressions": make(teacher, images=count, iterations=150, lr=0.02).train}
    noise = torch.rand(count, *TOY, generator=torch.Generator().manual_seed(0))
    sets["noise"] = TensorSplit((noise - 0.5) / 0.25, torch.zeros(count), TOY_INFO)
    accuracies: dict[str, list[float]] = {"impressions": [], "noise": []}
    how = TrainSettings(epochs=15, lr=5e-3, batch_size=16, augment=False)
    for seed in (0, 1, 2):
        for name, split in sets.items():
            torch.manual_seed(seed)
            student = ToyNet(4)
            train(student, split, how, teacher=teacher, labelled=False, seed=seed)
            accuracies[name].append(evaluate(student, real)[0])
    assert min(accuracies["impressions"]) > 60, "chance is 33"
    assert np.mean(accuracies["impressions"]) > np.mean(accuracies["noise"]) + 5, accuracies


# --- the paper's networks -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters", "channels"),
    [
        ("lenet5", 61_706, 1),
        ("lenet5_half", 35_820, 1),
        ("alexnet_cifar", 1_659_178, 3),
        ("alexnet_cifar_half", 417_434, 3),
    ],
)
def test_the_networks_of_the_paper(name: str, parameters: int, channels: int) -> None:
    assert networks.__all__
    model = timm.create_model(name).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert model(torch.zeros(2, channels, 32, 32)).shape == (2, 10)
    assert timm.create_model(name, num_classes=3, in_chans=2)(torch.zeros(4, 2, 32, 32)).shape == (4, 3)
    with pytest.raises(ValueError, match="32x32 images only"):
        timm.create_model(name, img_size=28)


@pytest.mark.parametrize("name", ["alexnet_cifar", "alexnet_cifar_half"])
def test_response_normalisation_is_that_of_the_official_network(name: str) -> None:
    """As in TensorFlow.

    The settings are depth_radius 2, alpha 1e-4, beta 0.75, bias 1. X / (1 + alpha sum x^2)^beta.
    """
    norms = [m for m in timm.create_model(name).modules() if isinstance(m, nn.LocalResponseNorm)]
    assert len(norms) == 2
    x = 100 * torch.randn(2, 12, 3, 3)  # large values, or the normalisation would have little effect
    for norm in norms:
        squares = torch.stack([x[:, max(c - 2, 0) : c + 3].square().sum(1) for c in range(12)], 1)
        torch.testing.assert_close(norm(x), x / (1 + 1e-4 * squares) ** 0.75)


def test_the_networks_are_usual_backbones() -> None:
    job = load_job(model="lenet5_half", data="digits")
    model = models.create(job, DataInfo(10, 1, (32, 32), (0.3,), (0.3,), tuple("0123456789")))
    assert models.classifier(model) == ("fc",)
    assert models.groups(model, "stage")[0].name == "stem"
    assert METHOD.check(model, example_job()) == []
    assert len(make(model, images=4).train) == 4
