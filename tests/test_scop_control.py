"""Control scales.

The mixing, its gradient, and that only beta changes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import BatchNormAct2d
from torch import nn

from autocompress.data import DataInfo, TensorSplit
from autocompress.testing import example_context, example_model
from autocompress_scop import control, knockoffs
from autocompress_scop.control import MIXINGS, ControlScale, ScaleSettings, controlled

PAIRS = {"0": "1"}


def small() -> nn.Sequential:
    """Convolution, norm, activation, and a linear head."""
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, 3),
    )  # fmt: skip
    nn.init.uniform_(net[1].weight, -2, 2)
    nn.init.uniform_(net[1].bias, -1, 1)
    return net


def images(n: int, channels: int = 2, size: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(seed))


def alive() -> nn.Module:
    """The example model with gammas that are not zero.

    timm starts the last norm of each block at 0, which would stop every gradient to earlier layers.
    """
    model = example_model()
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
    return model


def split_of(x: torch.Tensor, labels: torch.Tensor) -> TensorSplit:
    info = DataInfo(3, x.shape[1], (x.shape[2], x.shape[3]), (0.5,) * x.shape[1], (0.5,) * x.shape[1], ("a", "b", "c"))
    return TensorSplit(x, labels, info)


# --- the mixing -----------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 5), seed=st.integers(0, 99))
def test_beta_one_gives_the_real_half_and_beta_zero_the_knockoff_half(n: int, seed: int) -> None:
    conv = nn.Conv2d(2, 6, 3)
    real, copy_ = conv(images(n, seed=seed)), conv(images(n, seed=seed + 1))
    scale = ControlScale(6)
    for beta, expected in ((1.0, real), (0.0, copy_)):
        nn.init.constant_(scale.beta, beta)
        mixed = scale(torch.cat([real, copy_]))
        assert torch.equal(mixed[:n], expected)
        assert torch.equal(mixed[n:], copy_), "the knockoff stream never receives real features"


@pytest.mark.parametrize("mixing", MIXINGS)
def test_beta_one_does_not_change_the_network(mixing: str) -> None:
    net = small()
    control.batch_statistics(net)
    both = torch.cat([images(4), images(4, seed=1)])
    plain = net(both)
    with controlled(net, PAIRS, mixing) as scales:
        nn.init.ones_(scales["0"].beta)
        assert torch.equal(net(both), plain)
        nn.init.zeros_(scales["0"].beta)
        assert torch.allclose(net(both)[:4], net(both)[4:], atol=1e-6), "both halves get the knockoff"
    assert torch.equal(net(both), plain), "no hook is left"
    assert torch.equal(net[1].running_mean, torch.zeros(6)), (
        "statistics of the batch are used, and running ones do not change"
    )


def test_where_the_two_mixings_apply() -> None:
    """pre_bn mixes the raw output, also in timm's norms with activation.

    post_bn mixes between norm and activation.
    """
    for norm in (nn.BatchNorm2d(6), BatchNormAct2d(6)):
        net = nn.Sequential(nn.Conv2d(2, 6, 1), norm).eval()
        nn.init.uniform_(norm.weight, 0.5, 2)
        real, copy_ = images(3), images(3, seed=1)
        affine = copy.deepcopy(norm)
        act: nn.Module = nn.Identity()
        if isinstance(affine, BatchNormAct2d):
            act, affine.act = affine.act, nn.Identity()
        u, v = net[0](real), net[0](copy_)
        expected = {
            "pre_bn": act(affine(0.5 * u + 0.5 * v)),
            "post_bn": act(0.5 * affine(u) + 0.5 * affine(v)),
        }
        for mixing in MIXINGS:
            with controlled(net, PAIRS, mixing):
                assert torch.allclose(net(torch.cat([real, copy_]))[:3], expected[mixing], atol=1e-6)


def test_the_features_of_a_linear_layer_are_its_last_axis() -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2))
    with controlled(net, {"0": None}) as scales, torch.no_grad():
        scales["0"].beta[1] = 0.0
        tokens = torch.randn(6, 7, 4)
        mixed = net[0](tokens)
    plain = net[0](tokens)
    assert torch.allclose(mixed[:3, :, 1], plain[3:, :, 1])
    assert torch.allclose(mixed[:3, :, 0], 0.5 * (plain[:3, :, 0] + plain[3:, :, 0]))


def test_an_unknown_mixing_is_refused() -> None:
    with pytest.raises(ValueError, match="pre_bn, post_bn"), controlled(small(), PAIRS, "stirred"):
        pass


# --- the gradient ---------------------------------------------------------------------------------


def gradients(x: torch.Tensor, copy_: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """dL/dbeta, and the sum over n, h, w of dL/dAhat (A - A~), section 3."""
    net = small()
    control.batch_statistics(net)
    net.requires_grad_(False)
    mixed: list[torch.Tensor] = []
    raw = net[0](torch.cat([x, copy_]))
    with controlled(net, PAIRS) as scales:
        nn.init.uniform_(scales["0"].beta, 0.1, 0.9)

        def keep(_module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
            inputs[0].retain_grad()
            mixed.append(inputs[0])

        net[1].register_forward_pre_hook(keep)
        loss = control.control_loss(net, x, copy_, torch.arange(len(x)) % 3)
        loss.backward()
        real, knockoff = raw.chunk(2)
        identity = (mixed[0].grad[: len(x)] * (real - knockoff)).sum((0, 2, 3))  # type: ignore[index]
        return scales["0"].beta.grad, identity  # type: ignore[return-value]


def test_the_gradient_of_beta_is_that_of_the_mixture_times_the_difference() -> None:
    found, expected = gradients(images(5), images(5, seed=1))
    assert found.abs().max() > 1e-3
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_knockoff_equal_to_its_image_gives_no_gradient() -> None:
    found, _ = gradients(images(5), images(5))
    assert torch.equal(found, torch.zeros(6))


# --- only beta changes ----------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 33, 64])
def test_only_beta_changes_and_stays_within_zero_and_one(n: int) -> None:
    """Also with one image, and with batches of unequal size."""
    model = alive()
    train = example_context(model).transfer.train  # type: ignore[union-attr]
    split = train.take(torch.arange(n))
    before = copy.deepcopy(model)
    source = knockoffs.make("permute", train)
    pairs = {"layer1.0.conv1": "layer1.0.bn1", "layer3.0.conv2": "layer3.0.bn2"}
    found = control.learn(model, pairs, split, source, ScaleSettings(epochs=2, lr=0.4))
    assert list(found) == list(pairs)
    for beta in found.values():
        assert beta.min() >= 0
        assert beta.max() <= 1
        assert (beta != 0.5).any()
    assert any((beta == 0).any() or (beta == 1).any() for beta in found.values()), (
        "such a large step reaches the bounds"
    )
    assert not model.training
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.state_dict().values(), strict=True)
    )
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_without_epochs_every_beta_is_one_half() -> None:
    model = alive()
    split = example_context(model).transfer.train  # type: ignore[union-attr]
    found = control.learn(model, {"layer1.0.conv1": None}, split, knockoffs.Permute(split), ScaleSettings(epochs=0))
    assert torch.equal(found["layer1.0.conv1"], torch.full_like(found["layer1.0.conv1"], 0.5))


def test_scales_depend_on_the_seed() -> None:
    model = alive()
    split = example_context(model).transfer.train  # type: ignore[union-attr]
    found: list[Mapping[str, torch.Tensor]] = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        source = knockoffs.make("gaussian", split)
        found.append(control.learn(model, {"layer1.0.conv1": None}, split, source, seed=7))
    assert torch.equal(found[0]["layer1.0.conv1"], found[1]["layer1.0.conv1"])
    assert (found[0]["layer1.0.conv1"] != 0.5).any()


# --- planted redundancy ---------------------------------------------------------------------------


class Planted(nn.Module):
    """Channel 0 has the label, channel 1 has zero weights, and channel 2 is noise."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 2)
        with torch.no_grad():
            self.conv.weight.copy_(torch.eye(3).view(3, 3, 1, 1))
            self.conv.bias.zero_()
            self.head.bias.zero_()
            self.head.weight.copy_(torch.tensor([[-2.0, 0.0, 1.0], [2.0, 0.0, -1.0]]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.conv(x)).mean((2, 3)))


@pytest.mark.parametrize("mixing", MIXINGS)
@pytest.mark.parametrize("labelled", [True, False], ids=["labels", "teacher"])
def test_the_channel_with_the_label_gets_a_high_beta(mixing: str, labelled: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = 0.3 * torch.randn(240, 3, 4, 4, generator=generator) + torch.randn(240, 3, 1, 1, generator=generator)
    labels = torch.randint(0, 2, (240,), generator=generator)
    x[:, 0] += 2.0 * (2 * labels - 1).view(-1, 1, 1)
    split = split_of(x, labels if labelled else torch.zeros(240, dtype=torch.int64))
    model = Planted()
    if not labelled:  # the network is its own teacher, so it must predict the label
        nn.init.zeros_(model.head.weight[:, 2])
    settings_ = ScaleSettings(epochs=4, lr=0.02, mixing=mixing)
    source = knockoffs.Permute(split)
    beta = control.learn(model, {"conv": "norm"}, split, source, settings_, labelled=labelled)["conv"]
    assert beta[0] > 0.7
    assert abs(float(beta[1]) - 0.5) < 1e-3, "no gradient: its consumer's weights are zero"
    if labelled:
        assert beta[2] < beta[0]
