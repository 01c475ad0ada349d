"""Files of one network in float, in integers and mixed, for timing; their weights are random."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from autocompress.contract import Deployable, LayerSpec, PlacementTable
from autocompress.export import export
from autocompress.quantization import LayerBits, calibrate, harden, quantize
from autocompress.quantization.fakequant import UniformFakeQuantizer
from autocompress.quantization.network import network_regions
from autocompress.quantization.placement import ONNX_RUNTIME
from autocompress.quantization.regions import Regions

QUANTIZER = "uniform"
"""A placeholder for the name of a quantizer: all fake-quantizers are uniform ones of 8 bits."""


@dataclass(frozen=True)
class Network:
    """A float network for which a placement is sought.

    Attributes:
        model: network in eval mode; it is not changed.
        input_size: (channels, height, width).
        specs: descriptions of the layer types that plugins brought.
        table: placement table of the device.
    """

    model: nn.Module
    input_size: tuple[int, int, int]
    specs: Sequence[LayerSpec] = ()
    table: PlacementTable = ONNX_RUNTIME

    @property
    def config(self) -> Mapping[str, LayerBits]:
        """8 bits for every layer."""
        layers = [name for name, layer in self.model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
        return {name: LayerBits(QUANTIZER) for name in layers}

    def regions(self) -> Regions:
        """Its regions.

        Raises:
            UntraceableModel: if it cannot be traced.
        """
        return network_regions(self.model, self.config, self.input_size, self.specs, self.table)

    def in_float(self, file: Path) -> Deployable:
        """Writes the float file."""
        export(self.model, file, self.input_size, specs=self.specs)
        return Deployable(file, self.input_size)

    def in_integers(self, file: Path, floats: Collection[str] = ()) -> Deployable:
        """Writes a file of 8 bits in which the regions of ``floats`` compute in float."""
        config = {name: replace(bits, in_float=name in floats) for name, bits in self.config.items()}
        network = quantize(
            self.model,
            config,
            lambda _, spec: UniformFakeQuantizer(spec),
            input_size=self.input_size,
            specs=self.specs,
            table=self.table,
        )
        calibrate(network, [])
        export(harden(network, dry_run=True), file, self.input_size, specs=self.specs)
        return Deployable(file, self.input_size)
