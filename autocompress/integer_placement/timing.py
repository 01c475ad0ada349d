"""Times regions in both forms, and conversions of tensors between integers and float."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from autocompress.contract import Device, PlacementTable
from autocompress.devices import layer_times
from autocompress.integer_placement.costs import Change
from autocompress.integer_placement.files import Network
from autocompress.job import DeviceConfig
from autocompress.quantization.regions import Pattern, Regions

MAPS = ((16, 64), (64, 56), (96, 28), (256, 14))
"""(channels, pixels) of the tensors between convolutions that are timed."""
ROWS = ((197, 192), (49, 384), (64, 768))
"""(rows, features) of the tensors between linear layers that are timed."""
DEPTH = 4
"""Layers of a network for timing conversions; the middle two compute in float."""


def time_regions(
    device: Device, config: DeviceConfig, network: Network, regions: Regions, folder: Path
) -> dict[Pattern, tuple[float, float]] | None:
    """Seconds in float and in integers of each pattern of ``network``.

    None if ``device`` has no profiler. Files are written to ``folder``.

    Raises:
        TrialFailed: if the runtime cannot load a file.
    """
    files = [network.in_float(folder / "float.onnx"), network.in_integers(folder / "integers.onnx")]
    times = layer_times(device, files, [region.layer for region in regions.regions], config)
    if times is None:
        return None
    in_float, in_integers = (found.layers for found in times)
    found: dict[Pattern, list[tuple[float, float]]] = {}
    for region in regions.regions:
        if region.layer in in_float and region.layer in in_integers:
            pair = in_float[region.layer], in_integers[region.layer]
            found.setdefault(region.pattern, []).append(pair)
    return {
        pattern: (statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs))
        for pattern, pairs in found.items()
    }


def time_changes(
    device: Device, config: DeviceConfig, table: PlacementTable, folder: Path
) -> tuple[Change, Change] | None:
    """Seconds to convert tensors of convolutions, and other tensors.

    Networks of equal layers are timed in float, in integers, and with float in the middle. The
    additional time of the last integer layer is the conversion to float. The additional time of the
    last float layer is the conversion to integers.

    Returns:
        (of convolutions, of others); None if ``device`` has no profiler.

    Raises:
        TrialFailed: if the runtime cannot load a file.
    """
    asked = config.model_copy(update={"input_size": None})
    nets = [Network(_convolutions(channels), (channels, size, size), table=table) for channels, size in MAPS]
    maps = [_changes(device, asked, network, folder) for network in nets]
    nets = [Network(_linears(features), (1, count, features), table=table) for count, features in ROWS]
    rows = [_changes(device, asked, network, folder) for network in nets]
    if None in maps or None in rows:
        return None
    return _fitted(maps), _fitted(rows)


def _changes(device: Device, config: DeviceConfig, network: Network, folder: Path) -> tuple[int, float, float] | None:
    """Number of values of each tensor, and seconds of conversion to integers and to float."""
    regions = network.regions()
    layers = [region.layer for region in regions.regions]
    middle = layers[1:-1]
    files = [
        network.in_float(folder / "float.onnx"),
        network.in_integers(folder / "integers.onnx"),
        network.in_integers(folder / "mixed.onnx", middle),
    ]
    times = layer_times(device, files, layers, config)
    if times is None:
        return None
    in_float, in_integers, mixed = (found.layers for found in times)
    leave, enter = mixed[layers[0]] - in_integers[layers[0]], mixed[middle[-1]] - in_float[middle[-1]]
    return math.prod(regions.regions[0].pattern.outputs), max(enter, 0.0), max(leave, 0.0)


def _fitted(timed: Sequence[tuple[int, float, float] | None]) -> Change:
    values, enter, leave = zip(*[each for each in timed if each is not None], strict=True)
    return Change.fitted(values, enter, leave)


def _convolutions(channels: int) -> nn.Module:
    layers = [layer for _ in range(DEPTH) for layer in (nn.Conv2d(channels, channels, 1), nn.ReLU())]
    return nn.Sequential(*layers).eval()


def _linears(features: int) -> nn.Module:
    return nn.Sequential(*[nn.Linear(features, features) for _ in range(DEPTH)]).eval()
