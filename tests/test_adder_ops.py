"""AdderNet's operators in torch.

The checks of the paper, gradients, dtypes, memory formats, and torch's tools.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from autocompress_adder.kernels import plain
from autocompress_adder.ops import adder2d, sad2d

ONE, NONE = [1, 1], [0, 0]


def images(*rows: Sequence[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32)[None, None]


def test_a_distance_by_hand() -> None:
    assert adder2d(images([1, 2], [3, 4]), images([0, 1], [2, 5]), ONE, NONE).tolist() == [[[[-4.0]]]]
    x, weight = (one.byte() for one in (images([1, 2], [3, 4]), images([0, 1], [2, 5])))
    assert sad2d(x, weight, ONE, NONE, 0).tolist() == [[[[4]]]]


def test_outputs_are_at_most_zero_and_zero_only_if_patch_and_filter_are_equal() -> None:
    x, weight = torch.randn(2, 3, 6, 6), torch.randn(4, 3, 3, 3)
    weight[2] = x[1, :, 2:5, 1:4]
    for p in (1.0, 1.5, 2.0):
        out = adder2d(x, weight, ONE, NONE, p)
        assert out.max() <= 0
        if p < 2:  # the matrix product for p = 2 has rounding errors
            assert (out == 0).nonzero().tolist() == [[1, 2, 2, 1]]


def test_padding_is_compared_with_the_filters() -> None:
    out = adder2d(torch.ones(1, 1, 3, 3), torch.full((1, 1, 3, 3), 2.0), ONE, ONE)
    assert out[0, 0].tolist() == [[-14, -12, -14], [-12, -9, -12], [-14, -12, -14]]


def test_integers_pad_with_the_zero_point() -> None:
    x, weight = torch.full((1, 1, 3, 3), 129).byte(), torch.full((1, 1, 3, 3), 130).byte()
    assert sad2d(x, weight, ONE, ONE, 128)[0, 0].tolist() == [[14, 12, 14], [12, 9, 12], [14, 12, 14]]


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 1)])
def test_it_equals_cdist_and_the_broadcast_form(stride: int, padding: int) -> None:
    x, weight = torch.randn(2, 16, 9, 9), torch.randn(8, 16, 3, 3)
    out = adder2d(x, weight, [stride] * 2, [padding] * 2)
    patches = functional.unfold(x, 3, padding=padding, stride=stride).transpose(1, 2)
    cdist = -torch.cdist(patches, weight.flatten(1).expand(2, 8, -1), p=1.0).transpose(1, 2).reshape(out.shape)
    wanted = plain.adder2d(x.double(), weight.double(), [stride] * 2, [padding] * 2)
    assert ((out - cdist) / wanted).abs().max() <= 2e-6
    assert ((out - wanted) / wanted).abs().max() <= 2e-6


def test_sums_of_many_taps_stay_exact() -> None:
    x, weight = torch.randn(1, 512, 7, 7), torch.randn(8, 512, 3, 3)
    wanted = plain.adder2d(x.double(), weight.double(), ONE, ONE)
    assert ((adder2d(x, weight, ONE, ONE) - wanted) / wanted).abs().max() <= 2e-6


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0])
def test_the_gradient_of_a_filter_is_that_of_half_the_squared_distance(p: float) -> None:
    x, weight = torch.randn(2, 3, 6, 6), torch.randn(4, 3, 3, 3)
    slope = torch.randn(2, 4, 3, 6)
    ours = weight.clone().requires_grad_()
    adder2d(x, ours, [2, 1], ONE, p).backward(slope)
    theirs = weight.double().requires_grad_()
    (plain.adder2d(x.double(), theirs, [2, 1], ONE, 2.0) / 2).backward(slope.double())
    torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0])
@pytest.mark.parametrize(("difference", "gradient"), [(3.0, -1.0), (0.5, -0.5), (-3.0, 1.0)])
def test_the_gradient_of_an_input_is_clipped(difference: float, gradient: float, p: float) -> None:
    x, weight = torch.full((1, 1, 1, 1), 7 + difference, requires_grad=True), torch.full((1, 1, 1, 1), 7.0)
    adder2d(x, weight, ONE, NONE, p).sum().backward()
    assert x.grad.item() == gradient


def test_the_gradient_of_an_input_is_autograds_where_nothing_is_clipped() -> None:
    x, weight = 0.2 * torch.rand(2, 3, 6, 6), 0.2 * torch.rand(4, 3, 3, 3)
    slope = torch.randn(2, 4, 3, 6)
    ours = x.clone().requires_grad_()
    adder2d(ours, weight, [2, 1], ONE).backward(slope)
    theirs = x.double().requires_grad_()
    (plain.adder2d(theirs, weight.double(), [2, 1], ONE, 2.0) / 2).backward(slope.double())
    torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-5, atol=1e-5)


def test_an_equal_shift_changes_nothing_and_a_shared_scale_scales() -> None:
    x, weight = torch.randn(2, 3, 6, 6), torch.randn(4, 3, 3, 3)
    out = adder2d(x, weight, ONE, NONE)
    torch.testing.assert_close(adder2d(x + 3, weight + 3, ONE, NONE), out, rtol=1e-5, atol=0)
    torch.testing.assert_close(adder2d(2.5 * x, 2.5 * weight, ONE, NONE), 2.5 * out, rtol=1e-5, atol=0)
    unequal = adder2d(2.5 * x, 2 * weight, ONE, NONE)
    assert not any(torch.allclose(unequal, scale * out, rtol=1e-2) for scale in (2, 2.25, 2.5))
    integers = (torch.randint(0, 200, shape, dtype=torch.uint8) for shape in ((2, 3, 6, 6), (4, 3, 3, 3)))
    x, weight = integers
    assert torch.equal(sad2d(x + 50, weight + 50, ONE, ONE, 57), sad2d(x, weight, ONE, ONE, 7))


@pytest.mark.parametrize("channels", [1, 7, 63, 64, 65])
def test_integers_equal_the_integer_reference(channels: int) -> None:
    x, weight = (torch.randint(0, 256, shape).byte() for shape in ((2, channels, 7, 6), (5, channels, 3, 3)))
    wanted = plain.sad2d(x, weight, [1, 2], [2, 1], 3)
    assert torch.equal(sad2d(x, weight, [1, 2], [2, 1], 3), wanted)
    exact = adder2d(functional.pad(x.float(), (1, 1, 2, 2), value=3.0), weight.float(), [1, 2], NONE)
    assert torch.equal(-exact.int(), wanted)


@pytest.mark.parametrize("shape", [(0, 3, 6, 6), (2, 0, 6, 6)], ids=["no images", "no channels"])
@pytest.mark.parametrize("filters", [0, 4])
def test_empty_inputs_give_empty_outputs(shape: tuple[int, ...], filters: int) -> None:
    x, weight = torch.randn(shape, requires_grad=True), torch.randn(filters, shape[1], 3, 3, requires_grad=True)
    for p in (1.0, 1.5, 2.0):
        out = adder2d(x, weight, ONE, ONE, p)
        assert out.shape == (shape[0], filters, 6, 6)
        assert not out.any()
    out.sum().backward()
    assert x.grad.shape == x.shape
    assert not weight.grad.any()
    found = sad2d(x.detach().byte(), weight.detach().byte(), ONE, ONE, 0)
    assert found.shape == out.shape
    assert not found.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs_are_computed_in_float32(dtype: torch.dtype) -> None:
    x, weight = torch.randn(2, 8, 6, 6).to(dtype).requires_grad_(), torch.randn(4, 8, 3, 3).to(dtype).requires_grad_()
    out = adder2d(x, weight, ONE, ONE)
    wanted = adder2d(x.detach().float(), weight.detach().float(), ONE, ONE)
    assert out.dtype == dtype
    assert torch.equal(out, wanted.to(dtype))
    out.sum().backward()
    assert x.grad.dtype == weight.grad.dtype == dtype
    assert adder2d(x, weight.float(), ONE, ONE).dtype == torch.float32


def test_double_precision_stays_double() -> None:
    x, weight = torch.randn(2, 3, 6, 6).double().requires_grad_(), torch.randn(4, 3, 3, 3).double().requires_grad_()
    out = adder2d(x, weight, [2, 1], ONE)
    slope = torch.randn_like(out)
    out.backward(slope)
    torch.testing.assert_close(out, plain.adder2d(x, weight, [2, 1], ONE))
    wanted = plain.gradients(slope, x.detach(), weight.detach(), [2, 1], ONE)
    torch.testing.assert_close((x.grad, weight.grad), wanted)


@pytest.mark.parametrize("last", [False, True])
def test_outputs_and_gradients_keep_the_memory_format(last: bool) -> None:
    form = torch.channels_last if last else torch.contiguous_format
    x = torch.randn(2, 8, 6, 6).contiguous(memory_format=form).requires_grad_()
    weight = torch.randn(4, 8, 3, 3).contiguous(memory_format=form).requires_grad_()
    out = adder2d(x, weight, ONE, ONE)
    out.square().sum().backward()
    assert all(one.is_contiguous(memory_format=form) for one in (out, x.grad, weight.grad))
    integers = sad2d(x.detach().byte(), weight.detach().byte(), ONE, ONE, 0)
    assert integers.is_contiguous(memory_format=form)


def test_inputs_with_other_strides_are_read_correctly() -> None:
    wide, weight = torch.randn(2, 6, 8, 10), torch.randn(3, 4, 3, 8).transpose(0, 1)
    part = wide[:, ::2, 1:, ::3]
    wanted = plain.adder2d(part.contiguous(), weight.contiguous(), ONE, [0, 3])
    torch.testing.assert_close(adder2d(part, weight, ONE, [0, 3]), wanted)


@pytest.mark.parametrize(
    "arguments",
    [
        (torch.zeros(1, 3, 4, 4), torch.zeros(2, 4, 3, 3), ONE, NONE),
        (torch.zeros(3, 4, 4), torch.zeros(2, 3, 3, 3), ONE, NONE),
        (torch.zeros(1, 3, 2, 4), torch.zeros(2, 3, 3, 3), ONE, NONE),
        (torch.zeros(1, 3, 4, 4), torch.zeros(2, 3, 3, 3), [0, 1], NONE),
        (torch.zeros(1, 3, 4, 4), torch.zeros(2, 3, 3, 3), ONE, [-1, 0]),
        (torch.zeros(1, 3, 4, 4), torch.zeros(2, 3, 3, 3), [1], NONE),
        (torch.zeros(1, 3, 4, 4), torch.zeros(2, 3, 3, 3), ONE, NONE, 2.5),
    ],
    ids=["channels", "axes", "too small", "stride", "padding", "one number", "p"],
)
def test_wrong_shapes_are_refused(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError):
        adder2d(*arguments)


@pytest.mark.parametrize(("dtype", "value"), [(torch.int8, 0), (torch.float32, 0), (torch.uint8, 256)])
def test_the_integer_operator_takes_bytes_only(dtype: torch.dtype, value: int) -> None:
    x, weight = torch.zeros(1, 1, 3, 3).to(dtype), torch.zeros(1, 1, 3, 3).to(dtype)
    with pytest.raises(ValueError):
        sad2d(x, weight, ONE, ONE, value)


@pytest.mark.parametrize(("form", "p"), [(torch.contiguous_format, 1.5), (torch.channels_last, 1.0)])
def test_the_operators_pass_opcheck(form: torch.memory_format, p: float) -> None:
    x = torch.randn(2, 3, 6, 6).contiguous(memory_format=form).requires_grad_()
    weight = torch.randn(4, 3, 3, 3, requires_grad=True)
    torch.library.opcheck(torch.ops.autocompress_adder.adder2d.default, (x, weight, [1, 2], [1, 0], p))
    integers = (x.detach().byte(), weight.detach().byte(), [1, 2], [1, 0], 4)
    torch.library.opcheck(torch.ops.autocompress_adder.sad2d.default, integers)


class Block(nn.Module):
    """An adder layer in float, followed by one in integers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))
        self.register_buffer("integers", torch.randint(0, 256, (5, 4, 1, 1), dtype=torch.uint8))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        out = adder2d(x, self.weight, ONE, ONE)
        return out, sad2d((out + 128).clamp(0, 255).to(torch.uint8), self.integers, ONE, NONE, 128)


def test_an_exported_program_has_both_operators_and_any_batch() -> None:
    block = Block()
    program = torch.export.export(block, (torch.randn(2, 3, 6, 6),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert [name for name in targets if name.startswith("autocompress_adder")] == [
        "autocompress_adder.adder2d.default",
        "autocompress_adder.sad2d.default",
    ]
    for batch in (1, 5):
        x = torch.randn(batch, 3, 6, 6)
        for found, wanted in zip(program.module()(x), block(x), strict=True):
            assert torch.equal(found, wanted)


def test_a_compiled_module_trains() -> None:
    """It needs no C++ compiler: AOTAutograd's graph is what this test is about."""
    block = Block()
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 3, 6, 6)
    for module in (block, compiled):
        module.zero_grad()
        out, integers = module(x)
        out.square().sum().backward()
        if module is block:
            wanted = (out.detach(), integers, block.weight.grad.clone())
    assert torch.equal(out, wanted[0])
    assert torch.equal(integers, wanted[1])
    assert torch.equal(block.weight.grad, wanted[2])


@pytest.mark.cuda
@pytest.mark.parametrize("p", [1.0, 1.5, 2.0])
def test_on_cuda(p: float) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    x, weight = torch.randn(3, 8, 9, 9), torch.randn(5, 8, 3, 3)
    there = [one.cuda().requires_grad_() for one in (x, weight)]
    here = [one.double().requires_grad_() for one in (x, weight)]
    out, wanted = adder2d(*there, [2, 1], ONE, p), adder2d(*here, [2, 1], ONE, p)
    slope = torch.randn_like(out)
    out.backward(slope)
    wanted.backward(slope.cpu().double())
    torch.testing.assert_close(out.cpu().double(), wanted, rtol=1e-5, atol=1e-3)
    for one, other in zip(there, here, strict=True):
        torch.testing.assert_close(one.grad.cpu().double(), other.grad, rtol=1e-4, atol=1e-4)
