"""No two layers of a file share an integer tensor, because that fails without VNNI."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from torch import nn

from autocompress.export import check_agreement, export
from autocompress.export.exporter import to_onnx
from autocompress.export.packing import pack_weights
from autocompress.export.unshare import unshare
from autocompress.quantization import LayerBits, calibrate, harden, quantize
from autocompress.quantization.fakequant import UniformFakeQuantizer

SIZE = (3, 8, 8)
WIDTH = 160  # zero points of up to 127 bytes are stored in another way and may be shared


def depthwise() -> nn.Conv2d:
    """800 weights, because the exporter does not share tensors of more than 1,024."""
    return nn.Conv2d(WIDTH, WIDTH, (5, 1), padding=(2, 0), groups=WIDTH, bias=False)


class Twins(nn.Module):
    """Two convolutions with equal weights, and two linear layers with equal widths."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.first, self.second = (depthwise() for _ in range(2))
        self.second.load_state_dict(self.first.state_dict())
        self.hidden, self.wide = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.classifier = nn.Linear(WIDTH, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first(self.stem(x).relu()).relu()).relu().mean((2, 3))
        logits: torch.Tensor = self.classifier(self.wide(self.hidden(x).relu()).relu())
        return logits


def hardened(bits: int) -> nn.Module:
    torch.manual_seed(0)
    model = Twins().eval()
    config = {
        name: LayerBits("q", bits) for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)
    }
    network = quantize(model, config, lambda _, spec: UniformFakeQuantizer(spec), input_size=SIZE)
    calibrate(network, [torch.randn(16, *SIZE)])
    return harden(network)


def readers(proto: onnx.ModelProto) -> dict[str, int]:
    """The number of layers that read each int8 tensor of a file."""
    tensors = {tensor.name for tensor in proto.graph.initializer if tensor.data_type == TensorProto.INT8}
    producers = {node.output[0]: node for node in proto.graph.node}
    weights = [
        producers[node.input[1]]
        for node in proto.graph.node
        if node.op_type in ("Conv", "Gemm", "MatMul") and node.input[1] in producers
    ]
    return Counter(name for node in weights for name in node.input if name in tensors)


def test_the_exporter_shares_equal_tensors() -> None:
    """Otherwise, the next tests would show nothing."""
    shared = readers(to_onnx(hardened(8), torch.zeros(2, *SIZE)))
    assert shared["first.weight"] == 2
    assert any(count > 2 for name, count in shared.items() if "zero_point" in name)


@pytest.mark.parametrize("bits", [8, 4, 3])
def test_layers_share_no_integers_in_a_file(bits: int, tmp_path: Path) -> None:
    network, file = hardened(bits), tmp_path / "model.onnx"
    export(network, file, SIZE)
    proto = onnx.load(str(file))
    onnx.checker.check_model(proto, full_check=True)
    assert set(readers(proto).values()) <= {1}
    agreement = check_agreement(file, network, torch.randn(64, *SIZE))
    assert agreement.images == 64
    assert agreement.max_error < 0.02


def test_copies_are_packed_too() -> None:
    network = hardened(4)
    proto = to_onnx(network, torch.zeros(2, *SIZE))
    copies = unshare(proto)
    weights = {copy: name for copy, name in copies.items() if name.endswith(".weight")}
    assert list(weights.values()) == ["first.weight"]
    packed = pack_weights(proto, network, copies)
    assert {*weights, *weights.values()} <= set(packed), packed


def test_unshared_tensors_are_not_changed() -> None:
    proto = to_onnx(hardened(8), torch.zeros(2, *SIZE))
    assert unshare(proto)
    before = proto.SerializeToString()
    assert unshare(proto) == {}
    assert proto.SerializeToString() == before


def test_values_are_copied_exactly() -> None:
    proto = to_onnx(hardened(8), torch.zeros(2, *SIZE))
    copies = unshare(proto)
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    assert all(np.array_equal(arrays[copy], arrays[name]) for copy, name in copies.items())
