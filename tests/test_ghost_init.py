"""Initialisation of ghost modules from trained convolutions.

Pairing, least squares, exactness (checks 5 and 6).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autocompress_ghost.fit import Covariance, NormalEquations
from autocompress_ghost.initialise import initialise
from autocompress_ghost.module import GhostConv2d
from autocompress_ghost.pairing import channel_order, fit_errors, intrinsic_rows
from autocompress_ghost.work import Work


def batches(channels: int = 6, size: int = 9) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        yield torch.randn(16, channels, size, size, generator=generator), torch.zeros(16, dtype=torch.int64)


def ghostable(channels: int, ratio: int, *, positive: bool = False, bias: bool = False) -> nn.Conv2d:
    """A convolution whose shuffled filters are multiples of ``ceil(n / s)`` filters."""
    generator = torch.Generator().manual_seed(0)
    conv = nn.Conv2d(6, channels, 3, padding=1, bias=bias)
    m = -(-channels // ratio)
    with torch.no_grad():
        base = torch.randn(m, 6, 3, 3, generator=generator)
        factors = torch.rand(channels, generator=generator) + 0.5
        if not positive:
            factors = factors * torch.where(torch.rand(channels, generator=generator) < 0.5, -1.0, 1.0)
        owners = torch.cat([torch.arange(m), torch.arange(channels - m) // (ratio - 1)])
        rows = base[owners] * factors[:, None, None, None]
        conv.weight.copy_(rows[torch.randperm(channels, generator=generator)])
    return conv


def filled(kind: str, conv: nn.Conv2d, ratio: int, kernel: int = 3, **activated: nn.Module) -> GhostConv2d:
    norm, activation = activated.get("norm"), activated.get("activation")
    module = GhostConv2d(conv, ratio, kernel, norm=norm, activation=activation).eval()  # type: ignore[arg-type]
    work = Work(module, conv, norm, activation)  # type: ignore[arg-type]
    initialise(kind, {"0": work}, nn.Sequential(conv), batches, torch.device("cpu"))
    return module


@pytest.mark.parametrize("ratio", [2, 3, 5])
@pytest.mark.parametrize("kind", ["lstsq", "subset"])
@pytest.mark.parametrize("bias", [False, True])
def test_multiples_are_exact(kind: str, ratio: int, bias: bool) -> None:
    """If filters are multiples of others, the module equals the convolution."""
    conv = ghostable(20, ratio, bias=bias)
    module = filled(kind, conv, ratio)
    images = next(batches())[0]
    torch.testing.assert_close(module(images), conv(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", [nn.ReLU(), None])
def test_activated_multiples_are_exact(activation: nn.Module | None) -> None:
    conv, norm = ghostable(20, 2, positive=True), nn.BatchNorm2d(20).eval()
    tail = nn.Sequential(norm, activation or nn.Identity())
    taken = {"norm": norm} | ({"activation": activation} if activation else {})
    images = next(batches())[0]
    torch.testing.assert_close(filled("lstsq", conv, 2, **taken)(images), tail(conv(images)), rtol=1e-4, atol=1e-5)


def test_errors_fall_from_zero_kernel_to_centre_tap_to_least_squares() -> None:
    """The errors are those on the images of the fit."""
    torch.manual_seed(0)
    maps = torch.randn(8, 5, 12, 12)
    smooth = nn.functional.avg_pool2d(maps, 3, 1, 1) + 0.3 * maps
    equations = NormalEquations(torch.tensor([0, 1]), torch.tensor([2, 3, 4]), torch.tensor([0, 0, 1]), 3)
    target = torch.cat([maps[:, :2], smooth[:, [0, 0, 1]]], 1)
    equations.add(target, target)
    zero = equations.errors(torch.zeros(3, 9, dtype=torch.float64))
    centre = equations.errors(equations.centre_tap())
    fitted = equations.errors(equations.solve())
    assert (fitted < 0.1 * centre).all()
    assert (centre < zero).all()


def test_normal_equations_are_those_of_the_cheap_convolution() -> None:
    """The error of the fit is that of the cheap convolution, apart from borders and thinning."""
    torch.manual_seed(0)
    maps = torch.randn(4, 4, 10, 10)
    equations = NormalEquations(torch.tensor([0, 2]), torch.tensor([1, 3]), torch.tensor([0, 1]), 3)
    equations.add(maps, maps)
    theta = equations.solve()
    cheap = nn.functional.conv2d(maps[:, [0, 2]].double(), theta.view(2, 1, 3, 3), padding=1, groups=2)
    left = maps[:, [1, 3]].double() - cheap
    torch.testing.assert_close(left.transpose(0, 1).flatten(1).var(1, correction=0), equations.errors(theta))
    mean, variance = equations.output_moments(theta)
    torch.testing.assert_close(cheap.mean((0, 2, 3)), mean)
    torch.testing.assert_close(cheap.transpose(0, 1).flatten(1).var(1, correction=0), variance, rtol=0.1, atol=0)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(4, 40), ratio=st.integers(2, 5), seed=st.integers(0, 99))
def test_order_is_a_permutation(n: int, ratio: int, seed: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(n, 7))
    order = channel_order(rows @ rows.T, ratio)
    assert sorted(order) == list(range(n))


def test_one_row_of_each_family_is_intrinsic_beyond_the_rank_too() -> None:
    """Twelve directions in five dimensions, with two multiples of each.

    Pivoted QR alone would fail after five.
    """
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(12, 5))
    rows = np.concatenate([directions, directions * rng.uniform(-2, 2, size=(12, 1))])
    assert sorted(intrinsic_rows(rows @ rows.T, 12) % 12) == list(range(12))


def test_intrinsic_rows_start_like_pivoted_qr() -> None:
    rows = np.random.default_rng(0).normal(size=(12, 30))
    _, pivots = scipy.linalg.qr(rows.T, mode="r", pivoting=True)
    assert set(pivots[:2]) == set(intrinsic_rows(rows @ rows.T, 2))


def test_assignment_beats_the_plain_order() -> None:
    rows = np.random.default_rng(0).normal(size=(24, 5))
    gram = rows @ rows.T
    order = channel_order(gram, 3)
    chosen = fit_errors(gram, order[8:], order[:8])[np.arange(16), np.arange(16) % 8].sum()
    plain = fit_errors(gram, np.sort(order[8:]), order[:8])[np.arange(16), np.arange(16) % 8].sum()
    assert chosen < 0.8 * plain


def test_dead_channels_give_zero_kernels_not_nan() -> None:
    conv = nn.Conv2d(6, 16, 3, padding=1)
    with torch.no_grad():
        conv.weight[::2] = 0
        conv.bias.zero_()
    module = filled("lstsq", conv, 2)
    assert all(parameter.isfinite().all() for parameter in module.parameters())


def test_covariance_of_channels() -> None:
    maps = torch.randn(6, 5, 4, 4) + 100.0
    covariance = Covariance()
    covariance.add(maps[:2])
    covariance.add(maps[2:])
    expected = np.cov(maps.transpose(0, 1).flatten(1).double().numpy(), bias=True)
    np.testing.assert_allclose(covariance.matrix().numpy(), expected, rtol=1e-3, atol=1e-4)


def test_random_initialisation_leaves_new_weights_in_order() -> None:
    conv = nn.Conv2d(6, 16, 3)
    module = GhostConv2d(conv, 2, 3)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    initialise("random", {"0": Work(module, conv, None)}, nn.Sequential(conv), batches, torch.device("cpu"))
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
