"""The ghost module.

Shapes, sizes, and the intrinsic map of each ghost.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import Conv2dSame
from torch import nn

from autocompress.graph import trace
from autocompress_ghost.module import GhostConv2d, GhostSpec, compression_ratio, intrinsic_count, weight_count


@settings(max_examples=40, deadline=None)
@given(
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.sampled_from([1, 2]),
    dilation=st.sampled_from([1, 2]),
    channels=st.integers(16, 37),
    ratio=st.integers(2, 5),
    cheap=st.sampled_from([1, 3, 5]),
    restore=st.booleans(),
    bias=st.booleans(),
)
def test_the_output_shape_is_that_of_the_convolution(
    kernel: int, stride: int, dilation: int, channels: int, ratio: int, cheap: int, restore: bool, bias: bool
) -> None:
    host = nn.Conv2d(3, channels, kernel, stride, kernel // 2, dilation, bias=bias)
    module = GhostConv2d(host, ratio, cheap, restore=restore)
    images = torch.randn(2, 3, 11, 14)
    assert module(images).shape == host(images).shape


@pytest.mark.parametrize("padding", ["same", "valid", 0, (2, 0)])
def test_padding_is_copied_from_the_host(padding: str | int | tuple[int, int]) -> None:
    host = nn.Conv2d(3, 16, 3, padding=padding)
    images = torch.randn(1, 3, 9, 9)
    assert GhostConv2d(host, 2, 3)(images).shape == host(images).shape


def test_tensorflow_style_padding_is_kept() -> None:
    host = Conv2dSame(3, 16, 3, stride=2)
    images = torch.randn(1, 3, 10, 10)
    assert GhostConv2d(host, 2, 3)(images).shape == host(images).shape


def test_parameters_of_a_bare_module() -> None:
    module = GhostConv2d(nn.Conv2d(64, 64, 3, padding=1, bias=False), ratio=2, cheap_kernel=3)
    assert sum(p.numel() for p in module.parameters()) == 18432 + 288
    assert compression_ratio(64, 64, (3, 3), 2, 3) == pytest.approx(1.969, abs=5e-4)
    assert compression_ratio(64, 64, (1, 1), 2, 3) == pytest.approx(1.753, abs=5e-4)


@settings(max_examples=30, deadline=None)
@given(
    c=st.integers(1, 9), n=st.integers(2, 40), k=st.sampled_from([1, 3]), s=st.integers(2, 5), d=st.sampled_from([1, 3])
)
def test_parameters_follow_the_formula(c: int, n: int, k: int, s: int, d: int) -> None:
    m = math.ceil(n / s)
    module = GhostConv2d(nn.Conv2d(c, n, k, bias=False), s, d)
    expected = m * c * k**2 + m * (s - 1) * d**2
    assert sum(p.numel() for p in module.parameters()) == expected == weight_count(c, n, (k, k), s, d)


def test_surplus_ghosts_are_sliced_off() -> None:
    module = GhostConv2d(nn.Conv2d(4, 10, 3, padding=1), ratio=3, cheap_kernel=3)
    assert intrinsic_count(10, 3) == module.primary.out_channels == 4
    assert sum(cheap.out_channels for cheap in module.cheap) == 8
    assert module(torch.randn(1, 4, 5, 5)).shape[1] == 10


def test_a_ghost_depends_on_its_own_intrinsic_map_only() -> None:
    ratio, m = 3, 4
    module = GhostConv2d(nn.Conv2d(2, m * ratio, 3, padding=1, bias=False), ratio, 3, restore=False)
    seen: list[torch.Tensor] = []
    module.primary.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    out = module(torch.randn(1, 2, 6, 6))
    for i in range(m):
        for j in range(ratio - 1):
            (gradient,) = torch.autograd.grad(out[:, m + j * m + i].sum(), seen[0], retain_graph=True)
            touched = gradient.abs().sum((0, 2, 3)) > 0
            assert touched.nonzero().flatten().tolist() == [i]


def test_the_order_of_channels_is_restored_or_reported() -> None:
    host = nn.Conv2d(3, 16, 1, bias=False)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0)).tolist()
    restoring = GhostConv2d(host, 2, 1, order=order)
    folded = GhostConv2d(host, 2, 1, order=order, restore=False)
    folded.load_state_dict(restoring.state_dict())
    images = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(restoring(images)[:, order], folded(images))
    assert GhostSpec().channel_map(restoring).tolist() == list(range(16))
    assert GhostSpec().channel_map(folded).tolist() == order


def test_gather_depends_on_the_flag_and_not_on_the_order() -> None:
    host = nn.Conv2d(3, 16, 1)

    def operators(module: nn.Module) -> list[str]:
        return [str(node.target) for node in trace(nn.Sequential(module)).graph.nodes]

    shuffled = GhostConv2d(host, 2, 3, order=list(reversed(range(16))))
    assert operators(GhostConv2d(host, 2, 3)) == operators(shuffled)
    assert "index_select" in operators(shuffled)
    assert "index_select" not in operators(GhostConv2d(host, 2, 3, restore=False))


def test_activated_module_activates_before_the_cheap_convolution() -> None:
    module = GhostConv2d(nn.Conv2d(3, 16, 1), 2, 1, norm=nn.BatchNorm2d(16), activation=nn.ReLU()).eval()
    fed: list[torch.Tensor] = []
    module.cheap[0].register_forward_hook(lambda _module, inputs, _output: fed.append(inputs[0]))
    assert module(torch.randn(4, 3, 5, 5)).min() >= 0
    assert fed[0].min() >= 0


def test_a_module_without_an_activation_has_negative_outputs() -> None:
    """The second module of a bottleneck has no ReLU."""
    module = GhostConv2d(nn.Conv2d(3, 16, 1), 2, 3, norm=nn.BatchNorm2d(16), restore=False).eval()
    out = module(torch.randn(4, 3, 5, 5))
    assert out[:, :8].min() < 0
    assert out[:, 8:].min() < 0


def test_ratio_one_is_refused() -> None:
    with pytest.raises(ValueError, match="keep the convolution"):
        GhostConv2d(nn.Conv2d(3, 16, 1), ratio=1, cheap_kernel=3)
