"""The latency model, and profiles of layers from which it is fitted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn

from autocompress.devices.profiling import layer_times
from autocompress.errors import TrialFailed
from autocompress.export import export
from autocompress.graph import trace
from autocompress.graph.partial import PartialRunner
from autocompress.proposals import LatencyModel, Layer, Part, Profile
from autocompress.proposals.factors import Widths
from autocompress.quantization import LayerBits, calibrate, harden, quantize
from autocompress.quantization.fakequant import UniformFakeQuantizer

SIZE = (3, 32, 32)

# --- latency --------------------------------------------------------------------------------------


def _profiles(layers: list[Layer], count: int, seed: int, noise: float = 0.0) -> list[Profile]:
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        widths = {
            layer.name: (float(generator.integers(8, layer.inputs)), float(generator.integers(8, layer.outputs)))
            for layer in layers
        }
        seconds = {}
        for layer in layers:
            inputs, outputs = widths[layer.name]
            work = Widths(layer, np.array(inputs), np.array(outputs), {})
            true = 4e-6 + float(work.macs) * 2e-11 + float(work.weights) * 3e-11 + outputs * layer.positions * 1e-10
            seconds[layer.name] = true * (1 + noise * generator.standard_normal())
        total = 1.05 * sum(seconds.values()) - 2e-6 * len(layers)
        found.append(Profile(widths, seconds, total * (1 + noise * generator.standard_normal())))
    return found


LAYERS = [Layer(f"l{at}", "dense", 64 * 2**at, 128 * 2**at, 1, 9, 256 // 4**at, {}, {}) for at in range(4)] + [
    Layer("fc", "linear", 512, 100, 1, 1, 1, {}, {})
]


def test_a_latency_model_predicts_new_widths() -> None:
    model = LatencyModel.fit(LAYERS, _profiles(LAYERS, 6, 0, noise=0.02))
    errors = [abs(model.predict(LAYERS, held.widths) / held.total - 1) for held in _profiles(LAYERS, 8, 1)]
    assert np.median(errors) <= 0.05
    assert max(errors) <= 0.15
    assert 0.001 < model.error < 0.15


def test_later_measurements_scale_the_predictions() -> None:
    model = LatencyModel.fit(LAYERS, _profiles(LAYERS, 6, 0))
    later = _profiles(LAYERS, 12, 2)
    slower = [1.3 * profile.total for profile in later]
    sums = [model.layers_sum(LAYERS, profile.widths) for profile in later]
    corrected = model.corrected(sums, slower)
    held = _profiles(LAYERS, 4, 3)
    before = [abs(model.predict(LAYERS, profile.widths) / (1.3 * profile.total) - 1) for profile in held]
    after = [abs(corrected.predict(LAYERS, profile.widths) / (1.3 * profile.total) - 1) for profile in held]
    assert np.mean(after) < 0.5 * np.mean(before)
    assert corrected.error > model.error


def test_factors_of_a_latency_model_add_up_to_its_predictions() -> None:
    layers = [
        Layer("one", "dense", 3, 64, 1, 9, 64, {}, {"c": 64}),
        Layer("two", "dense", 64, 32, 1, 9, 64, {"c": 64}, {}),
    ]
    model = LatencyModel.fit(
        layers,
        [
            Profile({"one": (3, w), "two": (w, 32)}, {"one": w * 1e-6, "two": w * 2e-6}, w * 3e-6)
            for w in (64.0, 40.0, 16.0)
        ],
    )
    part = Part("c", "structure", (1.0, 0.5, 0.25))
    tables, fixed = model.factors(layers, [part], {"c": [1.0, 0.5, 0.25]})
    for at, width in enumerate((64.0, 32.0, 16.0)):
        added = fixed + sum(float(table.table[at]) for table in tables)
        assert added == pytest.approx(model.predict(layers, {"one": (3, width), "two": (width, 32)}))
        assert added == pytest.approx(width * 3e-6, rel=0.05)


def test_one_probe_is_not_enough() -> None:
    with pytest.raises(ValueError, match="two probes"):
        LatencyModel.fit(LAYERS, _profiles(LAYERS, 1, 0))


# --- profiles -------------------------------------------------------------------------------------


class Tiny(nn.Module):
    """Two convolutions with pooling between them, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 64, 3, padding=1)
        self.pool, self.fc = nn.MaxPool2d(2), nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.second(self.pool(torch.relu(self.first(x)))).relu().mean((2, 3)))


def test_a_profile_has_the_time_of_each_layer(tmp_path: Path) -> None:
    model = Tiny().eval()
    float_file, file = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    export(model, float_file, SIZE)
    config = dict.fromkeys(("first", "second", "fc"), LayerBits("quantize"))
    network = quantize(model, config, lambda _, spec: UniformFakeQuantizer(spec), input_size=SIZE)
    calibrate(network, [torch.randn(4, *SIZE)])
    export(harden(network), file, SIZE)
    for times in layer_times([float_file, file], ["first", "second", "fc"], SIZE, seconds=0.05):
        assert list(times.layers) == ["first", "second", "fc"]
        assert times.layers["second"] > times.layers["fc"] > 0
        assert times.total > 0
    assert not list(tmp_path.glob("*.json"))
    with pytest.raises(TrialFailed, match="no operator"):
        layer_times([file], ["elsewhere"], SIZE)


@torch.no_grad()
def test_optional_arguments_of_a_forward_are_not_images() -> None:
    """timm's transformers take a mask and ``is_causal`` besides the images."""
    model = timm.create_model("vit_tiny_patch16_224", num_classes=10, img_size=32, patch_size=8, depth=1).eval()
    images = torch.randn(2, *SIZE)
    runner = PartialRunner(trace(model))
    torch.testing.assert_close(runner.answers([images])[0], model(images))
    runner.advance(runner.first_call({"blocks.0.mlp.fc1"}))
    torch.testing.assert_close(runner.rest()[0], model(images))
