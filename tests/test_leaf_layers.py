"""Layers of plugins that are one node of the graph (leaves).

They compute with integers on the grid of their input, and contain the norm behind them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn
from toy_leaf import Distance, DistanceSpec, FloatSpec, HardenedDistance, SimulatedDistance, answers, block

from autocompress.compression.qat import QuantizationSchedule
from autocompress.contract import Grid, LayerSpec, OperatorCount
from autocompress.data import DataInfo, TensorSplit
from autocompress.export import check_agreement, custom_operators, export
from autocompress.graph import facts
from autocompress.quantization import (
    LayerBits,
    QuantizedNetwork,
    calibrate,
    float_layers,
    fold_batch_norm,
    harden,
    operator_counts,
    plan,
    quantize,
    rebuild,
)
from autocompress.quantization.bias_correction import correct_bias
from autocompress.quantization.fakequant import UniformFakeQuantizer
from autocompress.training import Training, TrainSettings

SIZE = (3, 8, 8)
SPECS = [DistanceSpec()]
LAYERS = ("stem", "first", "second", "third", "fc")
INFO = DataInfo(4, 3, (8, 8), (0.5,) * 3, (0.5,) * 3, ("a", "b", "c", "d"))


def quantized(net: nn.Module, specs: list[LayerSpec] = SPECS, **options: Any) -> QuantizedNetwork:
    bits, without = options.pop("bits", 8), options.pop("without", ())
    config = {name: LayerBits("q", bits, bits) for name in LAYERS if name not in without}
    made = quantize(net, config, lambda _, spec: UniformFakeQuantizer(spec), input_size=SIZE, specs=specs, **options)
    calibrate(made, [torch.randn(64, *SIZE)])
    return made


# --- simulating -----------------------------------------------------------------------------------


@pytest.mark.parametrize("trainable", [False, True])
def test_a_leaf_reads_a_grid_and_contains_its_norm(trainable: bool) -> None:
    network = quantized(block(), trainable=trainable)
    assert sorted(network.leaves()) == ["first", "second"]
    for name, layer in network.leaves().items():
        assert isinstance(layer, SimulatedDistance)
        assert isinstance(layer.norm, nn.BatchNorm2d)
        reads = next(node for node in network.graph.nodes if node.target == name).args[0]
        assert layer.input_quantizer is network.get_submodule(reads.target), "the quantizer of its input"
        assert "input_quantizer" not in dict(layer.named_children())
    assert sorted(network.fake_layers()) == ["fc", "stem", "third"], "leaves have no weight quantizer"
    points = network.placement.activations
    assert points["act_1"].spec.nonnegative, "the cut-off behind the leaf's norm is absorbed as behind a convolution's"
    assert points["act_1"].spec.bits == 8
    assert "act_1" in network.placement.absorbed
    assert not any(node.target in ("norm1", "norm2") for node in network.graph.nodes)


def test_without_its_specs_a_leaf_would_be_traced_through() -> None:
    from autocompress.graph import UntraceableModel

    with pytest.raises(UntraceableModel, match="traced through"):
        fold_batch_norm(block())


def test_eight_bits_give_almost_the_outputs_of_float() -> None:
    net, images = block(), torch.randn(64, *SIZE)
    expected = answers(net, images)
    got = answers(quantized(net), images)
    assert float((got - expected).abs().max() / expected.abs().max()) < 0.05
    coarse = answers(quantized(net, bits=3), images)
    assert float((coarse - expected).abs().max()) > float((got - expected).abs().max())


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("bits", [8, 4])
def test_the_hardened_leaf_equals_the_simulated_one(bits: int, trainable: bool) -> None:
    network = quantized(block(), bits=bits, trainable=trainable)
    hardened = harden(network)
    assert isinstance(hardened.get_submodule("first"), HardenedDistance)
    assert hardened.get_submodule("first").weight_bits == bits
    images = torch.randn(64, *SIZE)
    torch.testing.assert_close(answers(hardened, images), answers(network, images), rtol=1e-4, atol=1e-4)


def test_a_plan_rebuilds_the_structure(tmp_path: Path) -> None:
    hardened = harden(quantized(block(), bits=4))
    again = rebuild(block(seed=1), json.loads(json.dumps(plan(hardened))), SPECS)
    again.load_state_dict(hardened.state_dict())
    images = torch.randn(8, *SIZE)
    assert torch.equal(answers(again, images), answers(hardened, images))


def test_a_dry_run_has_the_same_structure() -> None:
    network = quantized(block())
    dry, real = harden(network, dry_run=True), harden(network)
    assert [(n.op, str(n.target)) for n in dry.graph.nodes] == [(n.op, str(n.target)) for n in real.graph.nodes]
    described = [{name: (t.shape, t.dtype) for name, t in made.state_dict().items()} for made in (dry, real)]
    assert described[0] == described[1]


# --- leaves that stay in float --------------------------------------------------------------------


@pytest.mark.parametrize(("specs", "without"), [([FloatSpec()], ()), (SPECS, ("first", "second"))])
@pytest.mark.parametrize("trainable", [False, True])
def test_a_float_leaf_stays_with_its_norm(specs: list[LayerSpec], without: tuple[str, ...], trainable: bool) -> None:
    net = block()
    network = quantized(net, specs, without=without, trainable=trainable)
    assert not network.leaves()
    hardened = harden(network)
    assert type(hardened.get_submodule("first")) is Distance
    assert isinstance(hardened.get_submodule("norm1"), nn.BatchNorm2d)
    images = torch.randn(32, *SIZE)
    expected, got = answers(net, images), answers(hardened, images)
    assert float((got - expected).abs().max() / expected.abs().max()) < 0.05
    # a layer counts as float only if integers were requested and not possible
    assert float_layers(hardened) == float_layers(network) == ([] if without else ["first", "second"])
    rebuilt = rebuild(block(1), plan(hardened), specs)
    rebuilt.load_state_dict(hardened.state_dict())
    assert torch.equal(answers(rebuilt, images), got)


def test_quantized_leaves_do_not_count_as_float_layers() -> None:
    network = quantized(block())
    assert float_layers(network) == float_layers(harden(network)) == []


class Shared(nn.Module):
    """One leaf, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.leaf, self.norm1 = nn.Conv2d(3, 8, 1), Distance(8, 8), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm1(self.leaf(self.stem(x)))
        return self.fc(self.leaf(y).mean((2, 3)))


def test_a_leaf_that_is_called_twice_stays_in_float() -> None:
    net = Shared().eval()
    config = {name: LayerBits("q") for name in ("stem", "leaf", "fc")}
    network = quantize(net, config, lambda _, spec: UniformFakeQuantizer(spec), input_size=SIZE, specs=SPECS)
    calibrate(network, [torch.randn(16, *SIZE)])
    assert float_layers(harden(network)) == ["leaf"]


# --- training, correcting, probing ----------------------------------------------------------------


def test_training_updates_weights_and_norm_to_the_end() -> None:
    network = quantized(block(), bits=4, trainable=True)
    before = {name: tensor.clone() for name, tensor in network.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    split = TensorSplit(
        torch.randn(64, *SIZE, generator=generator), torch.randint(0, 4, (64,), generator=generator), INFO
    )
    params = {"epochs": 1, "norm": "corrected", "norm_freeze": 0.5, "range_freeze": 0.5, "delay": 0.25}

    class Watch(QuantizationSchedule):
        moving: ClassVar[list[bool]] = []

        def before_step(self, model: nn.Module, step: int) -> None:
            super().before_step(model, step)
            self.moving.append(model.get_submodule("first").norm.training)

    watch = Watch(params)
    run = Training(network, split, TrainSettings(epochs=1, batch_size=8, augment=False, lr=1e-2), callbacks=[watch])
    watch.on_start(network, run.total_steps)
    run.run()
    assert all(Watch.moving), "constant statistics would be wrong"
    moved = [name for name, tensor in network.named_parameters() if not torch.equal(tensor, before[name])]
    assert {"first.weight", "second.weight", "first.norm.weight", "second.norm.bias", "stem.weight"} <= set(moved)
    images = torch.randn(32, *SIZE)
    network.eval()
    torch.testing.assert_close(answers(harden(network), images), answers(network, images), rtol=1e-4, atol=1e-4)


def test_biases_are_corrected_and_ranges_equalised_around_leaves() -> None:
    network = quantized(block(), bits=4, equalise=True)
    assert correct_bias(network, [torch.randn(32, *SIZE)]) == 3
    assert bool(answers(network, torch.randn(4, *SIZE)).isfinite().all())


# --- counting and exporting -----------------------------------------------------------------------


def test_a_leaf_counts_its_own_operations_and_no_multiply_adds() -> None:
    net = block()
    known = facts(net, SIZE, (Distance,))
    assert known.layers["first"].macs == 0
    assert known.layers["first"].kind == "Distance"
    assert known.macs == 64 * 8 * (27 + 72) + 32
    adds = 2 * 64 * 12 * 72
    network = quantized(net, bits=4)
    for model, weights, inputs in ((net, 32, 32), (network, 4, 4), (harden(network), 4, 4)):
        counted = {count.layer: count for count in operator_counts(model, SIZE, SPECS)}
        assert list(counted) == list(LAYERS)
        assert counted["first"] == OperatorCount("first", "add", adds, weights, inputs)
        assert counted["third"].kind == "multiply-add"


@pytest.mark.parametrize("bits", [None, 8, 4])
def test_the_file_agrees_with_torch(bits: int | None, tmp_path: Path) -> None:
    net = block()
    model = net if bits is None else harden(quantized(net, bits=bits))
    export(model, tmp_path / "model.onnx", SIZE, specs=SPECS)
    found = check_agreement(tmp_path / "model.onnx", model, torch.randn(64, *SIZE))
    assert found.labels == 1
    assert found.max_error < 1e-4
    assert not custom_operators(tmp_path / "model.onnx")


class Codes(HardenedDistance):
    """Weights as unsigned codes: ``code - 2 ** (bits - 1)``."""

    def __init__(self, simulated: SimulatedDistance, grid: Grid) -> None:
        super().__init__(simulated, grid)
        self.half = 2 ** (grid.bits - 1)
        codes = self.weight.to(torch.int16).clamp(-self.half, self.half - 1) + self.half
        self.register_buffer("weight", codes.to(torch.uint8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.distance(x, (self.weight.float() - self.half) * self.scale)
        return y * self.factor[:, None, None] + self.offset[:, None, None]


class CodesSpec(DistanceSpec):
    def hardened(self, simulated: nn.Module, grid: Grid) -> nn.Module:
        assert isinstance(simulated, SimulatedDistance)
        return Codes(simulated, grid)


@pytest.mark.slow
def test_codes_of_few_bits_are_packed(tmp_path: Path) -> None:
    sizes, file = {}, tmp_path / "model.onnx"
    for bits in (8, 4, 3):
        spec = CodesSpec()
        model = harden(quantized(block(channels=32), [spec], bits=bits))
        export(model, file, SIZE, specs=[spec])
        sizes[bits] = file.stat().st_size
        found = check_agreement(file, model, torch.randn(64, *SIZE))
        assert found.mean_error < 1e-4, "single values may be rounded the other way"
    weights = sum(model.get_submodule(name).weight.numel() for name in ("first", "second", "third", "stem"))
    for bits in (4, 3):
        assert sizes[8] - sizes[bits] > weights * (8 - bits) / 8 - 3000
