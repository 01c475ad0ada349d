"""Weights below 8 bits: packed in the file, unpacked once when a runtime loads it.

An integer is stored as ``index = (integer - low) / step``, in the bits of its layer. The graph gets
operators that turn the index into int8. They only read constants, so a runtime folds them at load,
and then fuses the layer as at 8 bits. Four bits are a tensor type of ONNX (``Cast``). One and two
bits are packed into uint8 (``BitShift``, ``BitwiseAnd``). Other widths are composed of planes of 4,
2 and 1 bits (``BitwiseOr``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from autocompress.errors import TrialFailed
from autocompress.quantization.layers import HardenedConv2d, HardenedLinear

PLANES = (4, 2, 1)
"""Bits of the planes. Each width below 8 is a sum of some of them.

The first plane of a width holds the lowest bits.
"""


def pack_weights(proto: onnx.ModelProto, model: nn.Module, copies: Mapping[str, str] | None = None) -> list[str]:
    """Packs the weights of ``model``'s hardened layers that have less than 8 bits, in place.

    Hardened layers of plugins are packed too if ``weight`` is a buffer of uint8, with codes from 0.

    A small weight stays int8 if the added operators would take more bytes than packing saves.

    Args:
        proto: exported from ``model``; weights are int8 or uint8 initializers under their names in
            ``model``.
        model: hardened; other models have nothing to pack.
        copies: names of copied initializers, and the names of their originals in ``model``.

    Returns:
        Names of the packed initializers. Nodes now compute values of the same names and types.

    Raises:
        TrialFailed: if a layer's integers do not fit its bits, lowest integer and step.
    """
    layers = {f"{name}.weight": layer for name, layer in model.named_modules() if _has_few_bits(layer)}
    graph, constants, packed = proto.graph, dict[str, onnx.TensorProto](), dict[str, _Unpacking]()
    # Large weights first: they add constants, which small weights then share.
    for tensor in sorted(graph.initializer, key=lambda tensor: -len(tensor.raw_data)):
        if layer := layers.get((copies or {}).get(tensor.name, tensor.name)):
            own = _Unpacking(tensor.name, len(packed))
            low, step = getattr(layer, "weight_low", 0), getattr(layer, "weight_step", 1)
            own.build(numpy_helper.to_array(tensor), int(layer.weight_bits), int(low), int(step))
            new = {name: constant for name, constant in own.constants.items() if name not in constants}
            if _size([*own.nodes, *own.tensors, *new.values()]) < _size([tensor]):
                packed[tensor.name] = own
                constants |= new
    nodes = [node for own in packed.values() for node in own.nodes] + list(graph.node)
    tensors = [tensor for tensor in graph.initializer if tensor.name not in packed]
    tensors += [tensor for own in packed.values() for tensor in own.tensors] + list(constants.values())
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensors)
    return list(packed)


def _has_few_bits(layer: nn.Module) -> bool:
    if isinstance(layer, HardenedConv2d | HardenedLinear):
        return layer.weight_bits < 8
    bits, weight = getattr(layer, "weight_bits", None), dict(layer.named_buffers(recurse=False)).get("weight")
    return isinstance(bits, int) and bits < 8 and weight is not None and weight.dtype == torch.uint8


def unpacking(integers: np.ndarray, bits: int, low: int, step: int, name: str = "weight") -> onnx.GraphProto:
    """A graph without inputs; its output ``name`` is ``integers``, int8, of ``bits`` bits each.

    Args:
        integers: at least one, any shape; each is ``low + index * step`` with ``0 <= index < 2 **
            bits``.
        bits: 1 to 7.
        low, step: smallest integer, and distance between neighbouring integers.
        name: name of the output.

    Raises:
        TrialFailed: if the integers do not have this form.
    """
    own = _Unpacking(name, 0)
    own.build(integers, bits, low, step)
    output = helper.make_tensor_value_info(name, TensorProto.INT8, integers.shape)
    return helper.make_graph(own.nodes, name, [], [output], [*own.tensors, *own.constants.values()])


@dataclass
class _Unpacking:
    """The tensors and nodes of one weight.

    Constants are named by their values, so that layers share them. Values between the nodes are
    named by ``number``, which is short and never the name of a module.
    """

    name: str
    number: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: list[onnx.TensorProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def build(self, integers: np.ndarray, bits: int, low: int, step: int) -> None:
        rest = _indices(integers, bits, low, step, self.name)
        wanted = TensorProto.UINT8 if integers.dtype == np.uint8 else TensorProto.INT8
        if bits == 4 and wanted == TensorProto.UINT8 and not low and step == 1:
            self._cast(self._nibbles(integers, TensorProto.UINT4, bits), wanted, self.name)
            return
        if bits == 4 and wanted == TensorProto.INT8 and integers.min() >= -8 and integers.max() <= 7:
            # ONNX has a tensor type for exactly these integers, so no further operator is needed.
            self._cast(self._nibbles(integers, TensorProto.INT4, bits), TensorProto.INT8, self.name)
            return
        index, position = "", 0
        for width in PLANES:
            if bits & width:
                plane = self._plane(rest & (2**width - 1), width)
                if position:
                    shifted = self._node("BitShift", plane, self._constant(position, np.uint8), direction="LEFT")
                    plane = self._node("BitwiseOr", index, shifted)
                index, position = plane, position + width
                rest = rest >> width
        # In int32, because some runtimes do not multiply or add int8.
        value = self._cast(index, TensorProto.INT32)
        if step != 1:
            value = self._node("Mul", value, self._constant(step, np.int32))
        if low:
            value = self._node("Add", value, self._constant(low, np.int32))
        self._cast(value, wanted, self.name)

    def _plane(self, values: np.ndarray, width: int) -> str:
        """``values``, uint8 below ``2 ** width``, as a uint8 tensor of the graph."""
        if width == 4:
            return self._cast(self._nibbles(values, TensorProto.UINT4, width), TensorProto.UINT8)
        per_byte = 8 // width
        shifts = np.arange(0, 8, width, dtype=np.uint8).reshape(per_byte, 1)
        # Byte i holds the values i, i + length, i + 2 * length, ..., so that one operator shifts
        # all bytes at once.
        length = -(-values.size // per_byte)
        rows = np.zeros(per_byte * length, np.uint8)
        rows[: values.size] = values.reshape(-1)
        stored = np.bitwise_or.reduce(rows.reshape(per_byte, length) << shifts, axis=0)
        packed = self._tensor(f"packed{width}", TensorProto.UINT8, (length,), stored.tobytes())
        shifted = self._node("BitShift", packed, self._constant(shifts, np.uint8), direction="RIGHT")
        value = self._node("BitwiseAnd", shifted, self._constant(2**width - 1, np.uint8))
        if rows.size > values.size:
            value = self._node("Reshape", value, self._constant([-1], np.int64))
            value = self._node("Slice", value, self._constant([0], np.int64), self._constant([values.size], np.int64))
        return self._node("Reshape", value, self._constant(values.shape, np.int64))

    def _nibbles(self, values: np.ndarray, kind: int, width: int) -> str:
        nibbles = np.zeros(values.size + values.size % 2, np.uint8)
        nibbles[: values.size] = values.reshape(-1).astype(np.uint8) & 15
        return self._tensor(f"packed{width}", kind, values.shape, (nibbles[::2] | nibbles[1::2] << 4).tobytes())

    def _tensor(self, suffix: str, kind: int, shape: tuple[int, ...], raw: bytes) -> str:
        name = f"{self.name}_{suffix}"
        self.tensors.append(helper.make_tensor(name, kind, shape, raw, raw=True))
        return name

    def _constant(self, value: Any, kind: type) -> str:
        array: np.ndarray = np.asarray(value, kind)
        name = "_".join([array.dtype.name, *(str(v) for v in array.reshape(-1))])
        self.constants[name] = numpy_helper.from_array(array, name)
        return name

    def _cast(self, value: str, to: int, output: str = "") -> str:
        return self._node("Cast", value, output=output, to=to)

    def _node(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or f"{self.number}/{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output


def _size(parts: Sequence[onnx.NodeProto | onnx.TensorProto]) -> int:
    """Bytes of ``parts`` in the file; each part has a tag and a length before it."""
    return sum(part.ByteSize() + 1 + max(1, -(-part.ByteSize().bit_length() // 7)) for part in parts)


def _indices(integers: np.ndarray, bits: int, low: int, step: int, name: str) -> np.ndarray:
    """``(integers - low) / step`` as uint8; raises unless these are from 0 to ``2 ** bits - 1``."""
    index, rest = np.divmod(integers.astype(np.int32) - low, step)
    if rest.any() or index.min() < 0 or index.max() >= 2**bits:
        raise TrialFailed(
            f"the integers of '{name}' do not fit {bits} bits: they go from {integers.min()} to {integers.max()}, "
            f"{low} should be the lowest and {step} the step between them"
        )
    return index.astype(np.uint8)
