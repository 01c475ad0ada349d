"""Lets runtimes convert integer weights of float layers to float once, when they load a file.

A DequantizeLinear that is not fused into an integer operator would run at every inference. Cast and
Mul of constants are folded at load.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from autocompress.export.unshare import LAYERS


def fold_at_load(proto: onnx.ModelProto) -> list[str]:
    """Replaces DequantizeLinear of weights of float layers by operators that a runtime folds.

    The graph is changed in place.

    Args:
        proto: ONNX model of a hardened network, in which each layer dequantizes its own weight
            (:mod:`.unshare`). A layer computes in float if its bias is not made of integers.

    Returns:
        Names of the weights.
    """
    graph = proto.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    dequantized = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    wanted = {
        node.input[1]
        for node in graph.node
        if node.op_type in LAYERS
        and node.input[1] in dequantized
        and dequantized[node.input[1]].input[0] in tensors
        and not (len(node.input) > 2 and node.input[2] in dequantized)
    }
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        is_wanted = node.op_type == "DequantizeLinear" and node.output[0] in wanted
        nodes += _unfolded(graph, node, tensors) if is_wanted else [node]
    del graph.node[:]
    graph.node.extend(nodes)
    _drop_unread(graph)
    return [dequantized[name].input[0] for name in wanted]


def _unfolded(
    graph: onnx.GraphProto, node: onnx.NodeProto, tensors: dict[str, onnx.TensorProto]
) -> list[onnx.NodeProto]:
    weight, output = node.input[0], node.output[0]
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    rank = len(tensors[weight].dims)
    value = f"{output}/float"
    made = [helper.make_node("Cast", [weight], [value], to=TensorProto.FLOAT)]
    zero = numpy_helper.to_array(tensors[node.input[2]]) if len(node.input) > 2 else np.zeros(1)
    if zero.any():
        offset = _along(graph, f"{output}/zero", zero.astype(np.float32), rank, axis)
        made.append(helper.make_node("Sub", [value, offset], [f"{output}/centred"]))
        value = f"{output}/centred"
    scale = numpy_helper.to_array(tensors[node.input[1]])
    made.append(helper.make_node("Mul", [value, _along(graph, f"{output}/scale", scale, rank, axis)], [output]))
    return made


def _along(graph: onnx.GraphProto, name: str, values: np.ndarray, rank: int, axis: int) -> str:
    """A new initializer: ``values`` along ``axis`` of a tensor of ``rank`` dimensions."""
    shape = [1] * rank
    shape[axis] = -1
    graph.initializer.append(numpy_helper.from_array(values.reshape(shape if values.size > 1 else ()), name))
    return name


def _drop_unread(graph: onnx.GraphProto) -> None:
    read = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
