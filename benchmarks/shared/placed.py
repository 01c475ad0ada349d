"""Writes a file with a tuned placement, calibrated as in a search."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from autocompress.export import export
from autocompress.integer_placement import MeasuredCosts
from autocompress.integer_placement.files import Network
from autocompress.quantization import calibrate, harden, quantize
from autocompress.quantization.fakequant import UniformFakeQuantizer


def write_tuned(
    network: Network, costs: MeasuredCosts | None, images: torch.Tensor, file: Path
) -> tuple[nn.Module, list[str]]:
    """Writes the file; returns the hardened model and the layers that compute in float."""
    quantized = quantize(
        network.model,
        network.config,
        lambda _, spec: UniformFakeQuantizer(spec),
        input_size=network.input_size,
        table=network.table,
        choose=None if costs is None else costs.floats,
    )
    calibrate(quantized, [images])
    hardened = harden(quantized)
    export(hardened, file, network.input_size)
    return hardened, [layer for layer, bits in quantized.config.items() if bits.in_float]
