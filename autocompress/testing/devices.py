"""Rules for devices."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
from pydantic import ValidationError
from torch import nn

from autocompress import models
from autocompress.contract import FORMATS, Deployable, Device, Measurement, PlacementTable
from autocompress.devices import layer_times, measure
from autocompress.errors import TrialFailed
from autocompress.export import export
from autocompress.job import DeviceConfig
from autocompress.quantization.counts import operator_counts
from autocompress.testing.example import example_model
from autocompress.testing.rules import fingerprint, require, same_tensors, through_json

MEASURES = frozenset({"latency", "energy"})
SECONDS = 0.05


def check_device(device: Device, model: nn.Module | None = None, config: DeviceConfig | None = None) -> None:
    """Measures a model relative to itself, and checks everything on which the engine relies.

    Durations are not checked, so it also works on a busy machine.

    Args:
        device: usable on this machine.
        model: from ``autocompress.models``; the example model by default. It is not changed.
        config: settings of the run; by default those of the device.

    Raises:
        ContractViolation: naming the rule that is broken.
    """
    model = model if model is not None else example_model()
    config = config if config is not None else DeviceConfig(name=device.name)
    _check_words(device, config)
    size = models.input_size(model)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        export(model, file, size, {})
        deployable = Deployable(file, size, operator_counts(model, size), lambda: model)
        before = fingerprint(model)
        if not device.deterministic:
            _check_open(device, deployable, config, Path(folder))
        _check_measured(device, deployable, config)
        require(same_tensors(fingerprint(model), before), "a device must not change the model")


def _check_words(device: Device, config: DeviceConfig) -> None:
    require(bool(device.name.strip()), "a device must have a name")
    require(device.named(device.name) is device, "named must give the device itself for its own name")
    require(bool(device.measures) and device.measures <= MEASURES, "measures must name latency, energy or both")
    known = bool(device.formats) and device.formats <= set(FORMATS)
    require(known, f"formats must name some of {', '.join(FORMATS)}")
    try:
        device.Options.model_validate({"no such option": 1})
    except ValidationError:
        pass
    else:
        require(False, "Options must forbid unknown keys")
    require(isinstance(device.placement, PlacementTable), "placement must be a PlacementTable")
    unknown = device.placement.faults()
    require(not unknown, f"placement names operators that the engine does not know: {', '.join(unknown)}")
    multiple = device.channel_multiple
    whole = isinstance(multiple, int) and not isinstance(multiple, bool) and multiple >= 1
    require(whole, "channel_multiple must be a whole number of at least 1")
    reasons = device.check(config)
    require(reasons == [], f"check must return no reason where the device can be used, but returns {reasons}")
    through_json(device.environment(config), "environment")
    require("\n" not in device.describe(), "describe must be one line")


def _check_open(device: Device, deployable: Deployable, config: DeviceConfig, folder: Path) -> None:
    for batch in (1, 2):
        asked = config.model_copy(update={"batch": batch})
        images = np.random.default_rng(0).standard_normal((batch, *deployable.input_size), dtype=np.float32)
        before = images.copy()
        run = device.open(deployable, images, asked)
        run()
        run()
        require(np.array_equal(images, before), "open must not change the images")
    broken = folder / "broken.onnx"
    broken.write_bytes(b"no model")
    try:
        measure(device, Deployable(broken, deployable.input_size), deployable, config, seconds=SECONDS)
    except TrialFailed:
        pass
    else:
        require(False, "open must raise TrialFailed for a model that cannot be loaded")


def _check_measured(device: Device, deployable: Deployable, config: DeviceConfig) -> None:
    found = measure(device, deployable, deployable, config, seconds=SECONDS)
    through_json(found.environment, "a measurement's environment")
    if "latency" in device.measures:
        figures = (found.latency_ms, found.baseline_ms, found.ratio_low, found.latency_ratio, found.ratio_high)
        finite = all(math.isfinite(figure) and figure > 0 for figure in figures)
        require(finite, "latencies and their ratios must be finite and above 0")
        require(found.ratio_low <= found.latency_ratio <= found.ratio_high, "the interval must hold the ratio")
    if "energy" in device.measures:
        require(found.energy_uj is not None and found.energy_uj > 0, "energy must be above 0")
    if device.deterministic:
        again: Measurement = device.compare(deployable, deployable, config)
        require(_figures(again) == _figures(found), "a deterministic device must give the same figures again")
    layers = [counted.layer for counted in deployable.operators]
    times = layer_times(device, [deployable], layers, config)
    require(times is None or len(times) == 1, "layer_times must have one entry for each model")


def _figures(found: Measurement) -> list[str]:
    return [repr(figure) for figure in (found.latency_ms, found.latency_ratio, found.baseline_ms, found.energy_uj)]
