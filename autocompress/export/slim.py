"""Removes bytes that no runtime needs: a tenth of the file of a small network at few bits."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from autocompress.export.exporter import OPSET


def slim(proto: onnx.ModelProto) -> None:
    """Removes from ``proto``, in place, values that a runtime knows or computes at load.

    Tensors that are quantized again on the same grid are quantized once. Scales of biases become
    products of two other scales. Zero points of zero are removed from convolutions. Nodes lose
    their names, and attributes that have their default values.
    """
    _drop_repeated_quantizers(proto.graph)
    _derive_bias_scales(proto.graph)
    _drop_zero_points(proto.graph)
    for node in proto.graph.node:
        node.name = ""
        _drop_defaults(node)


def _drop_repeated_quantizers(graph: onnx.GraphProto) -> None:
    """Removes pairs of quantizer and dequantizer behind a dequantizer of the same grid.

    Rounding a second time changes nothing. Such a pair remains where the optimizer removes an
    operator that does nothing, such as the slice of all channels at the end of a ghost module.
    OpenVINO 2026.4 crashes while it loads a file with such a pair behind a concatenation.
    """
    producers = {name: node for node in graph.node for name in node.output}
    outputs = {value.name for value in graph.output}
    same: dict[str, str] = {}
    kept: list[onnx.NodeProto] = []
    for node in graph.node:
        quantizer = producers.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        first = producers.get(quantizer.input[0]) if quantizer and quantizer.op_type == "QuantizeLinear" else None
        is_pair = first is not None and first.op_type == "DequantizeLinear" and node.output[0] not in outputs
        grid = _grid(node)
        if first is not None and is_pair and grid is not None and _grid(first) == _grid(quantizer) == grid:
            same[node.output[0]] = first.output[0]
            continue
        kept.append(node)
        for place, name in enumerate(node.input):
            node.input[place] = same.get(name, name)
    read = {name for node in kept for name in node.input}
    quantizers = {producers[name].input[0] for name in same}
    kept = [node for node in kept if node.output[0] not in quantizers - read - outputs]
    _replace(graph, kept, without=set())


def _grid(node: onnx.NodeProto | None) -> list[object] | None:
    """Scale, zero point, axis and block size of a QuantizeLinear or a DequantizeLinear.

    None without a zero point, because the type of the integers is then not known here.
    """
    if node is None or len(node.input) < 3 or not node.input[2]:
        return None
    return [*node.input[1:], sorted((one.name, one.i) for one in node.attribute if one.name in ("axis", "block_size"))]


def _derive_bias_scales(graph: onnx.GraphProto) -> None:
    """Stores ``bias_scale`` as a node ``input_scale * weight_scale`` if the result is the same."""
    tensors, producers = _by_name(graph)
    layers = []
    for node in graph.node:
        scales = [_input(producers.get(name), 1) for name in node.input]
        if node.op_type in ("Conv", "Gemm") and len(scales) == 3 and all(name in tensors for name in scales):
            layers.append(scales)
    # The exporter stores equal tensors once. If the tensor is also the scale of an input or a
    # weight, it must not become a product.
    factors = {name for scales in layers for name in scales[:2]}
    derived: dict[str, onnx.NodeProto] = {}
    for of_input, of_weight, of_bias in layers:
        product = numpy_helper.to_array(tensors[of_input]) * numpy_helper.to_array(tensors[of_weight])
        multiply = helper.make_node("Mul", [of_input, of_weight], [of_bias])
        same = np.array_equal(product, numpy_helper.to_array(tensors[of_bias]))
        if same and of_bias not in factors and multiply.ByteSize() < tensors[of_bias].ByteSize():
            derived[of_bias] = multiply
    _replace(graph, [*derived.values(), *graph.node], without=set(derived))


def _drop_zero_points(graph: onnx.GraphProto) -> None:
    """Removes zero points of zero from weights of convolutions.

    Those of a Gemm stay: without a zero point, ONNX Runtime computes a Gemm in float.
    """
    tensors, producers = _by_name(graph)
    dropped = set()
    for node in graph.node:
        source = producers.get(node.input[1]) if node.op_type == "Conv" else None
        zero = tensors.get(_input(source, 2))
        if source is not None and zero is not None and not numpy_helper.to_array(zero).any():
            dropped.add(zero.name)
            del source.input[2:]
    still_read = {name for node in graph.node for name in node.input}
    _replace(graph, list(graph.node), without=dropped - still_read)


def _input(node: onnx.NodeProto | None, number: int) -> str:
    """Name of the data, scale or zero point of ``node``, if it is a DequantizeLinear."""
    if node is None or node.op_type != "DequantizeLinear" or len(node.input) <= number:
        return ""
    return node.input[number]


def _drop_defaults(node: onnx.NodeProto) -> None:
    if not onnx.defs.has(node.op_type, OPSET, node.domain):
        return
    known = onnx.defs.get_schema(node.op_type, OPSET, node.domain).attributes
    kept = [
        attribute
        for attribute in node.attribute
        if attribute.name not in known or attribute.SerializeToString() != _default(known[attribute.name])
    ]
    del node.attribute[:]
    node.attribute.extend(kept)


def _default(attribute: onnx.defs.OpSchema.Attribute) -> bytes:
    return attribute.default_value.SerializeToString()


def _by_name(graph: onnx.GraphProto) -> tuple[dict[str, onnx.TensorProto], dict[str, onnx.NodeProto]]:
    return {t.name: t for t in graph.initializer}, {name: node for node in graph.node for name in node.output}


def _replace(graph: onnx.GraphProto, nodes: list[onnx.NodeProto], without: set[str]) -> None:
    """Sets the nodes of ``graph``, and removes the initializers ``without``."""
    tensors = [tensor for tensor in graph.initializer if tensor.name not in without]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensors)
