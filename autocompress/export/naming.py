"""Names weights that the exporter stores transposed, so that profiles find their layers."""

from __future__ import annotations

import onnx
from onnx import numpy_helper
from torch import nn

from autocompress.files import digest


def name_transposed(proto: onnx.ModelProto, model: nn.Module) -> None:
    """Names transposed weights of linear layers ``<layer>.weight/T``, in place.

    In the graph, they are second factors of matrix products, and the exporter only numbers them.
    """
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    factors = {node.input[1] for node in proto.graph.node if node.op_type == "MatMul" and node.input[1] in tensors}
    if not factors:
        return
    layers = {
        digest(list(layer.weight.shape), layer.weight.detach().cpu().numpy().tobytes()): name
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
    }
    names: dict[str, str] = {}
    for factor in factors:
        weight = numpy_helper.to_array(tensors[factor])
        layer = layers.get(digest(list(weight.shape[::-1]), weight.T.tobytes()))
        if layer is not None:
            names[factor] = f"{layer}.weight/T"
            tensors[factor].name = names[factor]
    for node in proto.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
