"""Parts that files leave out because runtimes do not need them.

Files are smaller and outputs exactly equal.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from onnx import TensorProto, helper, numpy_helper
from timm.models.ghostnet import GhostModule
from torch import fx, nn

from autocompress.export import export, open_session, operator_histogram
from autocompress.export.exporter import to_onnx
from autocompress.export.slim import slim
from autocompress.export.unshare import unshare
from autocompress.quantization import LayerBits, calibrate, harden, quantize
from autocompress.quantization.fakequant import UniformFakeQuantizer

SIZE = (3, 32, 32)


@pytest.fixture(scope="module")
def hardened() -> fx.GraphModule:
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=10).eval()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):  # biases of zero would be equal, and stored once
            nn.init.normal_(norm.bias, std=0.1)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
    layers = [name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    config = {name: LayerBits("q") for name in layers}
    network = quantize(model, config, lambda _, spec: UniformFakeQuantizer(spec), input_size=SIZE)
    calibrate(network, [torch.randn(8, *SIZE)])
    return harden(network)


def test_a_slim_file_computes_the_same(hardened: fx.GraphModule, tmp_path: Path) -> None:
    proto = to_onnx(hardened, torch.zeros(2, *SIZE))
    unshare(proto)
    onnx.save(proto, tmp_path / "before.onnx")
    slim(proto)
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, tmp_path / "after.onnx")
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    assert operator_histogram(after) == operator_histogram(before)
    images = np.random.default_rng(0).standard_normal((4, *SIZE), np.float32)
    logits = [open_session(file).run(None, {"image": images})[0] for file in (before, after)]
    assert np.array_equal(*logits)
    biases = [layer.bias_scale for layer in hardened.modules() if getattr(layer, "bias_scale", None) is not None]
    spared = before.stat().st_size - after.stat().st_size
    assert spared > sum(scale.numel() * 4 for scale in biases), "scales of biases are removed, and not only their nodes"


def graph_of(nodes: list[onnx.NodeProto], tensors: dict[str, np.ndarray]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 32, 1, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 32, 1, 1])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def layer(tensors: dict[str, np.ndarray], bias_scale: str = "bs", zero: str = "wz") -> onnx.ModelProto:
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "xs"], ["xf"]),
        helper.make_node("DequantizeLinear", ["w", "ws", zero], ["wf"], axis=0),
        helper.make_node("DequantizeLinear", ["b", bias_scale], ["bf"], axis=0),
        helper.make_node("Conv", ["xf", "wf", "bf"], ["y"], group=1, auto_pad="NOTSET", pads=[0, 0, 0, 0]),
    ]
    return graph_of(nodes, tensors)


@pytest.fixture
def tensors() -> dict[str, np.ndarray]:
    scale = np.linspace(0.01, 0.1, 32, dtype=np.float32)
    return {
        "xs": np.array(0.3, np.float32),
        "ws": scale,
        "bs": scale * np.float32(0.3),
        "w": np.ones((32, 32, 1, 1), np.int8),
        "wz": np.zeros(32, np.int8),
        "b": np.arange(32, dtype=np.int32),
    }


def names(model: onnx.ModelProto) -> set[str]:
    return {tensor.name for tensor in model.graph.initializer}


def test_parts_that_follow_from_others_are_removed(tensors: dict[str, np.ndarray]) -> None:
    model = layer(tensors)
    slim(model)
    assert names(model) == {"xs", "ws", "w", "b"}
    convolution = model.graph.node[-1]
    assert [attribute.name for attribute in convolution.attribute] == ["pads"]
    onnx.checker.check_model(model, full_check=True)


def test_a_bias_with_its_own_scale_keeps_it(tensors: dict[str, np.ndarray]) -> None:
    tensors["bs"] = np.nextafter(tensors["bs"], np.float32(1))
    model = layer(tensors)
    slim(model)
    assert "bs" in names(model)


def test_a_zero_point_that_is_not_zero_is_kept(tensors: dict[str, np.ndarray]) -> None:
    tensors["wz"][3] = 1
    model = layer(tensors)
    slim(model)
    assert "wz" in names(model)


def test_a_scale_is_not_computed_from_itself(tensors: dict[str, np.ndarray]) -> None:
    """With an input scale of 1, the exporter shares one tensor for weight and bias scales."""
    tensors["xs"] = np.array(1, np.float32)
    del tensors["bs"]
    model = layer(tensors, bias_scale="ws")
    slim(model)
    assert "ws" in names(model)
    onnx.checker.check_model(model, full_check=True)


def pair(values: str, scale: str, zero: str, name: str) -> list[onnx.NodeProto]:
    """A quantizer and a dequantizer, which writes ``name``."""
    return [
        helper.make_node("QuantizeLinear", [values, scale, zero], [f"{name}_q"]),
        helper.make_node("DequantizeLinear", [f"{name}_q", scale, zero], [name]),
    ]


@pytest.mark.parametrize(("second", "left"), [("xs", 1), ("other", 2)])
def test_values_are_quantized_once_on_each_grid(second: str, left: int) -> None:
    tensors = {"xs": np.array(0.3, np.float32), "other": np.array(0.2, np.float32), "z": np.array(128, np.uint8)}
    start = helper.make_node("DequantizeLinear", ["x", "xs", "z"], ["xf"])
    join = helper.make_node("Concat", ["xf", "xf"], ["joined"], axis=1)
    end = helper.make_node("Relu", ["twice"], ["y"])
    model = graph_of(
        [start, join, *pair("joined", "xs", "z", "once"), *pair("once", second, "z", "twice"), end], tensors
    )
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 64
    feed = {"x": np.arange(32, dtype=np.uint8).reshape(1, 32, 1, 1) * 8}
    before = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feed)[0]
    slim(model)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node].count("QuantizeLinear") == left
    assert np.array_equal(onnxruntime.InferenceSession(model.SerializeToString()).run(None, feed)[0], before)


def test_quantizers_of_an_output_stay() -> None:
    tensors = {"xs": np.array(0.3, np.float32), "z": np.array(128, np.uint8)}
    start = helper.make_node("DequantizeLinear", ["x", "xs", "z"], ["xf"])
    model = graph_of([start, *pair("xf", "xs", "z", "once"), *pair("once", "xs", "z", "y")], tensors)
    slim(model)
    onnx.checker.check_model(model, full_check=True)


def test_a_pair_of_another_type_of_integers_stays() -> None:
    """Without a zero point, a QuantizeLinear writes uint8, so negative values become 0."""
    start = helper.make_node("DequantizeLinear", ["xq", "xs"], ["xf"])
    again = [
        helper.make_node("QuantizeLinear", ["xf", "xs"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "xs"], ["d"]),
    ]
    cast = helper.make_node("Cast", ["x"], ["xq"], to=onnx.TensorProto.INT8)
    model = graph_of([cast, start, *again, helper.make_node("Relu", ["d"], ["y"])], {"xs": np.array(0.3, np.float32)})
    slim(model)
    assert [node.op_type for node in model.graph.node].count("QuantizeLinear") == 1


def test_a_ghost_network_quantizes_each_tensor_once(tmp_path: Path) -> None:
    """timm's ghost modules end with a slice of all channels, which the optimizer removes."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), GhostModule(8, 8), GhostModule(8, 8)).eval()
    layers = [name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)]
    network = quantize(
        model, {name: LayerBits("q") for name in layers}, lambda _, spec: UniformFakeQuantizer(spec), input_size=SIZE
    )
    calibrate(network, [torch.randn(4, *SIZE)])
    export(harden(network), tmp_path / "ghost.onnx", SIZE)
    graph = onnx.load(tmp_path / "ghost.onnx").graph
    assert [node.op_type for node in graph.node].count("Concat") == 2
    dequantized = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    assert not [node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] in dequantized]
