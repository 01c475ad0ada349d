"""Hard swish and hard sigmoid on integers.

A saturating addition whose result is read with a sixth of the step.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn

from autocompress.contract import TensorSpec
from autocompress.export import check_agreement, export, operator_histogram
from autocompress.quantization import LayerBits, calibrate, harden, plan, quantize, rebuild
from autocompress.quantization.fakequant import UniformFakeQuantizer
from autocompress.quantization.ops import hard_sigmoid, round_trip

SIZE = (3, 16, 16)
TARGET = torch.ops.autocompress.hard_sigmoid.default


class Gated(nn.Module):
    """A block of MobileNetV3: hard swish, squeeze, and a hard sigmoid as the gate."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.act = nn.Conv2d(3, 16, 3), nn.Hardswish()
        self.squeeze, self.gate = nn.Conv2d(16, 16, 1), nn.Hardsigmoid()
        self.last, self.head = nn.Conv2d(16, 16, 1), nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.stem(x) * 3)
        x = x * self.gate(4 * self.squeeze(x.mean((2, 3), keepdim=True)))
        return self.head(self.last(x).mean((2, 3)))


class Plain(nn.Module):
    """The same blocks of MobileNetV3, without products that have no integer form."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.act = nn.Conv2d(3, 16, 3), nn.Hardswish()
        self.squeeze, self.gate = nn.Conv2d(16, 16, 1), nn.Hardsigmoid()
        self.last, self.head = nn.Conv2d(16, 16, 1), nn.Linear(16, 10)
        with torch.no_grad():
            for layer in (self.stem, self.squeeze):
                layer.weight.mul_(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.stem(x))
        x = x * self.gate(self.squeeze(x.mean((2, 3), keepdim=True)))
        return self.head(self.last(x).mean((2, 3)))


def hardened(model: nn.Module, images: torch.Tensor, bits: int = 8, *, dry_run: bool = False) -> fx.GraphModule:
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    config = {name: LayerBits("quantize", activation_bits=bits) for name in layers}
    network = quantize(model, config, lambda _, spec: UniformFakeQuantizer(spec), input_size=SIZE)
    calibrate(network, () if dry_run else [images])
    return harden(network, dry_run=dry_run)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 8), st.floats(0.05, 1.0), st.integers(0, 1000))
def test_the_operator_is_a_hard_sigmoid_on_its_grid(bits: int, top: float, seed: int) -> None:
    high = 2**bits - 1
    grid = (top / high, 0, 0, high)
    x = 3 * torch.randn(500, generator=torch.Generator().manual_seed(seed))
    expected = round_trip(nn.functional.hardsigmoid(x), *grid)
    got = hard_sigmoid(x, *grid)
    # results are equal except where rounding depends on the last bit of a float
    middle = (nn.functional.hardsigmoid(x) / grid[0]).frac().sub(0.5).abs() < 1e-3
    torch.testing.assert_close(got[~middle], expected[~middle], rtol=1e-5, atol=1e-6)
    assert (got - expected).abs().max() <= grid[0] * 1.001


@pytest.mark.parametrize("bits", [8, 4])
def test_no_float_operator_is_left_and_the_file_agrees(bits: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, images = Plain().eval(), torch.randn(64, *SIZE)
    network, file = hardened(model, images, bits), tmp_path / "model.onnx"
    assert sum(node.target is TARGET for node in network.graph.nodes) == 2
    export(network, file, SIZE)
    histogram = operator_histogram(file)
    assert histogram["QLinearAdd"] == 2
    assert histogram["QLinearMul"] == 2
    assert not {"HardSigmoid", "HardSwish", "DequantizeLinear", "Add", "Mul", "Clip"} & set(histogram)
    found = check_agreement(file, network, images)
    assert found.mean_error < 0.005 * 2 ** (8 - bits)
    assert check_agreement(file, model, images).mean_error < 0.01 * 2 ** (8 - bits)


def test_a_dry_run_has_the_same_operators(tmp_path: Path) -> None:
    model, images = Plain().eval(), torch.randn(4, *SIZE)
    histograms = []
    for dry_run in (False, True):
        export(hardened(model, images, dry_run=dry_run), tmp_path / "model.onnx", SIZE)
        histograms.append(operator_histogram(tmp_path / "model.onnx"))
    assert histograms[0] == histograms[1]


def test_it_is_rebuilt_from_its_plan() -> None:
    torch.manual_seed(0)
    model, images = Plain().eval(), torch.randn(8, *SIZE)
    network = hardened(model, images)
    again = rebuild(model, plan(network))
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(images), network(images))


class _Wide(UniformFakeQuantizer):
    """A quantizer whose grid ends at 2.

    A hard sigmoid never exceeds 1, so the grid clips nothing.
    """

    def finish_observing(self) -> None:
        super().finish_observing()
        if self.spec.operator == "sigmoid":
            self.scale.fill_(2 / 255)  # type: ignore[operator]


def test_a_grid_beyond_one_keeps_the_hard_sigmoid(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, images = Plain().eval(), torch.randn(16, *SIZE)
    layers = ("stem", "squeeze", "last", "head")

    def make(_: str, spec: TensorSpec) -> UniformFakeQuantizer:
        return _Wide(spec)

    network = quantize(model, {name: LayerBits("quantize") for name in layers}, make, input_size=SIZE)
    calibrate(network, [images])
    finished, file = harden(network), tmp_path / "model.onnx"
    assert not any(node.target is TARGET for node in finished.graph.nodes)
    export(finished, file, SIZE)
    assert sum(node.op_type == "HardSigmoid" for node in onnx.load(str(file)).graph.node) == 2
    assert check_agreement(file, finished, images).mean_error < 0.01


def test_the_file_agrees_with_the_hardened_and_the_float_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, images = Gated().eval(), torch.randn(16, *SIZE)
    network, file = hardened(model, images), tmp_path / "model.onnx"
    export(network, file, SIZE)
    assert check_agreement(file, network, images).mean_error < 0.01
    assert check_agreement(file, model, images).mean_error < 0.02
