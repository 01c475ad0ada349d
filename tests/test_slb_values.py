"""SLB's values, expectation and arg-max: exact values."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autocompress_slb.values import best, expectation, nearest, odd_integers, probabilities, values

BITS = st.integers(1, 4)
TEMPERATURES = st.floats(0.01, 1e4)


def random_logits(bits: int, weights: int = 200, seed: int = 0) -> torch.Tensor:
    return torch.randn(2**bits, weights, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def read(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    bits = int(math.log2(len(logits)))
    return expectation(logits, odd_integers(bits).to(logits) / (2**bits - 1), temperature)


def discrete(logits: torch.Tensor) -> torch.Tensor:
    bits = int(math.log2(len(logits)))
    return (odd_integers(bits).to(logits) / (2**bits - 1))[best(logits).long()]


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_values_are_evenly_spaced_without_zero(bits: int) -> None:
    v = values(bits)
    assert len(v) == 2**bits
    assert float(v.mean()) == pytest.approx(0, abs=1e-7)
    assert not (v == 0).any()
    torch.testing.assert_close(v.diff(), torch.full((2**bits - 1,), 2 / (2**bits - 1)))
    assert (v[0], v[-1]) == (-1, 1)


def test_values_of_two_bits_are_thirds() -> None:
    torch.testing.assert_close(values(2), torch.tensor([-1, -1 / 3, 1 / 3, 1]))
    assert odd_integers(2).tolist() == [-3, -1, 1, 3]


@pytest.mark.parametrize("bits", [0, 5, 8])
def test_other_numbers_of_bits_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="1 to 4 bits"):
        values(bits)


@given(BITS, TEMPERATURES)
def test_expectation_lies_within_the_values(bits: int, temperature: float) -> None:
    logits = random_logits(bits).reshape(2**bits, 5, 4, 10)
    p = probabilities(logits, temperature)
    torch.testing.assert_close(p.sum(0), torch.ones(5, 4, 10, dtype=p.dtype))
    weight = read(logits, temperature)
    assert weight.shape == (5, 4, 10)
    assert float(weight.abs().max()) <= 1 + 1e-12


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_at_a_high_temperature_expectation_is_the_arg_max(bits: int) -> None:
    logits = random_logits(bits, 2000)
    top = logits.topk(2, 0)
    logits.scatter_add_(0, top.indices[:1], (0.01 - (top.values[:1] - top.values[1:])).clamp(min=0))
    assert float((read(logits, 1e4) - discrete(logits)).abs().max()) < 1e-6
    assert float(probabilities(logits, 1e4).amax(0).min()) > 1 - 1e-6


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_at_a_low_temperature_all_values_are_equally_likely(bits: int) -> None:
    logits = random_logits(bits)
    torch.testing.assert_close(read(logits, 1e-9), torch.zeros(200, dtype=torch.float64), atol=1e-7, rtol=0)
    torch.testing.assert_close(probabilities(logits, 1e-9), torch.full_like(logits, 2.0**-bits), atol=1e-7, rtol=0)


@given(BITS, TEMPERATURES, st.integers(0, 100))
def test_the_gap_is_bounded_at_every_temperature(bits: int, temperature: float, seed: int) -> None:
    logits = random_logits(bits, seed=seed)
    undecided = 1 - probabilities(logits, temperature).amax(0)
    top = logits.topk(2, 0).values
    assert bool(((read(logits, temperature) - discrete(logits)).abs() <= 2 * undecided + 1e-12).all())
    bound = (2**bits - 1) * torch.exp(-temperature * (top[0] - top[1]))
    assert bool((undecided <= bound + 1e-12).all())


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_weights_approach_one_value_as_the_temperature_grows(bits: int) -> None:
    logits = random_logits(bits, 100_000)  # with 2,000 weights, results vary by a tenth at T = 16
    steps = [0.25, 0.5, 1, 2, 4, 8, 16]
    undecided = torch.stack([1 - probabilities(logits, t).amax(0) for t in steps])
    assert bool((undecided.diff(dim=0) <= 0).all())
    gaps = torch.stack([(read(logits, t) - discrete(logits)).abs() for t in steps])
    assert bool((gaps.mean(1).diff() < 0).all())
    if bits == 1:  # otherwise, single weights may move away from their arg-max for a while
        assert bool((gaps.diff(dim=0) <= 1e-12).all())
        expected = torch.tensor([0.861, 0.736, 0.548, 0.343, 0.189, 0.096, 0.048], dtype=gaps.dtype)
        torch.testing.assert_close(gaps.mean(1), expected, rtol=0.05, atol=0)


@given(TEMPERATURES)
def test_one_bit_is_an_annealed_tanh(temperature: float) -> None:
    logits = random_logits(1)
    expected = torch.tanh(temperature * (logits[1] - logits[0]) / 2)
    torch.testing.assert_close(read(logits, temperature), expected, atol=1e-6, rtol=0)


@given(BITS, st.floats(0.1, 50), st.booleans())
def test_the_gradient_is_exact(bits: int, temperature: float, far: bool) -> None:
    """T P (V - W_c), and autograd's gradient through softmax and sum.

    It is not cut off outside of a window.
    """
    logits = (random_logits(bits) * (5 if far else 1)).reshape(2**bits, 10, 20).requires_grad_()
    slope = torch.randn(10, 20, dtype=torch.float64)
    v = (odd_integers(bits).to(logits) / (2**bits - 1)).reshape(-1, 1, 1)
    (found,) = torch.autograd.grad(read(logits, temperature), logits, slope)
    p = torch.softmax(logits * temperature, 0)
    (by_autograd,) = torch.autograd.grad((p * v).sum(0), logits, slope, retain_graph=True)
    by_hand = slope * temperature * p * (v - (p * v).sum(0))
    torch.testing.assert_close(found, by_hand.detach(), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found, by_autograd, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found.sum(0), torch.zeros_like(slope), atol=1e-6, rtol=0)


def test_the_gradient_is_exact_beyond_one_block_of_weights() -> None:
    logits = torch.randn(4, 40_000, requires_grad=True)
    v, slope = values(2), torch.randn(40_000)
    (found,) = torch.autograd.grad(expectation(logits, v, 2.0), logits, slope)
    (expected,) = torch.autograd.grad((torch.softmax(logits * 2.0, 0) * v[:, None]).sum(0), logits, slope)
    torch.testing.assert_close(found, expected)


@given(BITS, st.floats(1e-3, 1e3), st.integers(0, 50))
def test_the_arg_max_does_not_depend_on_the_temperature(bits: int, factor: float, seed: int) -> None:
    logits = random_logits(bits, seed=seed)
    shift = torch.randn(200, dtype=torch.float64)
    assert torch.equal(best(logits), logits.argmax(0).to(torch.uint8))
    assert torch.equal(best(logits), best(logits * factor))
    assert torch.equal(best(logits), best(logits + shift))


def test_of_equal_logits_the_first_wins() -> None:
    assert not best(torch.zeros(4, 7)).any()


@given(BITS, st.floats(-3, 3, width=32))
def test_nearest_is_the_arg_max_of_the_distance(bits: int, u: float) -> None:
    point = torch.tensor([u])
    distance = (point - values(bits)).abs()
    assert float(distance[int(nearest(point, bits))]) == pytest.approx(float(distance.min()), abs=1e-6)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_nothing_overflows_in_half_precision(kind: torch.dtype) -> None:
    logits = (8 * torch.randn(4, 3, 2, 3, 3)).requires_grad_()
    x = torch.randn(2, 2, 8, 8)
    with torch.autocast("cpu", dtype=kind):
        weight = expectation(logits, values(2), 1e6)
        y = torch.nn.functional.conv2d(x, weight)
    assert weight.dtype == torch.float32
    assert y.dtype == kind
    y.float().sum().backward()
    assert logits.grad is not None
    assert bool(y.isfinite().all() and logits.grad.isfinite().all())
    narrow = expectation(logits.detach().to(kind), values(2), 1e6)
    assert bool(narrow.isfinite().all())
