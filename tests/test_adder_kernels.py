"""AdderNet's kernels equal their plain definition for many shapes, strides and paddings.

Integers are equal exactly.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress_adder.kernels import chunked, cpu, plain, processor, sad, threads

RELATIVE = 2e-6
FORMS = {"vnni": sad.VNNI, "avx512": sad.AVX512, "avx2": sad.AVX2, "portable": sad.PORTABLE}


class Case(NamedTuple):
    """The shapes of a layer and its input."""

    image: tuple[int, int, int, int]
    weight: tuple[int, int, int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    last: bool
    """Whether images and filters are in the memory format channels last."""

    def tensors(self, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        random = torch.Generator().manual_seed(seed)
        x, weight = (torch.randn(shape, generator=random) for shape in (self.image, self.weight))
        return self.laid(x), self.laid(weight)

    def integers(self, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        random = torch.Generator().manual_seed(seed)
        x, weight = (
            torch.randint(0, 256, shape, generator=random, dtype=torch.uint8) for shape in (self.image, self.weight)
        )
        return self.laid(x), self.laid(weight)

    def laid(self, x: torch.Tensor) -> torch.Tensor:
        return x.contiguous(memory_format=torch.channels_last) if self.last else x


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Small layers. Some numbers of channels fill vectors (16, 32, 64), others do not."""
    channels = draw(st.sampled_from([1, 3, 5, 16, 21, 32, 64, 65]))
    height, width = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    padding = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    high = draw(st.integers(max(height - 2 * padding[0], 1), 9))
    wide = draw(st.integers(max(width - 2 * padding[1], 1), 9))
    image = (draw(st.integers(1, 3)), channels, high, wide)
    return Case(image, (draw(st.integers(1, 9)), channels, height, width), stride, padding, draw(st.booleans()))


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Compares relative to the largest value.

    Zeros and cancelling sums have no relative error of their own.
    """
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= RELATIVE * wanted.abs().max().clamp(min=1e-30)


def double(*tensors: torch.Tensor) -> list[torch.Tensor]:
    return [tensor.double() for tensor in tensors]


@given(cases())
@settings(max_examples=60, deadline=None)
def test_distances(case: Case) -> None:
    x, weight = case.tensors()
    found = cpu.forward(x, weight, case.stride, case.padding)
    wanted = plain.adder2d(*double(x, weight), case.stride, case.padding)
    assert found.shape == wanted.shape
    assert torch.all((found - wanted).abs() <= RELATIVE * wanted.abs())


@given(cases(), st.sampled_from([1.001, 1.25, 1.5, 1.75, 1.999]))
@settings(max_examples=40, deadline=None)
def test_powers_of_distances(case: Case, p: float) -> None:
    x, weight = case.tensors()
    found = cpu.forward(x, weight, case.stride, case.padding, p)
    wanted = plain.adder2d(*double(x, weight), case.stride, case.padding, p)
    assert found.shape == wanted.shape
    assert torch.all((found - wanted).abs() <= RELATIVE * wanted.abs())


@pytest.mark.parametrize("size", [1e-12, 1e-3, 1.0, 1e4, 1e12])
def test_powers_of_small_and_large_distances(size: float) -> None:
    x, weight = size * torch.randn(1, 16, 5, 5), size * torch.randn(4, 16, 3, 3)
    found = cpu.forward(x, weight, (1, 1), (1, 1), 1.5)
    wanted = plain.adder2d(*double(x, weight), (1, 1), (1, 1), 1.5)
    assert torch.all((found - wanted).abs() <= RELATIVE * wanted.abs())


@pytest.mark.parametrize("p", [1.0, 1.5])
def test_an_equal_patch_and_filter_give_exactly_zero(p: float) -> None:
    weight = torch.randn(1, 16, 3, 3)
    assert cpu.forward(weight.clone(), weight, (1, 1), (0, 0), p).item() == 0


@pytest.mark.parametrize("p", [1.0, 1.5])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_inputs_give_nan_outputs_in_their_places(value: float, p: float) -> None:
    x, weight = torch.randn(1, 16, 4, 4), torch.randn(4, 16, 1, 1)
    x[0, 3, 2, 1] = value
    finite = cpu.forward(x, weight, (1, 1), (0, 0), p).isfinite()
    assert finite.sum() == finite.numel() - 4
    assert not finite[0, :, 2, 1].any()


@given(cases())
@settings(max_examples=60, deadline=None)
def test_gradients(case: Case) -> None:
    x, weight = case.tensors()
    slope = torch.randn_like(plain.adder2d(x, weight, case.stride, case.padding))
    found = cpu.backward(slope, x, weight, case.stride, case.padding, (True, True))
    wanted = plain.gradients(*double(slope, x, weight), case.stride, case.padding)
    for one, other in zip(found, wanted, strict=True):
        assert one is not None
        close(one, other)


def test_gradients_in_chunks_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, slope = torch.randn(5, 6, 7, 7), torch.randn(9, 6, 3, 3), torch.randn(5, 9, 7, 7)
    ways = ((1, 1), (1, 1), (True, True))
    whole = cpu.backward(slope, x, weight, *ways)
    forward = cpu.forward(x, weight, *ways[:2])
    monkeypatch.setattr(cpu, "CHUNK", 1)
    for one, other in zip(cpu.backward(slope, x, weight, *ways), whole, strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(cpu.forward(x, weight, *ways[:2]), forward, rtol=0, atol=0)


def test_an_unneeded_gradient_is_not_computed() -> None:
    x, weight, slope = torch.randn(1, 2, 4, 4), torch.randn(3, 2, 3, 3), torch.randn(1, 3, 2, 2)
    assert cpu.backward(slope, x, weight, (1, 1), (0, 0), (False, True))[0] is None
    assert cpu.backward(slope, x, weight, (1, 1), (0, 0), (True, False))[1] is None


def test_the_clipped_gradient_passes_nan_on() -> None:
    x, weight = torch.full((1, 1, 1, 1), float("nan")), torch.zeros(1, 1, 1, 1)
    found, _ = cpu.backward(torch.ones(1, 1, 1, 1), x, weight, (1, 1), (0, 0), (True, True))
    assert found is not None
    assert found.isnan().all()


@pytest.mark.parametrize("name", FORMS)
@given(case=cases(), pad_value=st.integers(0, 255))
@settings(max_examples=40, deadline=None)
def test_integers_exactly(name: str, case: Case, pad_value: int) -> None:
    if FORMS[name] not in sad.forms():
        pytest.skip(f"this processor has no {name}")
    x, weight = case.integers()
    found = cpu.integers(x, weight, case.stride, case.padding, pad_value, FORMS[name])
    assert found.dtype == torch.int32
    assert torch.equal(found, plain.sad2d(x, weight, case.stride, case.padding, pad_value))


@pytest.mark.parametrize("name", FORMS)
def test_the_largest_sums_fit(name: str) -> None:
    """Two sums are accumulated in 64 bits together. Neither may overflow into the other."""
    if FORMS[name] not in sad.forms():
        pytest.skip(f"this processor has no {name}")
    channels = 2048
    x, weight = torch.full((1, channels, 9, 9), 255, dtype=torch.uint8), torch.zeros(5, channels, 9, 9).byte()
    weight[1::2] = 255
    found = cpu.integers(x, weight, (1, 1), (0, 0), 0, FORMS[name]).flatten().tolist()
    assert found == [255 * 81 * channels, 0, 255 * 81 * channels, 0, 255 * 81 * channels]


def test_the_fastest_available_kernel_is_used() -> None:
    """The portable kernel always exists. A kernel for this processor is preferred to it."""
    assert sad.forms()[-1] == sad.PORTABLE
    assert (sad.AVX512 in sad.forms()[:2]) == processor.has("avx512f", "avx512bw")


@given(cases(), st.sampled_from([1.0, 1.5, 2.0]))
@settings(max_examples=40, deadline=None)
def test_plain_pytorch_chunk_by_chunk(case: Case, p: float) -> None:
    x, weight = double(*case.tensors())
    wanted = plain.adder2d(x, weight, case.stride, case.padding, p)
    slope = torch.randn_like(wanted)
    numbers, chunked.NUMBERS = chunked.NUMBERS, 100
    try:
        found = chunked.forward(x, weight, case.stride, case.padding, chunked.distances(p))
        both = chunked.backward(slope.flatten(2), x, weight, case.stride, case.padding, chunked.clipped)
    finally:
        chunked.NUMBERS = numbers
    torch.testing.assert_close(found, wanted.flatten(2))
    for one, other in zip(both, plain.gradients(slope, x, weight, case.stride, case.padding), strict=True):
        torch.testing.assert_close(one, other)


def test_the_number_of_threads_does_not_change_results() -> None:
    x, weight, slope = torch.randn(3, 16, 20, 20), torch.randn(8, 16, 3, 3), torch.randn(3, 8, 20, 20)
    count = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = cpu.forward(x, weight, (1, 1), (1, 1))
        alone_x, _ = cpu.backward(slope, x, weight, (1, 1), (1, 1), (True, False))
        torch.set_num_threads(3)
        together = cpu.forward(x, weight, (1, 1), (1, 1))
        together_x, _ = cpu.backward(slope, x, weight, (1, 1), (1, 1), (True, False))
    finally:
        torch.set_num_threads(count)
    assert torch.equal(alone, together)
    assert alone_x is not None
    assert together_x is not None
    assert torch.equal(alone_x, together_x)


def test_callers_may_run_in_threads_themselves() -> None:
    x, weight = torch.randn(2, 16, 16, 16), torch.randn(8, 16, 3, 3)
    wanted, found = cpu.forward(x, weight, (1, 1), (1, 1)), []
    count = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        callers = [
            threading.Thread(target=lambda: found.append(cpu.forward(x, weight, (1, 1), (1, 1)))) for _ in range(6)
        ]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    finally:
        torch.set_num_threads(count)
    assert len(found) == 6
    assert all(torch.equal(one, wanted) for one in found)


@pytest.mark.parametrize(("count", "grain"), [(0, 4), (1, 4), (7, 4), (64, 4), (1000, 64), (1001, 1)])
def test_each_unit_of_work_is_done_once_in_whole_blocks(count: int, grain: int) -> None:
    done: list[tuple[int, int]] = []
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        threads.spread(lambda begin, end: done.append((begin, end)), count, grain)
    finally:
        torch.set_num_threads(before)
    assert sorted(unit for begin, end in done for unit in range(begin, end)) == list(range(count))
    assert all(begin % grain == 0 for begin, _ in done)


def test_an_error_in_a_thread_is_raised() -> None:
    def fails(begin: int, end: int) -> None:
        raise ZeroDivisionError

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with pytest.raises(ZeroDivisionError):
            threads.spread(fails, 100)
    finally:
        torch.set_num_threads(before)


def _python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


GENERIC = """
import torch
from autocompress_adder.kernels import cpu, plain, processor, sad
assert processor.lanes() == {lanes}, processor.lanes()
assert len(sad.forms()) == {forms}
torch.manual_seed(0)
for channels in (5, 64):
    x, weight, slope = torch.randn(2, channels, 6, 7), torch.randn(5, channels, 3, 2), torch.randn(2, 5, 6, 4)
    ways = (1, 2), (1, 1)
    wanted = plain.adder2d(x.double(), weight.double(), *ways)
    torch.testing.assert_close(cpu.forward(x, weight, *ways).double(), wanted, rtol=2e-6, atol=0)
    found = cpu.backward(slope, x, weight, *ways, (True, True))
    for one, other in zip(found, plain.gradients(slope, x, weight, *ways)):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)
    wanted = plain.adder2d(x.double(), weight.double(), *ways, 1.5)
    torch.testing.assert_close(cpu.forward(x, weight, *ways, 1.5).double(), wanted, rtol=2e-6, atol=0)
    x, weight = (torch.randint(0, 256, each.shape, dtype=torch.uint8) for each in (x, weight))
    assert torch.equal(cpu.integers(x, weight, *ways, 3), plain.sad2d(x, weight, *ways, 3))
print("kernels")
"""

FORKED = """
import os
torch.set_num_threads(2)
x, weight = torch.randn(2, 16, 16, 16), torch.randn(8, 16, 1, 1)
wanted = cpu.forward(x, weight, (1, 1), (0, 0))
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(cpu.forward(x, weight, (1, 1), (0, 0)), wanted) else 1)
if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
    print("fork")
"""

TRITON = """
import importlib.util
if importlib.util.find_spec("triton"):
    from autocompress_adder.kernels import chunked, cuda
    torch.manual_seed(0)
    patches, rows, slopes = torch.randn(2, 45, 70), torch.randn(67, 45), torch.randn(2, 67, 70)
    patches[1, 3, 5] = 100
    wanted = (patches.double().unsqueeze(1) - rows.double()[:, :, None]).abs().sum(2)
    torch.testing.assert_close(cuda.distances(patches, rows).double(), wanted, rtol=2e-6, atol=0)
    found = cuda.clipped(slopes, patches, rows)
    torch.testing.assert_close(found, chunked.clipped(slopes, patches, rows), rtol=1e-5, atol=1e-5)
    print("triton")
"""


@pytest.mark.slow
def test_a_process_of_its_own() -> None:
    """Tests that need another environment or a fork.

    They share one process, because importing torch takes seconds. The kernels are compiled for a
    processor without vectors, a forked process calls them again, and the CUDA kernels run without
    CUDA in Triton's interpreter.
    """
    code, wanted = GENERIC.format(lanes=4, forms=1) + TRITON, ["kernels"]
    if importlib.util.find_spec("triton"):
        wanted.append("triton")
    if hasattr(os, "fork"):
        code, wanted = code + FORKED, [*wanted, "fork"]
    said = _python(code, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="", TRITON_INTERPRET="1")
    assert said.split() == wanted


@pytest.mark.slow
@pytest.mark.skipif(not processor.has("avx2", "fma"), reason="this processor has no AVX2")
def test_kernels_for_a_processor_with_avx2_only() -> None:
    """numba compiles for a processor with AVX2 and without newer instructions."""
    code = GENERIC.format(lanes=8, forms=2)
    assert _python(code, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="+avx,+avx2,+fma") == "kernels\n"


@pytest.mark.cuda
def test_triton() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    pytest.importorskip("triton")
    from autocompress_adder.kernels import cuda

    patches, rows, slopes = (torch.randn(shape, device="cuda") for shape in ((2, 45, 70), (67, 45), (2, 67, 70)))
    wanted = chunked.distances(1)(patches.double(), rows.double())
    torch.testing.assert_close(cuda.distances(patches, rows).double(), wanted, rtol=RELATIVE, atol=0)
    close(cuda.clipped(slopes, patches, rows), chunked.clipped(*double(slopes, patches, rows)))
