"""The comparison of file and torch in the breadth table finds faults of single layers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from autocompress.export import export, open_session
from autocompress.graph import facts
from autocompress.quantization import LayerBits
from autocompress.quantization.fakequant import UniformFakeQuantizer
from autocompress.quantization.hardening import harden
from autocompress.quantization.network import calibrate, quantize
from parts.breadth_agreement import floats_agree, integers_agree

SIZE = (3, 12, 12)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)]
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()


def hardened(images: torch.Tensor) -> fx.GraphModule:
    model = network()
    config = {name: LayerBits("quantize", 8, 8, group="all") for name in facts(model, SIZE).layers}
    fakes = quantize(model, config, lambda _, spec: UniformFakeQuantizer(spec), input_size=SIZE)
    calibrate(fakes, [images])
    return harden(fakes)


def compared(model: nn.Module, written: nn.Module, folder: Path, images: torch.Tensor) -> dict[str, Any]:
    export(written, folder / "file.onnx", SIZE)
    return integers_agree(model, folder / "file.onnx", images)


def test_a_file_agrees_with_its_own_model(tmp_path: Path) -> None:
    images = torch.randn(4, *SIZE)
    model = hardened(images)
    found = compared(model, model, tmp_path, images)
    assert found["agrees"], found
    assert found["tensors"] >= 4
    assert found["between_images"] > 0.1


def test_one_wrong_weight_is_found_though_the_outputs_hardly_differ(tmp_path: Path) -> None:
    images = torch.randn(4, *SIZE)
    model = hardened(images)
    other = copy.deepcopy(model)
    weights = next(buffer for name, buffer in other.named_buffers() if buffer.dtype == torch.int8 and buffer.ndim == 4)
    weights[0, 0, 0, 0] = -weights[0, 0, 0, 0] if weights[0, 0, 0, 0].abs() > 40 else 100
    found = compared(model, other, tmp_path, images)
    assert not found["agrees"], found


def test_a_file_without_the_quantizers_of_the_model_does_not_agree(tmp_path: Path) -> None:
    images = torch.randn(4, *SIZE)
    found = compared(hardened(images), network(), tmp_path, images)
    assert found["unmatched"] > 0
    assert not found["agrees"]


def test_floats_that_do_not_depend_on_the_image_prove_nothing(tmp_path: Path) -> None:
    images = torch.randn(8, *SIZE)
    alive, dead = network(), network()
    with torch.no_grad():
        dead[0].weight.zero_()
    found = []
    for model in (alive, dead):
        export(model, tmp_path / "file.onnx", SIZE)
        found.append(floats_agree(model, open_session(tmp_path / "file.onnx"), images))
    assert [one["agrees"] for one in found] == [True, False], found
