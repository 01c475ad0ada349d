"""Objectives on pixels: terms have the exact values of their papers, and norms are recorded."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d
from torch import nn

from autocompress.synthesis import (
    NormInput,
    View,
    channel_statistics,
    class_loss,
    competition,
    feature_distance,
    image_norm,
    jensen_shannon,
    norm_layers,
    reasons_against_statistics,
    soft_target_loss,
    total_variation,
    watching_norms,
)

LN2 = math.log(2)


def view(images: torch.Tensor, **more: Any) -> View:
    return View(images, more.pop("logits", torch.zeros(len(images), 3)), **more)


# --- priors ---------------------------------------------------------------------------------------


def test_total_variation_of_a_constant_is_zero() -> None:
    flat = view(torch.full((2, 3, 8, 8), 0.7))
    assert total_variation("l2")(flat) == 0
    assert total_variation("l1")(flat) == 0


def test_total_variation_of_an_impulse() -> None:
    image = torch.zeros(1, 1, 8, 8)
    image[0, 0, 4, 4] = 1
    assert float(total_variation()(view(image))) == pytest.approx(4 * math.sqrt(2), rel=1e-6)


def test_total_variation_of_a_step() -> None:
    image = torch.zeros(1, 1, 8, 8)
    image[..., 4:] = 1
    assert float(total_variation()(view(image))) == pytest.approx(math.sqrt(8) + 2 * math.sqrt(7), rel=1e-6)
    assert float(total_variation("l1")(view(image))) == pytest.approx(3 / 7, rel=1e-6)


@given(times=st.integers(1, 5), channels=st.sampled_from([1, 3, 12]), side=st.integers(1, 9))
@settings(max_examples=15, deadline=None)
def test_how_priors_scale_with_the_batch(times: int, channels: int, side: int) -> None:
    x = torch.randn(2, channels, side, side + 1, generator=torch.Generator().manual_seed(side))
    one, many = view(x), view(x.repeat(times, 1, 1, 1))
    assert float(total_variation()(many)) == pytest.approx(math.sqrt(times) * float(total_variation()(one)), rel=1e-5)
    for unchanged in (total_variation("l1"), image_norm):
        assert float(unchanged(many)) == pytest.approx(float(unchanged(one)), rel=1e-5)


def test_priors_have_gradients_at_a_black_image() -> None:
    for term in (total_variation(), total_variation("l1"), image_norm):
        x = torch.zeros(2, 1, 4, 4, requires_grad=True)
        (grad,) = torch.autograd.grad(term(view(x)), x)
        assert torch.isfinite(grad).all()


def test_image_norm_is_a_mean_of_norms() -> None:
    x = torch.zeros(2, 1, 2, 2)
    x[0], x[1, 0, 0] = 1.0, torch.tensor([3.0, 4.0])
    assert float(image_norm(view(x))) == pytest.approx((2 + 5) / 2)


# --- targets --------------------------------------------------------------------------------------


def test_losses_to_labels_and_to_soft_targets() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 3.0]])
    labels, soft = torch.tensor([0, 2]), torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    x = torch.zeros(2, 1, 2, 2)
    expected = -logits.log_softmax(1)[torch.arange(2), labels].mean()
    assert torch.allclose(class_loss(view(x, logits=logits, targets=labels)), expected)
    expected = -(soft * (logits / 4).log_softmax(1)).sum(1).mean()
    assert torch.allclose(soft_target_loss(4.0)(view(x, logits=logits, targets=soft)), expected)
    with pytest.raises(ValueError, match="needs labels"):
        class_loss(view(x, logits=logits))


# --- Jensen-Shannon -------------------------------------------------------------------------------


def logs(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).log()


def test_jensen_shannon_at_known_points() -> None:
    p, q = logs(0.8, 0.2), logs(0.2, 0.8)
    assert float(jensen_shannon(p, p)) == pytest.approx(0, abs=1e-12)
    assert float(jensen_shannon(p, q)) == pytest.approx(0.192745, abs=1e-6)
    assert float(jensen_shannon(logs(0.9, 0.1), logs(0.1, 0.9))) == pytest.approx(0.368064, abs=1e-6)
    assert float(jensen_shannon(logs(1, 0, 0), logs(0, 1, 0))) == pytest.approx(LN2, abs=1e-12)


@given(classes=st.integers(1, 50), sharpness=st.floats(0.01, 100), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_jensen_shannon_is_symmetric_and_bounded(classes: int, sharpness: float, seed: int) -> None:
    logits = sharpness * torch.randn(2, 4, classes, generator=torch.Generator().manual_seed(seed))
    p, q = logits.log_softmax(-1)
    found = jensen_shannon(p, q)
    assert torch.allclose(found, jensen_shannon(q, p), atol=1e-6)
    assert bool((found >= -1e-6).all())
    assert bool((found <= LN2 + 1e-6).all())


def test_competition_is_between_its_bounds_and_has_a_gradient_at_both() -> None:
    certain = torch.tensor([[60.0, 0.0], [60.0, 0.0]])
    x = torch.zeros(2, 1, 2, 2)
    agree, apart = certain, certain.flip(1)
    for student, expected in ((agree, 1.0), (apart, 1 - LN2)):
        value = competition()(view(x, logits=certain, student_logits=student))
        assert float(value) == pytest.approx(expected, abs=1e-6)
    # Almost uniform over many classes. Clamped probabilities would be equal, without a gradient.
    logits = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0)).requires_grad_()
    value = competition()(view(x, logits=logits, student_logits=torch.zeros(2, 1000)))
    (grad,) = torch.autograd.grad(value, logits)
    assert float(grad.abs().sum()) > 0
    with pytest.raises(ValueError, match="needs a student"):
        competition()(view(x, logits=certain))


# --- statistics -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (4, 3, 5, 6), (1, 3, 1, 1), (2, 3, 2, 3, 4)], ids=str)
def test_channel_statistics_and_their_gradient(shape: Sequence[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = (100 + 0.3 * torch.randn(*shape, generator=generator, dtype=torch.float64)).requires_grad_()
    dims = [d for d in range(len(shape)) if d != 1]
    mean, variance = channel_statistics(x)
    expected = torch.var_mean(x, dims, correction=0)
    assert torch.allclose(mean, expected[1])
    assert torch.allclose(variance, expected[0], rtol=1e-6, atol=1e-10)
    weights = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    found, wanted = (
        torch.autograd.grad((weights[0] * m + weights[1] * v).sum(), x)[0]
        for m, v in ((mean, variance), (expected[1], expected[0]))
    )
    assert torch.allclose(found, wanted)


def test_channel_statistics_in_any_layout_and_precision() -> None:
    x = torch.randn(4, 3, 6, 5, generator=torch.Generator().manual_seed(0))
    plain = channel_statistics(x)
    for other in (x.contiguous(memory_format=torch.channels_last), x.half(), x.bfloat16()):
        mean, variance = channel_statistics(other)
        assert mean.dtype == variance.dtype == torch.float32
        assert torch.allclose(mean, plain[0], atol=2e-2)
        assert torch.allclose(variance, plain[1], atol=2e-2)


def of(features: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor) -> View:
    found = channel_statistics(features)
    return view(features, norms=(NormInput("norm", *found, mean, variance, 1e-5),))


@given(channels=st.integers(1, 40), shift=st.floats(-3, 3), scale=st.floats(0.1, 3))
@settings(max_examples=20, deadline=None)
def test_feature_distance_of_shifted_and_scaled_features(channels: int, shift: float, scale: float) -> None:
    x = torch.randn(8, channels, 4, 4, generator=torch.Generator().manual_seed(channels))
    variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    x = (x - mean.view(1, -1, 1, 1)) / variance.sqrt().view(1, -1, 1, 1)
    zero, one = torch.zeros(channels), torch.ones(channels)
    root = math.sqrt(channels)
    assert float(feature_distance()(of(x, zero, one))) <= 1e-5
    assert float(feature_distance()(of(x + shift, zero, one))) == pytest.approx(abs(shift) * root, abs=2e-4)
    assert float(feature_distance()(of(x * scale, zero, one))) == pytest.approx(abs(scale**2 - 1) * root, abs=2e-4)


def test_the_first_norm_may_have_a_larger_weight() -> None:
    x = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    first, second = (of(x * scale, torch.zeros(2), torch.ones(2)).norms[0] for scale in (2.0, 3.0))
    parts = [float(feature_distance()(view(x, norms=(norm,)))) for norm in (first, second)]
    both = view(x, norms=(first, second))
    assert float(feature_distance()(both)) == pytest.approx(sum(parts))
    assert float(feature_distance(10.0)(both)) == pytest.approx(10 * parts[0] + parts[1])
    with pytest.raises(ValueError, match="no batch norm"):
        feature_distance()(view(x))


# --- watching -------------------------------------------------------------------------------------


def with_statistics(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for layer in norm_layers(model).values():
        layer.running_mean.normal_(generator=generator)  # type: ignore[union-attr, operator]
    return model.eval()


@pytest.mark.parametrize("layer", [nn.BatchNorm2d, BatchNormAct2d, FrozenBatchNormAct2d])
def test_the_inputs_of_every_kind_of_batch_norm_are_recorded(layer: type[nn.Module]) -> None:
    model = with_statistics(nn.Sequential(nn.Conv2d(3, 4, 3), layer(4), nn.ReLU(), nn.Conv2d(4, 5, 3), layer(5)))
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with watching_norms(model) as seen:
        for _ in range(2):  # each pass begins a new list
            model(x)
        assert [norm.name for norm in seen] == ["1", "4"]
        assert torch.allclose(seen[0].mean, model[0](x).mean((0, 2, 3)), atol=1e-5)  # type: ignore[index]
        assert torch.equal(seen[1].reference_mean, model[4].running_mean)  # type: ignore[index]
        assert all(norm.mean.requires_grad for norm in seen)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    model(torch.zeros(1, 3, 8, 8))
    assert len(seen) == 2


@pytest.mark.parametrize("name", ["resnet10t", "test_efficientnet", "mobilenetv3_small_050"])
def test_all_batch_norms_are_recorded(name: str) -> None:
    model = timm.create_model(name, num_classes=3).eval()
    count = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    with torch.no_grad(), watching_norms(model) as seen:
        model(torch.zeros(2, 3, 32, 32))
        assert len(seen) == len(norm_layers(model)) == count > 0


def test_hooks_are_removed_after_an_error() -> None:
    model = with_statistics(nn.Sequential(nn.BatchNorm2d(3)))
    with pytest.raises(KeyboardInterrupt), watching_norms(model):
        raise KeyboardInterrupt
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_instance_norms_are_not_recorded() -> None:
    assert not norm_layers(nn.Sequential(nn.InstanceNorm2d(3, track_running_stats=True)))


def test_reasons_why_statistics_cannot_be_used() -> None:
    trained = with_statistics(nn.Sequential(nn.BatchNorm2d(3)))
    assert reasons_against_statistics(trained) == []
    infinite = copy.deepcopy(trained)
    infinite[0].running_var[1] = float("nan")  # type: ignore[index]
    for model, word in (
        (nn.Sequential(nn.Conv2d(3, 3, 3), nn.LayerNorm(3)), "no batch norm"),
        (nn.Sequential(nn.Identity(), nn.Conv2d(3, 3, 3)), "folded into layers such as '1'"),
        (nn.Sequential(nn.BatchNorm2d(3)), "never trained"),
        (nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)), "track_running_stats"),
        (infinite, "not finite"),
    ):
        (reason,) = reasons_against_statistics(model)
        assert word in reason
