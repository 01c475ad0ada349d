"""Small quantized layers with the largest weights and inputs, and their exact results.

A runtime has several integer kernels: pointwise, indirect and depthwise convolutions, matrix times
matrix, matrix times vector, and kernels for remainders where a size is not a multiple of a vector.
Each of them could overflow, so each is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

STEP = 4096.0
"""Step of the grid of the output: a power of two, so requantization is exact."""
ZERO = 128
"""Zero point of the output."""
OPSET, IR_VERSION = 21, 10

Operator = Literal["Conv", "Gemm", "MatMul", "MatMulInteger"]


@dataclass(frozen=True)
class Layer:
    """One layer with steps of 1 for inputs and weights.

    Attributes:
        operator: operator of ONNX. As in an exported file, all but MatMulInteger read a
            DequantizeLinear and are followed by a QuantizeLinear.
        x: uint8; ``(1, C, H, W)`` for Conv, else ``(rows, K)``.
        weight: int8; ``(O, C / groups, k, k)`` for Conv (``k // 2`` pixels of padding),
            ``(O, K)`` for Gemm, else ``(K, O)``.
        groups: number of groups of a convolution.
    """

    operator: Operator
    x: np.ndarray
    weight: np.ndarray
    groups: int = 1

    def sums(self) -> np.ndarray:
        """The exact sums of products, int64."""
        x, weight = self.x.astype(np.int64), self.weight.astype(np.int64)
        if self.operator != "Conv":
            return x @ (weight.T if self.operator == "Gemm" else weight)
        return _convolve(x[0], weight, self.groups)[None]

    def expected(self) -> np.ndarray:
        """The exact result: int32 sums for MatMulInteger, else uint8 on a grid of ``STEP``."""
        return self.requantize(self.sums())

    def requantize(self, sums: np.ndarray) -> np.ndarray:
        """The output of the layer whose sums of products are ``sums``."""
        if self.operator == "MatMulInteger":
            return sums.astype(np.int32)
        return np.clip(np.rint(sums / STEP) + ZERO, 0, 255).astype(np.uint8)


Runner = Callable[[Sequence[Layer], int, Mapping[str, str]], list[np.ndarray]]
"""(layers, threads, session configuration entries) -> the output of each layer."""


def _convolve(x: np.ndarray, weight: np.ndarray, groups: int) -> np.ndarray:
    """Convolves ``(C, H, W)`` with ``(O, C / groups, k, k)``, stride 1, padding ``k // 2``."""
    outputs, inputs, kernel, _ = weight.shape
    height, width = x.shape[1:]
    padded = np.pad(x, ((0, 0), *[(kernel // 2, kernel // 2)] * 2))
    found = np.zeros((outputs, height, width), np.int64)
    for group in range(groups):
        mine = padded[group * inputs : (group + 1) * inputs]
        rows = slice(group * outputs // groups, (group + 1) * outputs // groups)
        for i in range(kernel):
            for j in range(kernel):
                found[rows] += np.einsum("oc,chw->ohw", weight[rows, :, i, j], mine[:, i : i + height, j : j + width])
    return found


@cache
def extreme_layers() -> tuple[Layer, ...]:
    """Layers with weights of -127 and 127 and inputs of 0 and 255, one for each kernel.

    Some sizes are multiples of a vector, others are not.
    """
    random = np.random.default_rng(0)

    def layer(operator: Operator, x: tuple[int, ...], weight: tuple[int, ...], groups: int = 1) -> Layer:
        return Layer(
            operator,
            random.choice(np.array([0, 255], np.uint8), x),
            random.choice(np.array([-127, 127], np.int8), weight),
            groups,
        )

    def convolution(inputs: int, outputs: int, kernel: int, size: int, groups: int = 1) -> Layer:
        return layer("Conv", (1, inputs, size, size), (outputs, inputs // groups, kernel, kernel), groups)

    return (
        *(convolution(64, outputs, 1, 8) for outputs in (64, 24)),  # pointwise
        convolution(18, 10, 1, 5),
        convolution(3, 16, 3, 9),  # a stem
        *(convolution(16, outputs, 3, 8) for outputs in (16, 12)),
        convolution(64, 64, 3, 7),
        convolution(6, 9, 5, 5),
        *(convolution(channels, channels, kernel, 8, channels) for channels in (16, 40) for kernel in (3, 5)),
        convolution(10, 10, 7, 8, 10),
        *(convolution(32, 32, 3, 6, groups) for groups in (2, 8)),
        *(layer("Gemm", (rows, 64), (32, 64)) for rows in (1, 4)),
        layer("Gemm", (1, 31), (10, 31)),
        *(layer("MatMul", (rows, 64), (64, 32)) for rows in (1, 13)),
        layer("MatMul", (5, 30), (30, 10)),
        *(layer("MatMulInteger", (rows, 64), (64, 32)) for rows in (1, 13)),
        layer("MatMulInteger", (3, 30), (30, 10)),
    )


def run_layers(layers: Sequence[Layer], threads: int, config: Mapping[str, str]) -> list[np.ndarray]:
    """Runs ``layers`` in the installed ONNX Runtime, all in one session."""
    import onnxruntime  # imported here, because it is slow

    from autocompress.runtime.options import session_options  # imported here, because options imports this module

    session = onnxruntime.InferenceSession(
        model_of(layers).SerializeToString(), session_options(threads, config), providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, {f"x{i}": layer.x for i, layer in enumerate(layers)}))


def model_of(layers: Sequence[Layer]) -> ModelProto:
    """One ONNX model with inputs ``x0, x1, ...`` and an output ``y0, y1, ...`` for each layer."""
    from onnx import TensorProto, helper, numpy_helper  # imported here, because it is slow

    arrays: dict[str, np.ndarray | np.generic] = {
        "one": np.float32(1),
        "zx": np.uint8(0),
        "sy": np.float32(STEP),
        "zy": np.uint8(ZERO),
    }
    nodes: list[NodeProto] = []
    for i, layer in enumerate(layers):
        # Each weight has its own zero point: the exact mode rewrites them and refuses a shared one.
        arrays |= {f"w{i}": layer.weight, f"zw{i}": np.int8(0)}
        if layer.operator == "Gemm":
            arrays[f"b{i}"] = np.zeros(len(layer.weight), np.int32)
        nodes += _nodes(i, layer)
    integers = [TensorProto.INT32 if layer.operator == "MatMulInteger" else TensorProto.UINT8 for layer in layers]
    graph = helper.make_graph(
        nodes,
        "extremes",
        [helper.make_tensor_value_info(f"x{i}", TensorProto.UINT8, layer.x.shape) for i, layer in enumerate(layers)],
        [helper.make_tensor_value_info(f"y{i}", kind, None) for i, kind in enumerate(integers)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def _nodes(i: int, layer: Layer) -> list[NodeProto]:
    from onnx import helper

    if layer.operator == "MatMulInteger":
        return [helper.make_node("MatMulInteger", [f"x{i}", f"w{i}", "zx"], [f"y{i}"])]
    attributes: dict[str, Any] = {}
    inputs, bias = [f"xf{i}", f"wf{i}"], []
    if layer.operator == "Conv":
        attributes = {"group": layer.groups, "pads": [layer.weight.shape[-1] // 2] * 4}
    elif layer.operator == "Gemm":  # without a bias of int32 the runtime keeps it in float
        attributes = {"transB": 1}
        inputs.append(f"bf{i}")
        bias = [helper.make_node("DequantizeLinear", [f"b{i}", "one"], [f"bf{i}"])]
    return [
        helper.make_node("DequantizeLinear", [f"x{i}", "one", "zx"], [f"xf{i}"]),
        helper.make_node("DequantizeLinear", [f"w{i}", "one", f"zw{i}"], [f"wf{i}"]),
        *bias,
        helper.make_node(layer.operator, inputs, [f"yf{i}"], **attributes),
        helper.make_node("QuantizeLinear", [f"yf{i}", "sy", "zy"], [f"y{i}"]),
    ]
