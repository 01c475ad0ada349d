"""Computes constants of a file once, for runtimes that would compute them at every run.

ONNX Runtime unpacks packed weights when it loads a file. OpenVINO (2026.4) folds casts, but no bit
shifts: with weights of 3 bits, a network took as long as in float.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from autocompress.runtime import session_options

KEPT = frozenset({"DequantizeLinear", "QuantizeLinear"})
"""Operators that the runtime needs to recognise integers, so they stay in the file."""


def with_constants(model: Path | bytes) -> bytes:
    """The model with its constant values as initializers.

    A value is constant if it depends on no input and on no operator of ``KEPT``. ``model`` is a
    file or its bytes.

    Raises:
        Exception: any exception of ONNX or ONNX Runtime, if the file is not a model.
    """
    proto = onnx.load_model_from_string(model) if isinstance(model, bytes) else onnx.load(str(model))
    graph = proto.graph
    known = {tensor.name for tensor in graph.initializer}
    constant: list[onnx.NodeProto] = []
    others: list[onnx.NodeProto] = []
    for node in graph.node:
        is_constant = node.op_type not in KEPT and all(name in known or not name for name in node.input)
        (constant if is_constant else others).append(node)
        if is_constant:
            known.update(node.output)
    wanted = sorted({name for node in others for name in node.input} & {n for node in constant for n in node.output})
    if not wanted:
        return proto.SerializeToString()
    values = _computed(proto, constant, wanted)
    del graph.node[:]
    graph.node.extend(others)
    graph.initializer.extend(numpy_helper.from_array(values[name], name) for name in wanted)
    read = {name for node in others for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return proto.SerializeToString()


def _computed(proto: onnx.ModelProto, nodes: list[onnx.NodeProto], wanted: list[str]) -> dict[str, np.ndarray]:
    part = onnx.ModelProto()
    part.CopyFrom(proto)
    for field in ("node", "input", "output", "value_info"):
        part.graph.ClearField(field)
    part.graph.node.extend(nodes)
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    session = onnxruntime.InferenceSession(
        part.SerializeToString(), session_options(1), providers=["CPUExecutionProvider"]
    )
    return dict(zip(wanted, session.run(None, {}), strict=True))
