"""Terms of The Knowledge Within: the divergence of Gaussians, and the prior of images."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from autocompress.synthesis import NormInput, View, feature_distance
from autocompress.synthesis.terms_gaussian import batch_norm_divergence, blur_residual, blurred, gaussian_divergence
from autocompress_knowledge_within.method import DIVERGENCES


def norm(mean: Any, std: Any, new_mean: Any, new_std: Any, eps: float = 0.0) -> NormInput:
    """A norm with recorded mean and std, and measured ones."""
    m, s, n, t = (torch.as_tensor(v, dtype=torch.float64).reshape(-1) for v in (mean, std, new_mean, new_std))
    return NormInput("bn", n, t.square(), m, s.square(), eps)


# --- the divergence -------------------------------------------------------------------------------


VALUES = [
    # recorded mean and std, measured mean and std, KL(measured || recorded), KL(recorded ||
    # measured)
    ((0, 1, 0, 1), 0.0, 0.0),
    ((0, 1, 1, 1), 0.5, 0.5),
    ((0, 1, 0, 2), 0.806853, 0.318147),
    ((0, 2, 0, 1), 0.318147, 0.806853),
    ((0, math.sqrt(2), 0, 1), 0.096574, 0.153426),
]


@pytest.mark.parametrize(("values", "expected", "other"), VALUES)
def test_values_of_the_divergence(values: tuple[float, ...], expected: float, other: float) -> None:
    mean, std, new_mean, new_std = map(float, values)
    recorded, measured = Normal(mean, std), Normal(new_mean, new_std)
    found = gaussian_divergence(norm(*values)).item()
    assert found == pytest.approx(expected, abs=1e-6)
    assert found == pytest.approx(kl_divergence(measured, recorded).item(), abs=1e-6)
    found = gaussian_divergence(norm(*values), "recorded").item()
    assert found == pytest.approx(other, abs=1e-6)
    assert found == pytest.approx(kl_divergence(recorded, measured).item(), abs=1e-6)


means = st.floats(-5, 5)
stds = st.floats(0.05, 5)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@given(m=means, s=stds, n=means, t=stds, a=st.floats(0.1, 10))
@settings(max_examples=50, deadline=None)
def test_the_divergence_is_not_negative_and_does_not_depend_on_the_scale(
    divergence: Any, m: float, s: float, n: float, t: float, a: float
) -> None:
    found = gaussian_divergence(norm(m, s, n, t), divergence).item()
    assert found >= -1e-9
    first, second = (Normal(n, t), Normal(m, s)) if divergence == "measured" else (Normal(m, s), Normal(n, t))
    assert found == pytest.approx(kl_divergence(first, second).item(), rel=1e-4, abs=1e-5)
    scaled = gaussian_divergence(norm(a * m, a * s, a * n, a * t), divergence).item()
    assert scaled == pytest.approx(found, rel=1e-9, abs=1e-9)


def test_the_distance_of_features_depends_on_the_scale() -> None:
    view = [View(torch.zeros(1, 1, 1, 1), torch.zeros(1, 2), (norm(0, a, a, 2 * a),)) for a in (1.0, 3.0)]
    assert feature_distance()(view[1]) > 2 * feature_distance()(view[0])


@pytest.mark.parametrize("divergence", DIVERGENCES)
@given(m=means, s=stds, shift=st.floats(-0.02, 0.02), spread=st.floats(-0.02, 0.02))
@settings(max_examples=30, deadline=None)
def test_small_deviations(divergence: Any, m: float, s: float, shift: float, spread: float) -> None:
    """A shift of d deviations costs d^2 / 2.

    A relative error e of the deviation costs about e^2.
    """
    shifted = gaussian_divergence(norm(m, s, m + shift * s, s), divergence).item()
    assert shifted == pytest.approx(shift**2 / 2, rel=1e-6, abs=1e-12)
    spread_only = gaussian_divergence(norm(m, s, m, s * (1 + spread)), divergence).item()
    assert spread_only == pytest.approx(spread**2, rel=0.1, abs=1e-12)  # the next term has the third order


def test_a_collapsed_channel_has_a_large_divergence_and_a_dead_one_a_finite_one() -> None:
    for divergence, growth in (("measured", 1.4), ("recorded", 50)):  # by the logarithm, or by 1 / variance
        collapsed = [gaussian_divergence(norm(0, 1, 0, std), divergence).item() for std in (1e-1, 1e-2, 1e-3)]  # type: ignore[arg-type]
        assert collapsed[2] > growth * collapsed[1] > growth**2 * collapsed[0]
        assert gaussian_divergence(norm(0, 0, 0, 0, eps=1e-5), divergence).item() == 0  # type: ignore[arg-type]
        assert math.isfinite(gaussian_divergence(norm(0, 0, 1, 0, eps=1e-5), divergence).item())  # type: ignore[arg-type]


def test_the_divergence_is_averaged_over_channels_then_layers() -> None:
    norms = (norm([0, 0], [1, 1], [1, 0], [1, 1]), norm([0], [1], [0], [2]))
    images = torch.tensor([-2.0, 0.0, 2.0, 4.0], dtype=torch.float64).reshape(2, 2, 1, 1)
    # Two channels, (-2, 2) and (0, 4): means 0 and 2, variance 4 each, against N(0, 1).
    of_images = (0.806853 + 0.806853 + 2) / 2
    found = batch_norm_divergence()(View(images, torch.zeros(2, 2), norms)).item()
    assert found == pytest.approx((of_images + 0.25 + 0.806853) / 3, abs=1e-4)
    with pytest.raises(ValueError, match="no batch norm"):
        batch_norm_divergence()(View(torch.zeros(1, 1, 1, 1), torch.zeros(1, 2)))


# --- the prior ------------------------------------------------------------------------------------


@given(channels=st.integers(1, 5), height=st.integers(1, 9), width=st.integers(1, 9), radius=st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_blurring_does_not_change_flat_images_away_from_borders(
    channels: int, height: int, width: int, radius: int
) -> None:
    flat = torch.rand(2, channels, 1, 1).expand(-1, -1, height, width)
    inside = (..., slice(radius, max(height - radius, 0)), slice(radius, max(width - radius, 0)))
    smooth = blurred(flat, radius=radius)
    assert smooth.shape == flat.shape
    torch.testing.assert_close(smooth[inside], flat[inside])
    board = ((torch.arange(height)[:, None] + torch.arange(width)) % 2).float().expand(2, channels, -1, -1)
    if height * width > 1:
        assert float(blur_residual(radius=radius)(View(board, torch.zeros(2, 2)))) > 0.01


def test_the_kernel_is_that_of_the_authors() -> None:
    """5x5, sigma 1, normalised, on an image padded with zeros."""
    spot = torch.zeros(1, 2, 7, 7)
    spot[:, :, 3, 3] = 1.0
    line = torch.tensor([math.exp(-(place**2) / 2) for place in range(-2, 3)])
    kernel = line[:, None] * line
    torch.testing.assert_close(blurred(spot)[0, 1, 1:6, 1:6], kernel / kernel.sum())
    assert float(blurred(spot).sum()) == pytest.approx(2, rel=1e-5)
    corner = blurred(torch.ones(1, 1, 9, 9))[0, 0, 0, 0]
    assert float(corner) == pytest.approx(float((line[2:].sum() / line.sum()) ** 2), rel=1e-5)


def test_the_prior_decreases_under_optimisation() -> None:
    images = torch.randn(4, 3, 8, 8, requires_grad=True)
    values = []
    for _ in range(30):
        value = blur_residual()(View(images, torch.zeros(4, 2)))
        (gradient,) = torch.autograd.grad(value, images)
        images = (images - 200 * gradient).detach().requires_grad_()
        values.append(value.item())
    assert values[-1] < 0.05 * values[0]
