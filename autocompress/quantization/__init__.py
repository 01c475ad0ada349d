"""Quantization: fake-quantizers, their placement, and the hardened network of integers."""

import autocompress.compat.torch_compiler  # noqa: F401  # imports timm, in half of the time
from autocompress.quantization.counts import operator_counts
from autocompress.quantization.folding import fold_batch_norm
from autocompress.quantization.hardening import harden, plan, rebuild
from autocompress.quantization.network import QuantizedNetwork, calibrate, quantize
from autocompress.quantization.placement import LayerBits, Placement, Point, place
from autocompress.quantization.unquantized import asked_but_float, float_layers

__all__ = [
    "LayerBits",
    "Placement",
    "Point",
    "QuantizedNetwork",
    "asked_but_float",
    "calibrate",
    "float_layers",
    "fold_batch_norm",
    "harden",
    "operator_counts",
    "place",
    "plan",
    "quantize",
    "rebuild",
]
