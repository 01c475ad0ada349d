"""Weights with fewer than 8 bits.

Packed in the file, exact again when it is loaded, and fused as at 8 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import fx, nn

from autocompress.contract import FakeQuantizer, Hardened, TensorSpec
from autocompress.errors import TrialFailed
from autocompress.export import custom_operators, export, open_session, operator_histogram
from autocompress.export.packing import pack_weights, unpacking
from autocompress.quantization import LayerBits, calibrate, harden, quantize
from autocompress.quantization.fakequant import UniformFakeQuantizer
from autocompress.quantization.layers import HardenedConv2d, HardenedLinear

SIZE = (3, 12, 12)


class OddIntegers(FakeQuantizer):
    """Weights without zero, ``-(2^b - 1), ..., -1, 1, ..., 2^b - 1``, as in SLB."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def harden(self, weight: torch.Tensor | None = None) -> Hardened:
        assert weight is not None
        high = 2**self.spec.bits - 1
        scale = weight.abs().amax().clamp(min=1e-6) / high
        integers = (2 * torch.round((weight / scale + high) / 2) - high).to(torch.int8)
        return Hardened(scale, torch.zeros((), dtype=torch.int32), -high, high, self.spec.bits, integers, None, step=2)


def uniform(spec: TensorSpec) -> FakeQuantizer:
    return UniformFakeQuantizer(spec)


def asymmetric(spec: TensorSpec) -> FakeQuantizer:
    return UniformFakeQuantizer(spec, is_symmetric=False)


def odd(spec: TensorSpec) -> FakeQuantizer:
    return OddIntegers(spec) if spec.role == "weight" and spec.bits < 8 else UniformFakeQuantizer(spec)


class Zoo(nn.Module):
    """A network with every kind of layer, odd numbers of weights, and enough weights for 7 bits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 371, 3, padding=1)
        self.depthwise = nn.Conv2d(371, 371, 5, padding=2, groups=371)
        self.grouped = nn.Conv2d(371, 133, 3, groups=7)
        self.single = nn.Conv2d(133, 1, 9, padding=4)
        self.wide = nn.Conv2d(1, 205, 7)
        self.tokens = nn.Linear(205, 57)
        self.classifier = nn.Linear(57, 177)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in (self.stem, self.depthwise, self.grouped, self.single, self.wide):
            x = layer(x).relu()
        x = self.tokens(x.flatten(2).transpose(1, 2))
        return self.classifier(x.mean(1))


def hardened(model: nn.Module, bits: int, make: Callable[[TensorSpec], FakeQuantizer]) -> fx.GraphModule:
    layers = [name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    config = {name: LayerBits("q", weight_bits=bits) for name in layers}
    network = quantize(model.eval(), config, lambda _, spec: make(spec), input_size=SIZE)
    calibrate(network, [torch.randn(8, *SIZE)])
    return harden(network)


def layers_of(model: nn.Module) -> dict[str, HardenedConv2d | HardenedLinear]:
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, HardenedConv2d | HardenedLinear)}


def write(model: nn.Module, path: Path, *, packed: bool = True) -> Path:
    """Writes ``model``, optionally as if its layers had 8 bits."""
    before = {name: layer.weight_bits for name, layer in layers_of(model).items()}
    try:
        for layer in layers_of(model).values():
            layer.weight_bits = layer.weight_bits if packed else 8
        export(model, path, SIZE)
    finally:
        for name, layer in layers_of(model).items():
            layer.weight_bits = before[name]
    return path


# --- the integers ---------------------------------------------------------------------------------


@st.composite
def weights(draw: st.DrawFn) -> tuple[np.ndarray, int, int, int]:
    """(integers, bits, low, step). Every integer of the grid may occur."""
    bits = draw(st.integers(1, 7))
    step = draw(st.sampled_from([1, 2] if bits < 7 else [1]))
    span = step * (2**bits - 1)
    low = draw(st.sampled_from([-(2 ** (bits - 1)), 1 - 2 ** (bits - 1), -(span // 2) - 1, 0, -128, 127 - span]))
    low = min(low, 127 - span)
    shape = draw(st.one_of(st.tuples(*[st.integers(1, 5)] * 4), st.tuples(*[st.integers(1, 13)] * 2)))
    seed = draw(st.integers(0, 2**32 - 1))
    index = np.random.default_rng(seed).integers(0, 2**bits, shape)
    return (low + step * index).astype(np.int8), bits, low, step


@settings(max_examples=60, deadline=None)
@given(weights())
def test_integers_are_packed_and_unpacked(case: tuple[np.ndarray, int, int, int]) -> None:
    integers, bits, low, step = case
    graph = unpacking(integers, bits, low, step)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for found in (session.run(None, {})[0], ReferenceEvaluator(model).run(None, {})[0]):
        assert found.dtype == np.int8
        assert found.shape == integers.shape
        assert np.array_equal(found, integers)
    stored = sum(len(t.raw_data) for t in graph.initializer if t.name.startswith("weight"))
    planes = bits.bit_count()
    assert stored <= integers.size * bits / 8 + planes, "at most the bits, and a part of a byte for each plane"


@pytest.mark.parametrize(
    ("integers", "bits", "low", "step"),
    [([2], 2, -2, 1), ([-3], 2, -2, 1), ([0, 1], 1, -1, 2), ([8], 4, -8, 1), ([-9], 4, -8, 1)],
)
def test_integers_that_do_not_fit_are_refused(integers: list[int], bits: int, low: int, step: int) -> None:
    with pytest.raises(TrialFailed, match=f"'weight' do not fit {bits} bits"):
        unpacking(np.array([integers], np.int8), bits, low, step)


# --- the file -------------------------------------------------------------------------------------

CASES = [*[(bits, uniform) for bits in range(2, 8)], *[(bits, odd) for bits in range(1, 5)], (3, asymmetric)]
LAYERS = ("stem", "depthwise", "grouped", "single", "wide", "tokens", "classifier")


@pytest.mark.parametrize("start", [0, 4, 8])
def test_a_packed_file_gives_the_outputs_of_an_unpacked_one(start: int, tmp_path: Path) -> None:
    """Each layer of a network has another case. Three networks have all cases."""
    config = {}
    for number, name in enumerate(LAYERS, start):
        bits, make = CASES[number % len(CASES)]
        config[name] = LayerBits(make.__name__, weight_bits=bits)
    made_by = {make.__name__: make for _, make in CASES}
    network = quantize(Zoo().eval(), config, lambda name, spec: made_by[name](spec), input_size=SIZE)
    calibrate(network, [torch.randn(8, *SIZE)])
    model = harden(network)
    packed, plain = write(model, tmp_path / "packed.onnx"), write(model, tmp_path / "plain.onnx", packed=False)
    assert operator_histogram(packed) == operator_histogram(plain)
    assert packed.stat().st_size < plain.stat().st_size
    tensors = [tensor.name for tensor in onnx.load(str(packed)).graph.initializer]
    stored = {name.removesuffix(name[-8:]) for name in tensors if "_packed" in name}
    assert stored == {f"{name}.weight" for name in layers_of(model)}
    assert custom_operators(packed) == set()
    onnx.checker.check_model(onnx.load(str(packed)), full_check=True)
    images = np.random.default_rng(0).standard_normal((5, *SIZE), np.float32)
    logits = [open_session(file).run(None, {"image": images})[0] for file in (packed, plain)]
    assert np.array_equal(*logits)


def test_the_runtime_unpacks_once_to_the_integers_of_the_layer(tmp_path: Path) -> None:
    model = hardened(Zoo(), 2, uniform)
    open_session(write(model, tmp_path / "file.onnx"), optimized=tmp_path / "optimized.onnx")
    graph = onnx.load(str(tmp_path / "optimized.onnx")).graph
    unpackers = {"BitShift", "BitwiseAnd", "BitwiseOr", "Cast", "Add", "Mul", "Slice"}
    assert not unpackers & {node.op_type for node in graph.node}
    found = {tuple(np.sort(numpy_helper.to_array(t).reshape(-1))) for t in graph.initializer if t.data_type == 3}
    for layer in layers_of(model).values():
        assert tuple(np.sort(layer.weight.numpy().reshape(-1))) in found  # the runtime may transpose them


def test_layers_share_the_constants(tmp_path: Path) -> None:
    def constants(depth: int) -> set[str]:
        model = nn.Sequential(*[nn.Conv2d(32 if i else 3, 32, 3, padding=1) for i in range(depth)], nn.Flatten())
        graph = onnx.load(str(write(hardened(model, 3, uniform), tmp_path / f"{depth}.onnx"))).graph
        assert sum("_packed" in tensor.name for tensor in graph.initializer) >= 2 * (depth - 1)
        return {tensor.name for tensor in graph.initializer if tensor.name.startswith(("uint8_", "int32_", "int64_"))}

    assert constants(6) == constants(3) != set()


def test_a_weight_that_is_too_small_to_gain_is_not_packed(tmp_path: Path) -> None:
    model = hardened(nn.Sequential(nn.Conv2d(3, 1, 1), nn.ReLU(), nn.Conv2d(1, 64, 7), nn.Flatten()), 4, uniform)
    tensors = {t.name: t.data_type for t in onnx.load(str(write(model, tmp_path / "f.onnx"))).graph.initializer}
    assert tensors["0.weight"] == onnx.TensorProto.INT8
    assert tensors["2.weight_packed4"] == onnx.TensorProto.INT4
    assert "2.weight" not in tensors


def test_a_layer_that_exceeds_its_bits_is_a_failed_trial(tmp_path: Path) -> None:
    model = hardened(Zoo(), 4, uniform)
    layers_of(model)["stem"].weight[0, 0, 0, 0] = 100
    with pytest.raises(TrialFailed, match=r"'stem\.weight' do not fit 4 bits"):
        write(model, tmp_path / "file.onnx")


def test_nothing_is_packed_in_a_float_model() -> None:
    proto = helper.make_model(helper.make_graph([], "empty", [], []))
    assert pack_weights(proto, Zoo()) == []


SHARES = {8: 0.27, 4: 0.15, 1: 0.06}


@pytest.mark.slow
def test_a_resnet18_shrinks_by_its_bits(tmp_path: Path) -> None:
    """With 1,000 classes. Stem and classifier keep 8 bits."""
    model = timm.create_model("resnet18", num_classes=1000).eval()
    size = (3, 32, 32)
    export(model, tmp_path / "float.onnx", size)
    whole = (tmp_path / "float.onnx").stat().st_size
    layers = [name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    sizes = {}
    for bits in SHARES:
        config = {n: LayerBits("q", weight_bits=8 if n in (layers[0], layers[-1]) else bits) for n in layers}
        make = odd if bits == 1 else uniform
        network = quantize(model, config, lambda _, spec, make=make: make(spec), input_size=size)  # type: ignore[misc]
        export(harden(network, dry_run=True), tmp_path / "file.onnx", size)
        sizes[bits] = (tmp_path / "file.onnx").stat().st_size / whole
    assert {bits: share for bits, share in sizes.items() if share > SHARES[bits]} == {}
    assert sizes[1] < sizes[4] < sizes[8]
