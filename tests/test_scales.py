"""Uniform grids.

Exact checks from the quantization whitepaper (arXiv 1806.08342), for many ranges, bits and shapes.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autocompress.quantization.ops import dequantize
from autocompress.quantization.scales import (
    Levels,
    affine,
    quantize,
    signed_levels,
    symmetric,
    unsigned_levels,
)

BITS = st.integers(2, 8)
END = st.floats(-1e4, 1e4, width=32)


def scalar(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float32)


def representable(scale: torch.Tensor, zero: torch.Tensor, levels: Levels) -> tuple[torch.Tensor, torch.Tensor]:
    """The smallest and the largest number of a grid."""
    return (levels.low - zero) * scale, (levels.high - zero) * scale


def simulate(
    x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, levels: Levels, axis: int | None = None
) -> torch.Tensor:
    return dequantize(quantize(x, scale, zero, levels, axis), scale, zero, axis)


def sqnr(x: torch.Tensor, y: torch.Tensor) -> float:
    """The signal-to-noise ratio in decibels; 0 if all codes are zero."""
    return 10 * math.log10(float(x.double().square().sum() / (x - y).double().square().sum()))


@pytest.mark.parametrize(
    ("low", "high", "step", "zero"), [(-1.0, 3.0, 4 / 255, 64), (2.1, 3.5, 3.5 / 255, 0), (-3.0, -1.0, 3 / 255, 255)]
)
def test_the_examples_of_the_paper(low: float, high: float, step: float, zero: int) -> None:
    scale, zero_point = affine(scalar(low), scalar(high), unsigned_levels(8))
    assert float(scale) == pytest.approx(step, rel=1e-6)
    assert int(zero_point) == zero
    if zero == 64:
        ends = representable(scale, zero_point, unsigned_levels(8))
        assert [float(end) for end in ends] == pytest.approx([-1.00392, 2.99608], abs=1e-5)


def test_levels() -> None:
    assert unsigned_levels(8) == Levels(0, 255)
    assert signed_levels(8, narrow=True) == Levels(-127, 127)
    assert signed_levels(8, narrow=False) == Levels(-128, 127)
    assert signed_levels(2, narrow=True) == Levels(-1, 1)
    for wrong in (0, 9):
        with pytest.raises(ValueError, match="bits"):
            unsigned_levels(wrong)
    with pytest.raises(ValueError, match="bits"):
        signed_levels(1, narrow=True)


@given(END, END, BITS, st.booleans(), st.booleans())
def test_zero_is_exact(first: float, second: float, bits: int, signed: bool, is_symmetric: bool) -> None:
    levels = signed_levels(bits, narrow=is_symmetric) if signed else unsigned_levels(bits)
    low, high = scalar(min(first, second)), scalar(max(first, second))
    scale, zero = (symmetric if is_symmetric else affine)(low, high, levels)
    assert levels.low <= int(zero) <= levels.high
    assert float(scale) > 0
    assert float(simulate(scalar(0.0), scale, zero, levels)) == 0.0


@given(END, END, BITS, st.booleans(), st.integers(0, 2**31))
def test_the_error_of_an_affine_grid_is_half_a_step_and_values_outside_saturate(
    first: float, second: float, bits: int, signed: bool, seed: int
) -> None:
    levels = signed_levels(bits, narrow=False) if signed else unsigned_levels(bits)
    low, high = min(first, second, 0.0), max(first, second, 0.0)
    scale, zero = affine(scalar(low), scalar(high), levels)
    x = low + (high - low) * torch.rand(200, generator=torch.Generator().manual_seed(seed))
    y = simulate(x, scale, zero, levels)
    # The rounded zero point shifts the grid by up to half a step, so an end may be half a step
    # outside.
    assert float((x - y).abs().max()) <= float(scale) * 0.5 + 1e-6 * max(-low, high, 1.0)
    ends = representable(scale, zero, levels)
    assert float(simulate(scalar(low - 512 * float(scale)), scale, zero, levels)) == float(ends[0])
    assert float(simulate(scalar(high + 512 * float(scale)), scale, zero, levels)) == float(ends[1])
    assert float(simulate(scalar(math.inf), scale, zero, levels)) == float(ends[1])


@given(BITS, st.integers(0, 2**31), st.floats(1e-3, 1e3))
def test_a_symmetric_narrow_grid_never_clips(bits: int, seed: int, size: float) -> None:
    x = size * torch.randn(300, generator=torch.Generator().manual_seed(seed))
    levels = signed_levels(bits, narrow=True)
    scale, zero = symmetric(x.min(), x.max(), levels)
    codes = quantize(x, scale, zero, levels)
    assert int(zero) == 0
    assert int(codes.abs().max()) == 2 ** (bits - 1) - 1
    assert float((dequantize(codes, scale, zero) - x).abs().max()) <= float(scale) * 0.5 * (1 + 1e-5)


@given(BITS, st.integers(0, 2**31), st.booleans())
def test_simulating_twice_changes_nothing_and_values_are_few(bits: int, seed: int, is_symmetric: bool) -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(seed))
    levels = signed_levels(bits, narrow=True) if is_symmetric else unsigned_levels(bits)
    scale, zero = (symmetric if is_symmetric else affine)(x.min(), x.max(), levels)
    y = simulate(x, scale, zero, levels)
    assert torch.equal(simulate(y, scale, zero, levels), y)
    assert len(y.unique()) <= (2**bits - 1 if is_symmetric else 2**bits)


def test_each_bit_gains_six_decibels_and_the_error_is_uniform() -> None:
    x = torch.rand(200_000, generator=torch.Generator().manual_seed(0))
    ratios = []
    for bits in range(2, 9):
        levels = unsigned_levels(bits)
        scale, zero = affine(x.min(), x.max(), levels)
        y = simulate(x, scale, zero, levels)
        ratios.append(sqnr(x, y))
        assert float((x - y).square().mean()) == pytest.approx(float(scale) ** 2 / 12, rel=0.02)
    gains = [after - before for before, after in itertools.pairwise(ratios)]
    assert gains[-1] == pytest.approx(6.02, abs=0.1)  # 255 / 127 steps; few bits gain more: 7 / 3
    assert all(gain > 6 for gain in gains)


def test_scales_per_channel_on_channels_of_different_size() -> None:
    """32 channels with deviations from 0.01 to 10.

    At 8 bits, 33.9 dB become 43.6; at 4 bits, 12.0 become 18.6.
    """
    weight = torch.randn(32, 512, generator=torch.Generator().manual_seed(0)) * torch.logspace(-2, 1, 32)[:, None]
    for bits, whole_db, channel_db in ((8, 33.9, 43.6), (4, 12.0, 18.6)):
        levels = signed_levels(bits, narrow=True)
        scale, zero = symmetric(weight.min(), weight.max(), levels)
        scales, zeros = symmetric(*torch.aminmax(weight, dim=1), levels)
        assert bool((scales <= scale).all())
        whole, by_channel = simulate(weight, scale, zero, levels), simulate(weight, scales, zeros, levels, 0)
        assert sqnr(weight, whole) == pytest.approx(whole_db, abs=1.5)
        assert sqnr(weight, by_channel) == pytest.approx(channel_db, abs=1.5)
        worst = min(sqnr(weight[c], by_channel[c]) for c in range(32))
        assert not whole[0].any()  # the smallest channel is all zeros
        assert worst > (38 if bits == 8 else 13)


@given(BITS, st.integers(0, 2**31), st.integers(1, 6), st.sampled_from([0, 1]))
def test_channels_of_equal_range_need_one_scale(bits: int, seed: int, channels: int, axis: int) -> None:
    weight = torch.rand(channels, 50, generator=torch.Generator().manual_seed(seed)) - 0.5
    weight[:, 0], weight[:, 1] = 1.0, -1.0
    weight = weight.movedim(0, axis)
    levels = signed_levels(bits, narrow=True)
    one = symmetric(weight.min(), weight.max(), levels)
    each = symmetric(weight.amin(1 - axis), weight.amax(1 - axis), levels)
    assert torch.equal(quantize(weight, *one, levels), quantize(weight, *each, levels, axis))


@given(BITS, st.integers(0, 2**31), st.integers(-8, 8))
def test_scaling_a_channel_does_not_change_its_codes(bits: int, seed: int, power: int) -> None:
    """Therefore the scale of a folded batch norm does not matter with scales per channel.

    The factors are powers of two, so that floats are exact.
    """
    weight = torch.randn(5, 50, generator=torch.Generator().manual_seed(seed))
    scaled = weight.clone()
    scaled[2] *= 2.0**power
    levels = signed_levels(bits, narrow=True)
    codes = [quantize(w, *symmetric(*torch.aminmax(w, dim=1), levels), levels, 0) for w in (weight, scaled)]
    assert torch.equal(*codes)


def test_nonnegative_values_gain_a_bit_on_an_asymmetric_grid() -> None:
    low, high = scalar(0.0), scalar(2.54)
    asymmetric_scale, _ = affine(low, high, signed_levels(8, narrow=False))
    symmetric_scale, _ = symmetric(low, high, signed_levels(8, narrow=True))
    assert float(asymmetric_scale) == pytest.approx(2.54 / 255)
    assert float(symmetric_scale) == pytest.approx(2.54 / 127)


def test_symmetric_activations_have_the_signed_grid_with_an_offset() -> None:
    levels = unsigned_levels(8)
    assert [float(v) for v in symmetric(scalar(0.0), scalar(2.55), levels)] == pytest.approx([0.01, 0])
    assert [float(v) for v in symmetric(scalar(-1.27), scalar(1.0), levels)] == pytest.approx([0.01, 128])


@given(BITS, st.integers(0, 2**31), st.booleans())
def test_integer_arithmetic_gives_the_same_product(bits: int, seed: int, narrow: bool) -> None:
    """Equations 4 to 6, with the factor and the count that are missing in print."""
    random = torch.Generator().manual_seed(seed)
    x, weight = torch.randn(7, 20, generator=random) + 0.5, torch.randn(5, 20, generator=random)
    x_levels, w_levels = unsigned_levels(bits), signed_levels(bits, narrow=narrow)
    x_scale, x_zero = affine(x.min(), x.max(), x_levels)
    w_scale, w_zero = (symmetric if narrow else affine)(*torch.aminmax(weight, dim=1), w_levels)
    x_codes, w_codes = quantize(x, x_scale, x_zero, x_levels), quantize(weight, w_scale, w_zero, w_levels, 0)
    whole = (
        x_codes @ w_codes.T
        - w_zero * x_codes.sum(1, keepdim=True)
        - x_zero * w_codes.sum(1)
        + x.shape[1] * w_zero * x_zero
    )
    simulated = dequantize(x_codes, x_scale, x_zero) @ dequantize(w_codes, w_scale, w_zero, 0).T
    torch.testing.assert_close(whole * w_scale * x_scale, simulated, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("is_symmetric", [True, False])
def test_a_dead_channel_stays_zero(is_symmetric: bool) -> None:
    weight = torch.stack([torch.zeros(9), torch.linspace(-1, 1, 9), torch.full((9,), 1e-30)])
    levels = signed_levels(8, narrow=is_symmetric)
    scale, zero = (symmetric if is_symmetric else affine)(*torch.aminmax(weight, dim=1), levels)
    result = simulate(weight, scale, zero, levels, 0)
    assert bool(torch.isfinite(scale).all())
    assert not result[0].any()
    assert not result[2].any()
    assert bool(torch.isfinite(result).all())
