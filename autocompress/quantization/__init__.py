"""Quantization: fake-quantizers, where they go, and the hardened network of integers that comes out."""

from autocompress.quantization.counts import operator_counts
from autocompress.quantization.folding import fold_batch_norm
from autocompress.quantization.network import QuantizedNetwork, calibrate, harden, plan, quantize, rebuild
from autocompress.quantization.placement import LayerBits, Placement, Point, place

__all__ = [
    "LayerBits",
    "Placement",
    "Point",
    "QuantizedNetwork",
    "calibrate",
    "fold_batch_norm",
    "harden",
    "operator_counts",
    "place",
    "plan",
    "quantize",
    "rebuild",
]
