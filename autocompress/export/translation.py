"""ONNX forms of our own operators, and better forms of a few operators of torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnxscript import opset21 as op

from autocompress.quantization import ops  # noqa: F401 - registers the operators


def _constant(value: Any, dtype: type) -> Any:
    return op.Constant(value=onnx.numpy_helper.from_array(np.asarray(value, dtype=dtype)))


def _round_trip(x: Any, scale: float, zero_point: int, low: int, high: int) -> Any:
    step, zero = _constant(scale, np.float32), _constant(zero_point, np.uint8)
    return op.DequantizeLinear(_saturated(op.QuantizeLinear(x, step, zero), low, high), step, zero)


def _hard_sigmoid(x: Any, scale: float, zero_point: int, low: int, high: int) -> Any:
    step, zero = _constant(scale, np.float32), _constant(zero_point, np.uint8)
    three = op.DequantizeLinear(_constant(255, np.uint8), _constant(3 / 255, np.float32), _constant(0, np.uint8))
    # Quantized with six times the step and dequantized with the step; the runtime uses the
    # scales of each operator as they are.
    integers = op.QuantizeLinear(op.Add(x, three), _constant(6 * np.float32(scale), np.float32), zero)
    return op.DequantizeLinear(_saturated(integers, low, high), step, zero)


def _saturated(integers: Any, low: int, high: int) -> Any:
    # uint8 saturates at 255; fewer bits need explicit bounds. The runtime fuses integer bounds,
    # but not a float Clip.
    if high < 255:
        integers = op.Min(integers, _constant(high, np.uint8))
    if low > 0:
        integers = op.Max(integers, _constant(low, np.uint8))
    return integers


def _dequantize(integers: Any, scale: Any, zero_point: Any = None, axis: int | None = None) -> Any:
    if axis is None:
        return op.DequantizeLinear(integers, scale, zero_point)
    return op.DequantizeLinear(integers, scale, zero_point, axis=axis)


def _mean(x: Any, dim: Sequence[int] | None = None, keepdim: bool = False, dtype: int = -1) -> Any:
    """A mean over height and width as GlobalAveragePool, which has float and integer kernels."""
    if len(x.shape or ()) == 4 and dim is not None and sorted(d % 4 for d in dim) == [2, 3] and dtype in (-1, None):
        pooled = op.GlobalAveragePool(x)
        return pooled if keepdim else op.Squeeze(pooled, _constant([2, 3], np.int64))
    if dim is None or len(dim) == 0:
        return op.ReduceMean(x, keepdims=keepdim)
    return op.ReduceMean(x, _constant(list(dim), np.int64), keepdims=keepdim)


def _batch_norm(
    x: Any,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Any:
    del momentum, cudnn_enabled  # have no effect in eval mode
    if training or running_mean is None or running_var is None:
        raise NotImplementedError("statistics of the batch")
    shape = op.Shape(running_mean)
    if weight is None:
        weight = op.ConstantOfShape(shape, value=onnx.numpy_helper.from_array(np.ones(1, np.float32)))
    if bias is None:
        bias = op.ConstantOfShape(shape)
    return op.BatchNormalization(x, weight, bias, running_mean, running_var, epsilon=eps)


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """The table for ``torch.onnx.export(custom_translation_table=...)``."""
    return {
        torch.ops.autocompress.round_trip.default: _round_trip,
        torch.ops.autocompress.hard_sigmoid.default: _hard_sigmoid,
        torch.ops.autocompress.dequantize.default: _dequantize,
        torch.ops.aten.mean.dim: _mean,
    }


def direct_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """The translations above, and those of operators that ``torch.onnx.export`` would decompose.

    These raise if they do not apply.
    """
    return {**translation_table(), torch.ops.aten.batch_norm.default: _batch_norm}
