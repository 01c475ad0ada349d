"""The Knowledge Within.

The three schemes and their sum, and uses of the images.
"""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_teacher import SIZE, TinyNet, described, digits_teacher
from torch import nn

from autocompress.contract import Context, DataSource, Params, Space, TransferSet, manager
from autocompress.contract.space import LimitError
from autocompress.errors import InvalidRecipe
from autocompress.job import load_job
from autocompress.quantization import LayerBits, calibrate, quantize
from autocompress.quantization.fakequant import UniformFakeQuantizer
from autocompress.quantization.network import QuantizedNetwork
from autocompress.recipes.choosers import Policy, Replay
from autocompress.synthesis import teacher_logits
from autocompress.synthesis.similarity import similarity
from autocompress.testing import check_source, example_job, example_model
from autocompress.training import Training, TrainSettings, recover
from autocompress_knowledge_within import KnowledgeWithin
from autocompress_knowledge_within.method import DIVERGENCES, SCHEMES

METHOD = KnowledgeWithin()


def params_of(teacher: nn.Module, **values: Any) -> Params:
    limits = {f"knowledge_within.{name}": value for name, value in values.items()}
    return METHOD.search_space(Space(Replay({}), "model", limits).scope("knowledge_within"), teacher)


def make(teacher: nn.Module, scheme: str, seed: int = 0, most: int | None = None, **values: Any) -> TransferSet:
    params = params_of(teacher, **{"scheme": scheme, "images": 64, **values})
    cfg: Any = teacher.pretrained_cfg
    return METHOD.apply(teacher, params, Context(cfg["input_size"], seed=seed, images=most))


@cache
def made(scheme: str) -> torch.Tensor:
    """128 images of a scheme from the teacher of digits. Do not change them."""
    return images_of(make(digits_teacher()[0], scheme, images=128, iterations=150))


def images_of(transfer: TransferSet) -> torch.Tensor:
    return next(iter(transfer.train.loader(len(transfer.train))))[0]


def score(teacher: nn.Module, images: torch.Tensor) -> float:
    return similarity(teacher, [(images, torch.zeros(len(images)))])


def without_norms() -> nn.Module:
    torch.manual_seed(0)
    return described(TinyNet(norm=lambda channels: nn.GroupNorm(3, channels)).eval(), SIZE, 10)  # type: ignore[arg-type]


# --- the contract ---------------------------------------------------------------------------------


def test_it_is_installed() -> None:
    (found,) = [method for method in manager().methods() if method.name == "knowledge_within"]
    assert isinstance(found, DataSource)


def test_every_scheme_conforms() -> None:
    model = example_model()
    for scheme in SCHEMES:
        values = {} if scheme == "gaussian" else {"iterations": 3}
        check_source(METHOD, model, params_of(model, scheme=scheme, images=12, **values))


def test_the_preset_alone_is_searched_and_a_fourth_scheme_can_be_fixed() -> None:
    teacher = digits_teacher()[0]
    space = Space(Policy({}), "stage")
    params = METHOD.search_space(space.scope("knowledge_within"), teacher)
    assert params["scheme"] == "bns+inception"
    searched = {name: p for name, p in space.asked.items() if len(p.choices) != 1}
    assert set(searched) == {"knowledge_within.preset"}
    assert searched["knowledge_within.preset"].choices == ("bns+inception", "bns", "gaussian")
    assert not any(parameter.structural for parameter in space.asked.values())
    assert params_of(teacher, scheme="inception")["scheme"] == "inception"
    assert params_of(teacher, preset="bns")["scheme"] == "bns"
    assert "gamma" not in params_of(teacher, scheme="inception")
    assert set(params_of(teacher, scheme="gaussian")) == {"scheme", "images"}


# --- what it makes --------------------------------------------------------------------------------


def test_noise_is_normal_and_seeded_and_needs_no_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object, **options: object) -> None:
        raise AssertionError("a backward pass")

    monkeypatch.setattr(torch.autograd, "grad", never)
    monkeypatch.setattr(torch.Tensor, "backward", never)
    teacher = digits_teacher()[0]
    first, again, other = (make(teacher, "gaussian", seed=seed, images=512) for seed in (3, 3, 4))
    images = images_of(first)
    assert abs(float(images.mean())) < 0.02
    assert abs(float(images.std()) - 1) < 0.02
    assert torch.equal(images, images_of(again))
    assert first.digest == again.digest != other.digest
    assert not torch.equal(images, images_of(other))


def test_the_other_direction_of_the_divergence_can_be_chosen() -> None:
    teacher = digits_teacher()[0]
    assert params_of(teacher, scheme="bns")["divergence"] == "measured"
    assert "divergence" not in params_of(teacher, scheme="inception")
    ours, theirs = (make(teacher, "bns", images=8, iterations=5, divergence=way) for way in DIVERGENCES)
    assert ours.digest != theirs.digest
    assert not torch.equal(images_of(ours), images_of(theirs))


def test_statistics_are_matched_far_better_than_by_noise() -> None:
    teacher, real, _ = digits_teacher()
    noise = score(teacher, made("gaussian"))
    assert score(teacher, real) < noise / 5
    assert score(teacher, made("bns")) < noise / 5


@pytest.mark.slow
def test_classes_are_found() -> None:
    teacher = digits_teacher()[0]
    noise = score(teacher, made("gaussian"))
    for scheme in ("inception", "bns+inception"):
        probabilities = teacher_logits(teacher, made(scheme)).softmax(1)
        assert float(probabilities.max(1).values.mean()) >= 0.9, scheme
        # 128 images of 10 balanced classes: each 12 or 13 times, if all labels are reached.
        assert all(10 <= count <= 15 for count in probabilities.argmax(1).bincount(minlength=10).tolist()), scheme
    assert score(teacher, made("bns+inception")) < noise / 5
    assert score(teacher, made("bns+inception")) < score(teacher, made("inception")) / 5


def test_optimised_pixels_stay_in_the_range_of_images() -> None:
    for scheme in ("bns", "inception"):
        pixels = made(scheme) * 0.35 + 0.3
        assert -1e-5 <= float(pixels.min()) <= float(pixels.max()) <= 1 + 1e-5


def test_the_teacher_is_not_changed() -> None:
    teacher = copy.deepcopy(digits_teacher()[0]).train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    for scheme in SCHEMES:
        make(teacher, scheme, images=8, **({} if scheme == "gaussian" else {"iterations": 2}))
    after = teacher.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in teacher.modules())
    assert all(module.training for module in teacher.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in teacher.parameters())


def test_the_set_has_its_demands_on_training() -> None:
    teacher = digits_teacher()[0]
    sets = {s: make(teacher, s, images=8, **({} if s == "gaussian" else {"iterations": 2})) for s in SCHEMES}
    assert {s for s, made in sets.items() if made.demands} == {"gaussian"}
    assert sets["gaussian"].demands == {"freeze_batch_norm"}
    for transfer in sets.values():
        assert not transfer.labelled
        assert transfer.soft_targets is None, "targets are outputs of the teacher for augmented images"
        assert torch.equal(transfer.train.labels(), teacher_logits(teacher, images_of(transfer)).argmax(1))
    assert len({transfer.digest for transfer in sets.values()}) == len(SCHEMES)


def test_no_more_images_than_needed_in_batches_of_equal_size() -> None:
    sizes: list[int] = []
    teacher = copy.deepcopy(digits_teacher()[0])
    teacher.register_forward_hook(lambda _module, inputs, _output: sizes.append(len(inputs[0])))
    assert len(make(teacher, "bns", most=20, images=64, batch_size=16, iterations=1).train) == 20
    assert sizes[:2] == [10, 10]
    assert len(make(teacher, "gaussian", most=5).train) == 5


# --- training and calibrating on it ---------------------------------------------------------------


def student_after(scheme: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Running statistics before and after RECOVER on images of a scheme."""
    teacher = copy.deepcopy(digits_teacher()[0])
    student = copy.deepcopy(teacher)
    before = {name: value.clone() for name, value in student.state_dict().items() if "running" in name}
    transfer = make(teacher, scheme, images=32, **({} if scheme == "gaussian" else {"iterations": 2}))
    context = Context(SIZE, transfer=transfer, teacher=teacher)
    weights = student.state_dict()["conv1.weight"].clone()
    recover(student, {"epochs": 2, "lr": 2e-3, "distill": 0.5}, context, [])
    after = student.state_dict()
    assert not torch.equal(weights, after["conv1.weight"]), "nothing was trained"
    return before, {name: after[name] for name in before}


def test_statistics_of_a_student_are_kept_if_the_images_would_spoil_them() -> None:
    before, after = student_after("gaussian")
    assert all(torch.equal(before[name], after[name]) for name in before)
    before, after = student_after("bns")
    assert not any(torch.equal(before[name], after[name]) for name in before)


def quantized(bits: int) -> QuantizedNetwork:
    layers = {name: LayerBits("q", bits, bits) for name in ("conv1", "conv2", "fc")}
    teacher = copy.deepcopy(digits_teacher()[0])
    return quantize(teacher, layers, lambda _, spec: UniformFakeQuantizer(spec), input_size=SIZE, trainable=True)


def ranges(images: torch.Tensor) -> torch.Tensor:
    """The widths of the ranges of activations after calibration, by layer."""
    network = quantized(8)
    calibrate(network, [images])
    return torch.stack([255 * fake.scale.reshape(()) for fake in network.activation_fakes().values()])  # type: ignore[operator]


def test_ranges_calibrated_on_matched_images_are_close_to_those_of_real_ones() -> None:
    real = ranges(digits_teacher()[1])
    ratios = ranges(made("bns")) / real
    assert ((ratios > 0.5) & (ratios < 2)).all(), ratios


def agreement(network: nn.Module) -> float:
    teacher, real, _ = digits_teacher()
    with torch.no_grad():
        return float((network.eval()(real).argmax(1) == teacher(real).argmax(1)).float().mean())


def divergence(network: nn.Module) -> float:
    """KL(teacher, network) on real images."""
    teacher, real, _ = digits_teacher()
    with torch.no_grad():
        told, wanted = network.eval()(real).log_softmax(1), teacher(real).log_softmax(1)
    return float(F.kl_div(told, wanted, log_target=True, reduction="batchmean"))


@pytest.mark.slow
def test_fine_tuning_four_bits_on_the_images_does_not_reduce_the_agreement() -> None:
    """The agreement of labels does not fall either.

    Before, 255 of 256 agree; a few of them change with the processor, while the divergence halves.
    """
    network = quantized(4)
    images = made("bns+inception")
    calibrate(network, [images])
    before, labels = divergence(network), agreement(network)
    transfer = make(digits_teacher()[0], "bns+inception", images=128, iterations=150)
    settings_of = TrainSettings(epochs=10, lr=1e-3, batch_size=32, weight_decay=0.0)
    Training(
        network, transfer.train, settings_of, teacher=digits_teacher()[0], labelled=False, freeze_batch_norm=True
    ).run()
    assert divergence(network) < 0.75 * before
    assert agreement(network) >= labels - 2 / len(digits_teacher()[1])


# --- models without batch norm --------------------------------------------------------------------


def test_a_model_without_batch_norm_has_two_schemes() -> None:
    teacher = without_norms()
    space = Space(Policy({}), "stage")
    METHOD.search_space(space.scope("knowledge_within"), teacher)
    assert space.asked["knowledge_within.preset"].choices == ("inception", "gaussian")
    assert len(make(teacher, "gaussian", images=4).train) == 4
    inception = make(teacher, "inception", images=16, iterations=60)
    start = teacher_logits(teacher, images_of(make(teacher, "gaussian", images=16))).softmax(1).max(1).values.mean()
    assert teacher_logits(teacher, images_of(inception)).softmax(1).max(1).values.mean() > start
    with pytest.raises(LimitError, match="cannot be 'bns'"):
        params_of(teacher, scheme="bns")
    params = params_of(digits_teacher()[0], scheme="bns", images=4)
    with pytest.raises(InvalidRecipe, match=r"scheme 'bns' .*needs batch norm, and it has no batch norm"):
        METHOD.apply(teacher, params, Context(SIZE))


@pytest.mark.parametrize("key", ["scheme", "preset"])
def test_a_job_with_an_impossible_scheme_gets_a_reason(key: str) -> None:
    def job(value: object) -> Any:
        return load_job(model="test_resnet", data="digits", space={"knowledge_within": {key: value}})

    (reason,) = METHOD.check(without_norms(), job("bns"))
    assert reason.startswith("its scheme 'bns' needs batch norm, and it has no batch norm")
    assert METHOD.check(without_norms(), job(["gaussian", "bns"])), "a list that contains it"
    assert METHOD.check(without_norms(), job("gaussian")) == []
    assert METHOD.check(digits_teacher()[0], job("bns")) == []
    assert METHOD.check(without_norms(), example_job()) == []


def spoiled(how: str) -> nn.Module:
    """A teacher with batch norms whose statistics cannot be used."""
    model = TinyNet().eval()
    if how == "nan":
        model.bn2.running_mean.fill_(float("nan"))  # type: ignore[union-attr,operator]
    if how == "untracked":
        model.bn2 = nn.BatchNorm2d(24, track_running_stats=False)
    return described(model.eval(), SIZE, 10)


@pytest.mark.parametrize(
    ("how", "reason"),
    [("untrained", "recorded nothing yet"), ("nan", "are not finite"), ("untracked", "no running statistics")],
)
def test_without_statistics_a_job_must_name_a_scheme_that_needs_none(how: str, reason: str) -> None:
    def check(**limits: object) -> list[str]:
        return METHOD.check(
            spoiled(how), load_job(model="test_resnet", data="digits", space={"knowledge_within": limits})
        )

    (found,) = METHOD.check(spoiled(how), example_job())
    assert found.startswith("its scheme 'bns+inception' needs batch norm, and ")
    assert reason in found
    assert found.endswith("; 'inception' and 'gaussian' need none")
    assert check(images=4), "a limit on something else"
    assert check(scheme=["gaussian", "preset"]), "a preset may need them"
    assert check(scheme="gaussian") == check(scheme=["inception", "gaussian"]) == check(preset="gaussian") == []
    assert check(scheme="inception", preset="bns") == [], "the scheme overrides the preset"


@pytest.mark.parametrize("key", ["scheme", "preset"])
@pytest.mark.parametrize("typo", [1, [1], True, {"low": 1}])
def test_a_scheme_that_is_no_text_is_refused_by_the_space(key: str, typo: object) -> None:
    own = load_job(model="test_resnet", data="digits", space={"knowledge_within": {key: typo}})
    assert METHOD.check(digits_teacher()[0], own) == METHOD.check(without_norms(), own) == []
    with pytest.raises(LimitError, match=r"cannot be .*: it takes "):
        params_of(digits_teacher()[0], **{key: typo})


def test_a_teacher_without_recorded_statistics_is_refused() -> None:
    fresh = described(TinyNet().eval(), SIZE, 10)
    with pytest.raises(InvalidRecipe, match="recorded nothing yet"):
        make(fresh, "bns", images=4, iterations=1)


def test_the_loss_decreases() -> None:
    teacher = digits_teacher()[0]
    scores = [score(teacher, images_of(make(teacher, "bns", iterations=n))) for n in (1, 20, 80)]
    assert scores[0] > 2 * scores[1] > 4 * scores[2]
    assert F.mse_loss(made("bns"), made("inception")) > 0
