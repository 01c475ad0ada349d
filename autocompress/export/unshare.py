"""Gives each layer its own integer weights and zero points.

The exporter stores equal tensors once, and ONNX Runtime refuses such files on some processors.

On x86-64 without VNNI, its exact kernels (``autocompress.runtime.EXACT``) take uint8 weights. The
runtime makes uint8 copies of the int8 tensors of each layer, and names them after the tensors. It
refuses the file if a name occurs twice. That happens if two layers read one weight (norms before
training), or one zero point (linear layers of the same width, as in every transformer).
"""

from __future__ import annotations

import onnx
from onnx import TensorProto

LAYERS = ("Conv", "Gemm", "MatMul")


def unshare(proto: onnx.ModelProto) -> dict[str, str]:
    """Copies, in place, each tensor of a layer's weight that an earlier layer reads too.

    Returns:
        The name of each new initializer, and the name of its original.
    """
    graph = proto.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.INT8}
    producers = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    copies: dict[str, str] = {}
    taken: set[str] = set()
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        source = producers.get(node.input[1]) if node.op_type in LAYERS else None
        if source is not None and source.input[0] in tensors:
            if source.output[0] in taken:
                source = _copy_of(source, len(copies))
                nodes.append(source)
                node.input[1] = source.output[0]
            taken.add(source.output[0])
            for place, name in enumerate(source.input):
                original = copies.get(name, name)
                if name in taken and original in tensors:
                    source.input[place] = f"{original}/{len(copies)}"
                    copies[source.input[place]] = original
                taken.add(source.input[place])
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    for name, original in copies.items():
        tensor = graph.initializer.add()
        tensor.CopyFrom(tensors[original])
        tensor.name = name
    return copies


def _copy_of(node: onnx.NodeProto, number: int) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.output[0] = f"{node.output[0]}/{number}"
    return copy
