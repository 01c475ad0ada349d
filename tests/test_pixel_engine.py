"""The optimisation of pixels.

It decreases its objective, does not change the teacher, and is repeatable.
"""

from __future__ import annotations

import copy
import itertools
import math
import time
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_teacher import SIZE, digits_teacher, untrained
from torch import nn

from autocompress.errors import TrialFailed, UserError
from autocompress.synthesis import (
    Optimised,
    Phase,
    PixelSettings,
    View,
    balanced_labels,
    class_loss,
    competition,
    feature_distance,
    learning_rate,
    optimise_pixels,
    pixel_bounds,
    starting_noise,
    total_variation,
)

FEW = PixelSettings(phases=(Phase(1, 6),), jitter=2, flip=True)
CLASS = {"class": (1.0, class_loss)}


def noise(n: int = 8, size: tuple[int, int, int] = SIZE, seed: int = 0) -> torch.Tensor:
    return starting_noise(n, size, torch.Generator().manual_seed(seed))


def run(teacher: nn.Module, start: torch.Tensor | None = None, objective: Any = None, **options: Any) -> Optimised:
    start = noise() if start is None else start
    asked = {"settings": FEW, "targets": torch.arange(len(start)) % 10, "seed": 0, **options}
    return optimise_pixels(teacher, start, objective or CLASS, **asked)


def seen_by(teacher: nn.Module, settings: PixelSettings, start: torch.Tensor, seed: int = 0) -> list[torch.Tensor]:
    """Every view that the teacher gets."""
    seen: list[torch.Tensor] = []

    def record(view: View) -> torch.Tensor:
        seen.append(view.images.detach().clone())
        return view.logits.square().mean()

    run(teacher, start, {"watch": (1.0, record)}, settings=settings, seed=seed)
    return seen


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    return digits_teacher()[0]


# --- it works -------------------------------------------------------------------------------------


def test_images_get_their_classes_and_the_statistics_of_real_ones(teacher: nn.Module) -> None:
    labels = balanced_labels(64, 10, torch.Generator().manual_seed(0))
    long = PixelSettings(phases=(Phase(1, 100),), lr=0.1, jitter=1)
    with_features = {**CLASS, "feature": (1.0, feature_distance())}
    found = run(teacher, noise(64), with_features, settings=long, targets=labels)
    without = run(teacher, noise(64), {**CLASS, "feature": (1e-9, feature_distance())}, settings=long, targets=labels)
    at_start = run(teacher, noise(64), with_features, settings=replace(long, phases=(Phase(1, 1),)), targets=labels)
    assert (teacher(found.images).argmax(1) == labels).float().mean() >= 0.9
    assert found.losses["total"] < at_start.losses["total"]
    assert found.losses["feature"] <= 0.5 * at_start.losses["feature"]
    assert without.losses["feature"] >= 2 * found.losses["feature"]


def test_competition_makes_images_on_which_a_student_disagrees(teacher: nn.Module) -> None:
    torch.manual_seed(1)
    real = digits_teacher()[1]
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.25 * parameter.std() * torch.randn_like(parameter))
    assert (student(real).argmax(1) == teacher(real).argmax(1)).float().mean() > 0.8
    agreement, wanted = {}, torch.arange(64) % 10
    for weight in (0.0, 10.0):
        found = run(
            teacher,
            noise(64),
            {**CLASS, "competition": (weight, competition())},
            settings=PixelSettings(phases=(Phase(1, 60),), lr=0.1),
            targets=wanted,
            student=student,
        ).images
        agreement[weight] = float((teacher(found).argmax(1) == student(found).argmax(1)).float().mean())
    assert agreement[10.0] < agreement[0.0] - 0.3


# --- what it leaves alone -------------------------------------------------------------------------


class Interrupts:
    """A term that raises an interrupt or an error in the third iteration."""

    def __init__(self, error: BaseException) -> None:
        self.error, self.calls = error, 0

    def __call__(self, view: View) -> torch.Tensor:
        self.calls += 1
        if self.calls == 3:
            raise self.error
        return view.logits.square().mean()


@pytest.mark.parametrize("error", [None, KeyboardInterrupt(), RuntimeError("out of memory")], ids=repr)
def test_teacher_and_student_are_not_changed(error: BaseException | None) -> None:
    teacher, student = untrained(), untrained(seed=1).train()
    student.bn1.eval()  # type: ignore[union-attr]
    teacher.fc.bias.requires_grad_(False)  # type: ignore[union-attr]
    for parameter in student.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = [copy.deepcopy(model.state_dict()) for model in (teacher, student)]
    modes = [[module.training for module in model.modules()] for model in (teacher, student)]
    random, start = torch.get_rng_state(), noise()
    objective = {**CLASS, "competition": (1.0, competition()), "feature": (1.0, feature_distance())}
    if error is None:
        run(teacher, start, objective, student=student)
    else:
        with pytest.raises(type(error)):
            run(teacher, start, {**objective, "error": (1.0, Interrupts(error))}, student=student)
    for model, state, training in zip((teacher, student), before, modes, strict=True):
        after = model.state_dict()
        assert all(torch.equal(state[name], after[name]) for name in state)
        assert [module.training for module in model.modules()] == training
        assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(bool((parameter.grad == 1).all()) for parameter in student.parameters() if parameter.grad is not None)
    assert [name for name, parameter in teacher.named_parameters() if not parameter.requires_grad] == ["fc.bias"]
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert torch.equal(random, torch.get_rng_state())
    assert torch.equal(start, noise())


def test_a_teacher_in_training_mode_is_run_in_eval_mode() -> None:
    teacher = untrained()
    expected = run(teacher)
    found = run(teacher.train())
    assert torch.equal(found.images, expected.images)
    assert teacher.training


# --- seeds ----------------------------------------------------------------------------------------


def test_equal_seeds_give_equal_images() -> None:
    teacher = untrained()
    first, second, other = (run(teacher, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.images, second.images)
    assert first.losses == second.losses
    assert not torch.equal(first.images, other.images)


# --- schedule -------------------------------------------------------------------------------------


def test_learning_rate_warms_up_and_falls_with_a_cosine() -> None:
    rates = [learning_rate(PixelSettings(lr=2.0), step, 2000) for step in range(2000)]
    assert rates[0] == pytest.approx(2.0 / 100)
    assert rates[99] == rates[100] == 2.0
    assert rates[1999] == pytest.approx(2.0 * 6.8e-7, rel=0.02)
    assert all(a > b for a, b in itertools.pairwise(rates[100:]))


def test_short_and_constant_schedules() -> None:
    short = [learning_rate(PixelSettings(lr=1.0), step, 40) for step in range(40)]
    assert max(short) == short[9] == short[10] == 1.0
    assert all(rate > 0 for rate in short)
    constant = PixelSettings(lr=0.5, schedule="constant", warmup=0)
    assert {learning_rate(constant, step, 30) for step in range(30)} == {0.5}
    assert learning_rate(PixelSettings(lr=0.5), 0, 1) == 0.5


# --- views ----------------------------------------------------------------------------------------


def test_without_shift_and_flip_the_teacher_sees_the_pixels() -> None:
    start = noise()
    assert torch.equal(seen_by(untrained(), PixelSettings(phases=(Phase(1, 3),)), start)[0], start)


@given(size=st.sampled_from([(1, 8, 8), (3, 9, 14), (12, 16, 16)]), jitter=st.integers(1, 5), flip=st.booleans())
@settings(max_examples=6, deadline=None)
def test_shifts_keep_every_value(size: tuple[int, int, int], jitter: int, flip: bool) -> None:
    start = noise(4, size)
    settings = PixelSettings(phases=(Phase(1, 1),), jitter=jitter, flip=flip)
    (seen,) = seen_by(untrained(size), settings, start)
    shifts = [(d, r) for d in range(-jitter, jitter + 1) for r in range(-jitter, jitter + 1)]
    possible = [torch.roll(start, shift, (2, 3)) for shift in shifts]
    possible += [image.flip(3) for image in possible] if flip else []
    assert any(torch.equal(seen, image) for image in possible)  # one shift for the whole batch
    assert float(seen.sum()) == pytest.approx(float(start.sum()), abs=1e-3)
    assert float(seen.norm()) == pytest.approx(float(start.norm()), rel=1e-5)


def test_shifts_and_flips_are_drawn_in_every_iteration() -> None:
    start = noise(1)
    still = PixelSettings(phases=(Phase(1, 24),), jitter=2, flip=True, lr=1e-12)
    views = seen_by(untrained(), still, start)
    assert len({tuple(view.round(decimals=3).flatten()[:8].tolist()) for view in views}) > 12
    shifts = [torch.roll(start, (d, r), (2, 3)) for d in range(-2, 3) for r in range(-2, 3)]
    mirrored = [not any(torch.allclose(view, shift, atol=1e-4) for shift in shifts) for view in views]
    assert 0 < sum(mirrored) < len(views)


def test_a_pooled_phase_uses_half_the_size() -> None:
    start = noise(2, (1, 17, 16))
    seen = seen_by(untrained((1, 17, 16)), PixelSettings(phases=(Phase(2, 2), Phase(1, 1))), start)
    assert [tuple(view.shape[2:]) for view in seen] == [(8, 8), (8, 8), (17, 16)]
    assert torch.allclose(seen[0], F.avg_pool2d(start, 2))


def test_shifts_of_a_pooled_phase_cover_the_same_distance() -> None:
    start = noise(2)
    seen = seen_by(untrained(), PixelSettings(phases=(Phase(2, 24),), jitter=3, lr=1e-12), start)
    pooled = F.avg_pool2d(start, 2)
    possible = [torch.roll(pooled, (down, right), (2, 3)) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    assert all(any(torch.allclose(view, image, atol=1e-4) for image in possible) for view in seen)
    assert not all(torch.allclose(view, pooled, atol=1e-4) for view in seen)


def test_clamped_pixels_are_between_black_and_white() -> None:
    mean, std = (0.2, 0.5, 0.8), (0.1, 0.25, 0.5)
    free, clamped = (
        run(
            untrained((3, 16, 16)),
            3 * noise(4, (3, 16, 16)),
            settings=PixelSettings(phases=(Phase(1, 10),), lr=0.3, bounds=bounds),
        ).images
        for bounds in (None, pixel_bounds(mean, std))
    )
    scale = [torch.tensor(values).view(1, 3, 1, 1) for values in (std, mean)]
    pixels, unbounded = (images * scale[0] + scale[1] for images in (clamped, free))
    assert pixels.min() >= -1e-6
    assert pixels.max() <= 1 + 1e-6
    assert unbounded.max() > 1


def test_raw_pixels_are_normalised_for_the_teacher() -> None:
    teacher, raw = untrained(), torch.rand(8, *SIZE, generator=torch.Generator().manual_seed(0))
    settings = PixelSettings(phases=(Phase(1, 5),), bounds=((0.0,), (1.0,)), normalise=((0.3,), (0.35,)))
    assert torch.allclose(seen_by(teacher, settings, raw)[0], (raw - 0.3) / 0.35)
    found = run(teacher, raw, settings=settings).images
    low, high = (bound[0] for bound in pixel_bounds((0.3,), (0.35,)))
    assert found.min() == pytest.approx(low)  # black, in the units of the teacher
    assert found.max() <= high + 1e-6


def test_each_step_is_a_step_of_adam_with_the_current_gradient() -> None:
    """If the gradient is 1 everywhere, Adam moves every pixel by the learning rate."""
    seen = []

    def linear(view: View) -> torch.Tensor:
        seen.append(view.images.detach().clone())
        return view.images.sum()

    steady = PixelSettings(phases=(Phase(1, 4),), lr=0.01, schedule="constant", warmup=0)
    run(untrained(), noise(), {"linear": (1.0, linear)}, settings=steady)
    for step, images in enumerate(seen):
        assert torch.allclose(images, noise() - 0.01 * step, atol=1e-5)


# --- which iterate is kept ------------------------------------------------------------------------


def test_images_and_losses_are_of_the_same_iteration() -> None:
    teacher = untrained()
    still = PixelSettings(phases=(Phase(1, 12),), lr=0.5, schedule="constant", warmup=0)
    found = run(teacher, settings=still, objective={**CLASS, "tv": (0.01, total_variation())})
    logits = teacher(found.images)
    again = View(found.images, logits, targets=torch.arange(8) % 10)
    assert found.losses["class"] == pytest.approx(float(class_loss(again).detach()), rel=1e-5)
    assert found.losses["tv"] == pytest.approx(float(total_variation()(again)), rel=1e-5)
    assert found.losses["total"] == pytest.approx(found.losses["class"] + 0.01 * found.losses["tv"], rel=1e-5)


def test_images_of_the_iteration_with_the_lowest_objective_are_kept() -> None:
    """The objective is low in the third of six iterations only."""
    values, seen = iter([5.0, 4.0, 1.0, 7.0, 8.0, 9.0]), []

    def staged(view: View) -> torch.Tensor:
        seen.append(view.images.detach().clone())
        return view.images.sum() * 1e-6 + next(values)

    found = run(untrained(), objective={"staged": (1.0, staged)}, settings=PixelSettings(phases=(Phase(1, 6),)))
    assert torch.equal(found.images, seen[2])
    assert not torch.equal(found.images, seen[-1])
    assert found.losses["staged"] == pytest.approx(1.0, abs=1e-2)


def test_earlier_phases_do_not_count() -> None:
    """The pooled phase has the lower objective, as in the published logs."""
    sizes = []

    def lower_where_pooled(view: View) -> torch.Tensor:
        sizes.append(view.images.shape[-1])
        return view.images.square().mean() + (100.0 if view.images.shape[-1] == 16 else 0.0)

    phases = PixelSettings(phases=(Phase(2, 5), Phase(1, 5)), lr=0.05)
    found = run(untrained(), objective={"loss": (1.0, lower_where_pooled)}, settings=phases)
    assert sizes == [8] * 5 + [16] * 5
    assert found.losses["total"] > 100
    assert found.iterations == 10


# --- limits and failures --------------------------------------------------------------------------


def test_a_deadline_leaves_time_for_the_last_phase() -> None:
    sizes: list[int] = []

    def slow(view: View) -> torch.Tensor:
        sizes.append(view.images.shape[-1])
        time.sleep(0.01)
        return view.images.square().mean()

    phases = PixelSettings(phases=(Phase(2, 4000), Phase(1, 1000)))
    found = run(untrained(), objective={"slow": (1.0, slow)}, settings=phases, deadline=0.4)
    assert found.seconds < 4
    assert 0 < sizes.count(16) == found.iterations - sizes.count(8)
    assert run(untrained(), settings=phases, deadline=0.0).iterations == 2


def test_progress_and_pause_are_called() -> None:
    told: list[float] = []
    paused: list[int] = []
    run(untrained(), progress=lambda done, text="": told.append(done), pause=lambda: paused.append(1))
    assert told == pytest.approx([n / 6 for n in range(1, 7)])
    assert len(paused) == 6


def test_a_teacher_with_nan_outputs_is_an_error_for_the_user() -> None:
    broken = untrained()
    broken.fc.weight.data[0, 0] = float("nan")  # type: ignore[union-attr, operator]
    with pytest.raises(UserError, match="outputs of the teacher are not finite"):
        run(broken)


def test_an_objective_that_fails_names_its_term() -> None:
    calls = itertools.count()

    def breaks(view: View) -> torch.Tensor:
        return view.images.sum() * (math.nan if next(calls) == 2 else 1.0)

    with pytest.raises(TrialFailed, match=r"'odd' is nan at iteration 2"):
        run(untrained(), objective={**CLASS, "odd": (1.0, breaks)})


def test_invalid_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="no term with a weight"):
        run(untrained(), objective={"class": (0.0, class_loss)})
    for phases in ((), (Phase(1, 0),), (Phase(0, 5),)):
        with pytest.raises(ValueError, match="must be at least one phase"):
            PixelSettings(phases=phases)


@pytest.mark.parametrize("size", [(1, 8, 8), (3, 16, 12), (12, 9, 9)], ids=str)
def test_any_channels_size_and_one_class(size: tuple[int, int, int]) -> None:
    teacher = untrained(size, classes=1)
    found = run(
        teacher,
        noise(4, size),
        {**CLASS, "feature": (1.0, feature_distance())},
        targets=balanced_labels(4, 1, torch.Generator()),
    )
    assert found.images.shape == (4, *size)
    assert found.losses["class"] == 0
