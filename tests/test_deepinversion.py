"""DeepInversion as a data source: its space, its images, and teachers for which it cannot act."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_teacher import SIZE, digits_teacher, untrained
from torch import nn

from autocompress.contract import Context, DataSource, Params, Space, TransferSet, manager
from autocompress.data import DataInfo
from autocompress.errors import UserError
from autocompress.recipes.choosers import Policy, Replay
from autocompress.synthesis import Phase, pixel_bounds, quality
from autocompress.testing import check_source, example_job, example_model
from autocompress_deepinversion import DeepInversion
from autocompress_deepinversion.objective import objective
from autocompress_deepinversion.settings import Settings, defaults_for

METHOD = DeepInversion()


def params_of(teacher: nn.Module, **values: Any) -> Params:
    limits = {f"deepinversion.{name}": value for name, value in values.items()}
    return METHOD.search_space(Space(Replay({}), "model", limits).scope("deepinversion"), teacher)


def make(
    teacher: nn.Module, student: nn.Module | None = None, seed: int = 0, most: int | None = None, **values: Any
) -> TransferSet:
    params = params_of(teacher, **{"images": 16, "iterations": 4, **values})
    cfg: Any = teacher.pretrained_cfg
    return METHOD.apply(teacher, params, Context(cfg["input_size"], seed=seed, images=most), student)


def images_of(made: TransferSet) -> torch.Tensor:
    return next(iter(made.train.loader(len(made.train))))[0]


# --- the contract ---------------------------------------------------------------------------------


def test_it_is_installed() -> None:
    (found,) = [method for method in manager().methods() if method.name == "deepinversion"]
    assert isinstance(found, DataSource)


def test_the_adaptive_preset_conforms() -> None:
    model = example_model()
    check_source(METHOD, model, params_of(model, preset="adaptive", images=12, iterations=3))


def test_only_the_preset_is_searched() -> None:
    space = Space(Policy({}), "stage")
    params = METHOD.search_space(space.scope("deepinversion"), untrained())
    assert params["preset"] == "plain"
    searched = {name for name, parameter in space.asked.items() if len(parameter.choices) != 1}
    assert searched == {"deepinversion.preset"}
    assert not any(parameter.structural for parameter in space.asked.values())
    assert not METHOD.adapts(params)
    assert METHOD.adapts(params_of(untrained(), preset="adaptive"))
    assert "competition" in params_of(untrained(), preset="adaptive")


def test_a_job_may_search_parameters_that_are_fixed_by_default() -> None:
    space = Space(Policy({}, otherwise="cheapest"), "stage", {"deepinversion.lr": {"low": 0.05, "high": 0.2}})
    METHOD.search_space(space.scope("deepinversion"), untrained())
    assert (space.asked["deepinversion.lr"].low, space.asked["deepinversion.lr"].high) == (0.05, 0.2)


# --- published settings ---------------------------------------------------------------------------


def test_published_settings_by_size() -> None:
    small, large = defaults_for((1, 32, 32)), defaults_for((3, 224, 224))
    assert (small.tv, small.l2, small.batch_size, small.flip, small.pooled) == (2.5e-5, 0.0, 256, False, False)
    assert (large.feature, large.tv, large.l2, large.competition, large.flip) == (0.01, 1e-4, 1e-5, 0.2, True)
    info = DataInfo(10, 3, (224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), ())
    pixels = large.pixels(info)
    assert pixels.phases == (Phase(2, 2000), Phase(1, 1000))
    assert (pixels.jitter, pixels.betas, pixels.warmup) == (30, (0.5, 0.9), 100)
    assert pixels.bounds is not None
    assert pixels.bounds[0] == pytest.approx((-2.118, -2.036, -1.804), abs=1e-3)
    assert pixels.bounds[1] == pytest.approx((2.249, 2.429, 2.640), abs=1e-3)
    assert defaults_for((3, 224, 224), fixed_size=True).pixels(info).phases == (Phase(1, 3000),)
    cifar = small.pixels(replace(info, size=(32, 32)))
    assert (cifar.jitter, cifar.betas, len(cifar.phases)) == (2, (0.9, 0.999), 1)


def test_unknown_parameters_are_refused() -> None:
    with pytest.raises(TypeError, match="no parameter 'alpha'"):
        Settings.of({"alpha": 1.0})


def test_competition_needs_a_student() -> None:
    assert "competition" not in objective(Settings(preset="adaptive"), has_student=False)
    assert objective(Settings(preset="adaptive"), has_student=True)["competition"][0] == Settings().competition


# --- what it makes --------------------------------------------------------------------------------


def test_images_have_all_classes_and_the_statistics_of_real_ones() -> None:
    teacher = digits_teacher()[0]
    made = make(teacher, images=64, batch_size=64, iterations=120)
    images = images_of(made)
    found, noise = quality(teacher, images, made.train.labels()), quality(teacher, torch.randn(64, *SIZE))
    counts = torch.bincount(made.train.labels(), minlength=10)
    assert ((counts - 6.4).abs().sum() / 2) / 64 <= 0.1  # 90 % of them get the balanced label that they were made for
    assert found["agreement"] == 100
    assert found["feature_distance"] <= 0.5 * noise["feature_distance"]
    assert found["confidence"] > 0.7
    low, high = (bound[0] for bound in pixel_bounds((0.3,), (0.35,)))
    assert images.min() >= low - 1e-6
    assert images.max() <= high + 1e-6
    assert made.soft_targets is None
    assert not made.labelled


def test_the_feature_term_matches_the_statistics() -> None:
    teacher = digits_teacher()[0]
    distances = {
        weight: quality(teacher, images_of(make(teacher, images=32, iterations=60, feature=weight)))
        for weight in (0.0, defaults_for(SIZE).feature)
    }
    without, with_term = (found["feature_distance"] for found in distances.values())
    assert without > 2 * with_term


def test_equal_seeds_give_equal_sets() -> None:
    teacher = untrained()
    first, again, other = (make(teacher, seed=seed) for seed in (0, 0, 1))
    assert first.digest == again.digest
    assert torch.equal(images_of(first), images_of(again))
    assert first.digest != other.digest


def test_images_are_made_in_batches_and_exactly_as_many_as_requested() -> None:
    teacher, told = untrained(), []
    params = params_of(teacher, images=50, batch_size=20, iterations=3)
    made = METHOD.apply(teacher, params, Context(SIZE, progress=lambda done, text="": told.append(done)))
    assert len(made.train) == 50
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1.0)
    assert len(told) == 9
    assert len(make(teacher, most=5, images=50).train) == 5
    assert len(make(teacher, most=500, images=10).train) == 10


def test_only_the_adaptive_preset_uses_the_student() -> None:
    teacher, student = untrained(), untrained(seed=1).train()
    state = copy.deepcopy(student.state_dict())
    plain, with_student = make(teacher, iterations=12), make(teacher, student, iterations=12)
    adaptive = make(teacher, student, preset="adaptive", iterations=12)
    first = make(teacher, preset="adaptive", iterations=12)
    assert plain.digest == with_student.digest == first.digest
    assert adaptive.digest != plain.digest
    alone = [METHOD.without_student(params_of(teacher, preset=preset)) for preset in ("plain", "adaptive")]
    assert alone[0] == alone[1] == params_of(teacher), "so that these images are made once and stored"
    assert all(torch.equal(state[name], tensor) for name, tensor in student.state_dict().items())
    assert student.training


def test_large_images_begin_pooled() -> None:
    teacher, sides = untrained((1, 80, 80)), []
    hook = teacher.register_forward_pre_hook(lambda _module, inputs: sides.append(inputs[0].shape[-1]))
    make(teacher, images=2, iterations=6)
    hook.remove()
    assert sides[:6] == [40] * 4 + [80] * 2


@pytest.mark.parametrize("size", [(1, 9, 9), (3, 16, 12), (12, 16, 16)], ids=str)
def test_any_channels_and_size(size: tuple[int, int, int]) -> None:
    assert images_of(make(untrained(size))).shape == (16, *size)


def test_one_class() -> None:
    made = make(untrained(classes=1))
    assert made.train.labels().tolist() == [0] * 16


# --- where it cannot ------------------------------------------------------------------------------


def folded(teacher: nn.Module) -> nn.Module:
    teacher = copy.deepcopy(teacher)
    for name in ("bn1", "bn2"):
        setattr(teacher, name, nn.Identity())
    return teacher


def test_a_teacher_without_batch_norms_is_refused() -> None:
    teacher = folded(untrained())
    (reason,) = METHOD.check(teacher, example_job())
    assert "no batch norm" in reason
    with pytest.raises(UserError, match="no batch norm"):
        make(teacher)
    assert len(make(teacher, feature=0.0).train) == 16  # an ablation that a job may ask for: without the feature term


def test_an_untrained_teacher_is_refused() -> None:
    model = untrained()
    for layer in (model.bn1, model.bn2):
        layer.reset_running_stats()  # type: ignore[union-attr, operator]
    (reason,) = METHOD.check(model, example_job())
    assert "never trained" in reason


def test_a_teacher_that_gives_nan_is_named() -> None:
    teacher = untrained()
    teacher.conv1.weight.data[0] = float("nan")  # type: ignore[union-attr, operator]
    with pytest.raises(UserError, match="outputs of the teacher are not finite"):
        make(teacher)
