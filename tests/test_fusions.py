"""Lost fusions are found in the operators that the runtime executes, without timing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from autocompress.export import custom_operators, export, integer_bytes, operator_histogram
from autocompress.quantization import LayerBits, calibrate, harden, quantize
from autocompress.quantization.fakequant import UniformFakeQuantizer

SHALLOW: dict[str, dict[str, Any]] = {
    "resnet50": {"layers": (1, 1, 1, 1)},
    "densenet121": {"block_config": (2, 2, 2, 2)},
    "vit_tiny_patch16_224": {"img_size": 64, "depth": 2},
}
"""Fewer blocks of each kind, so that the export takes a second."""

INTEGER_FRIENDLY = {"QuantizeLinear", "Transpose", "Reshape", "Squeeze"}
"""Float operators that may be left.

Quantizer of the image, memory layout, and flatten of the classifier.
"""

EXPECTED = {
    "resnet18": {"QLinearConv": 20, "QLinearAdd": 8, "QGemm": 1, "NhwcMaxPool": 1, "QLinearGlobalAveragePool": 1},
    "resnet50": {"QLinearConv": 17, "QLinearAdd": 4, "QGemm": 1, "NhwcMaxPool": 1, "QLinearGlobalAveragePool": 1},
    "mobilenetv2_050": {"QLinearConv": 52, "QLinearAdd": 10, "QGemm": 1, "QLinearGlobalAveragePool": 1},
    "efficientnet_b0": {
        "QLinearConv": 81, "QLinearSigmoid": 65, "QLinearMul": 65, "QLinearGlobalAveragePool": 17, "QLinearAdd": 9,
        "QGemm": 1,
    },
    "regnety_002": {
        "QLinearConv": 70, "QLinearGlobalAveragePool": 14, "QLinearSigmoid": 13, "QLinearMul": 13, "QLinearAdd": 13,
        "QGemm": 1,
    },
    "mobilenetv3_small_100": {
        "QLinearConv": 53, "QLinearAdd": 6 + 28, "QLinearMul": 28, "QLinearGlobalAveragePool": 10, "QGemm": 1,
    },
    "densenet121": {
        "QLinearConv": 32, "QLinearConcat": 8, "QLinearAveragePool": 3, "NhwcMaxPool": 1, "QGemm": 1,
        "QLinearGlobalAveragePool": 1,
    },
}  # fmt: skip
PARTLY_FLOAT = {
    "convnext_atto": {"QLinearConv": 40, "QLinearAdd": 12, "QGemm": 1, "LayerNormalization": 17, "Gelu": 12},
    "vit_tiny_patch16_224": {"QLinearConv": 1, "QGemm": 9, "QLinearAdd": 5, "LayerNormalization": 5, "Gelu": 2},
}


def int8_file(name: str, folder: Path) -> Path:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10, **SHALLOW.get(name, {})).eval()
    config = {
        layer: LayerBits("quantize")
        for layer, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }
    network = quantize(model, config, lambda _, spec: UniformFakeQuantizer(spec), input_size=(3, 64, 64))
    calibrate(network, ())
    file = folder / "model.onnx"
    export(harden(network, dry_run=True), file, (3, 64, 64))
    return file


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "resnet18" else pytest.mark.slow) for name in EXPECTED]
)
def test_a_network_with_integer_kernels_has_no_other_float_operators(name: str, tmp_path: Path) -> None:
    histogram = operator_histogram(int8_file(name, tmp_path))
    for operator in INTEGER_FRIENDLY:
        histogram.pop(operator, None)
    assert histogram == EXPECTED[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTLY_FLOAT)
def test_float_norms_do_not_prevent_the_fusions_around_them(name: str, tmp_path: Path) -> None:
    file = int8_file(name, tmp_path)
    histogram = operator_histogram(file)
    assert {operator: histogram.get(operator) for operator in PARTLY_FLOAT[name]} == PARTLY_FLOAT[name]
    assert not {"Conv", "Gemm", "FusedConv"} & set(histogram)
    assert custom_operators(file) == set()


def test_weights_are_integer_initializers(tmp_path: Path) -> None:
    integers, floats = integer_bytes(int8_file("resnet18", tmp_path))
    assert integers > 11_000_000
    assert floats < 0.01 * integers
