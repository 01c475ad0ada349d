"""Rules for devices."""

from __future__ import annotations

import copy
import math
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError
from torch import nn

from autocompress import models
from autocompress.contract import FORMATS, Deployable, Device, Measurement, PlacementTable
from autocompress.devices import layer_times, measure
from autocompress.devices.measuring import fault_of
from autocompress.errors import TrialFailed
from autocompress.export import export
from autocompress.job import DeviceConfig
from autocompress.quantization.counts import operator_counts
from autocompress.testing.example import example_model
from autocompress.testing.networks import check_untouched
from autocompress.testing.rules import Report, fingerprint, require, same_tensors, through_json
from autocompress.testing.variables import variables

MEASURES = frozenset({"latency", "energy"})
SECONDS = 0.05
OTHER_SIZE = (3, 48, 48)
"""Input size of the second model for the check of ratios; the example model has another one."""
RATIO_TOLERANCE = 0.02
"""Relative difference between latency_ratio and latency_ms / baseline_ms that rounding explains."""


def check_device(device: Device, model: nn.Module | None = None, config: DeviceConfig | None = None) -> None:
    """Measures a model relative to itself, and checks everything on which the engine relies.

    Durations are not checked, so it also works on a busy machine.

    Args:
        device: usable on this machine.
        model: from ``autocompress.models``; the example model by default. It is not changed.
        config: settings of the run; by default those of the device.

    Raises:
        ContractViolation: if a rule is broken; the message lists all broken rules.
    """
    model = model if model is not None else example_model()
    config = config if config is not None else DeviceConfig(name=device.name)
    report = Report()
    for rule in (_check_names, _check_defaults, _check_options, _check_settings, _check_environment):
        report.check(rule, device, config)
    size, before, process = models.input_size(model), fingerprint(model), _process()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        export(model, file, size, {})
        deployable = Deployable(file, size, operator_counts(model, size), lambda: model)
        original = copy.deepcopy(model)
        if not device.deterministic:
            report.check(_check_open, device, deployable, config)
            report.check(_check_refusal, device, deployable, config, Path(folder))
        report.check(_check_measured, device, deployable, config)
        if device.deterministic and "latency" in device.measures:
            report.check(_check_ratio, device, deployable, config, Path(folder))
    kept = "a device must not change the model"
    report.check(require, same_tensors(fingerprint(model), before), kept)
    report.check(check_untouched, model, original, kept)
    changed = ", ".join(name for name, value in _process().items() if value != process[name])
    report.check(
        require, not changed, f"a device must leave settings of the process as they are, but changes {changed}"
    )
    report.end()


def _process() -> dict[str, object]:
    """The settings of the process that other parts of a search rely on."""
    return {
        "torch's threads": torch.get_num_threads(),
        "the working folder": Path.cwd(),
        "environment variables": variables(),
        "torch's gradients": torch.is_grad_enabled(),
        "torch's default type": torch.get_default_dtype(),
    }


def _check_names(device: Device, config: DeviceConfig) -> None:
    del config
    require(bool(device.name.strip()), "a device must have a name")
    require(device.named(device.name) is device, "named must give the device itself for its own name")
    require(
        device.named(f"not-{device.name}") is None,
        "named must give None for names of other devices, or those could not be found",
    )
    require(bool(device.measures) and device.measures <= MEASURES, "measures must name latency, energy or both")
    known = bool(device.formats) and device.formats <= set(FORMATS)
    require(known, f"formats must name some of {', '.join(FORMATS)}")
    require("\n" not in device.describe(), "describe must be one line")


def _check_defaults(device: Device, config: DeviceConfig) -> None:
    try:
        device.Options.model_validate(config.options)
    except ValidationError as error:
        require(
            False, f"a job that gives no options must be valid: give each one a default ({error.errors()[0]['msg']})"
        )


def _check_options(device: Device, config: DeviceConfig) -> None:
    del config
    try:
        device.Options.model_validate({"no such option": 1})
    except ValidationError as error:
        if any("no such option" in fault["loc"] for fault in error.errors()):
            return
    require(False, 'Options must forbid unknown keys: model_config = ConfigDict(extra="forbid")')


def _check_settings(device: Device, config: DeviceConfig) -> None:
    require(isinstance(device.placement, PlacementTable), "placement must be a PlacementTable")
    unknown = device.placement.faults()
    require(not unknown, f"placement names operators that the engine does not know: {', '.join(unknown)}")
    multiple = device.channel_multiple
    whole = isinstance(multiple, int) and not isinstance(multiple, bool) and multiple >= 1
    require(whole, "channel_multiple must be a whole number of at least 1")
    in_thread = device.is_in_thread(config)
    require(isinstance(in_thread, bool), f"is_in_thread must return True or False, not {in_thread!r}")
    reasons = device.check(config)
    require(reasons == [], f"check must return no reason where the device can be used, but returns {reasons}")


def _check_environment(device: Device, config: DeviceConfig) -> None:
    found = device.environment(config)
    through_json(found, "environment")
    time.sleep(0.002)
    require(
        found == device.environment(config),
        "environment must be the same each time: it is part of the keys under which measurements are found again, so "
        "leave out times, loads and numbers of processes",
    )


def _check_open(device: Device, deployable: Deployable, config: DeviceConfig) -> None:
    for batch in (1, 2):
        asked = config.model_copy(update={"batch": batch})
        images = np.random.default_rng(0).standard_normal((batch, *deployable.input_size), dtype=np.float32)
        before = images.copy()
        run = device.open(deployable, images, asked)
        require(callable(run), f"open must return a function that runs the batch once, not {type(run).__name__}")
        run()
        run()
        require(np.array_equal(images, before), "open must not change the images")


def _check_refusal(device: Device, deployable: Deployable, config: DeviceConfig, folder: Path) -> None:
    broken = folder / "broken.onnx"
    broken.write_bytes(b"no model")
    rule = "open must raise TrialFailed for a model that cannot be loaded"
    try:
        measure(device, Deployable(broken, deployable.input_size), deployable, config, seconds=SECONDS)
    except TrialFailed:
        return
    except Exception as error:
        require(False, f"{rule}, not {type(error).__name__}")
    require(False, f"{rule}; a device must open the model that it is given, and keep none of an earlier call")


def _check_measured(device: Device, deployable: Deployable, config: DeviceConfig) -> None:
    if device.deterministic:
        _check_costs(device, device.compare(deployable, deployable, config))
    found = measure(device, deployable, deployable, config, seconds=SECONDS)
    through_json(found.environment, "a measurement's environment")
    if "latency" in device.measures:
        require(found.ratio_low <= found.latency_ratio <= found.ratio_high, "the interval must hold the ratio")
    if device.deterministic:
        again: Measurement = device.compare(deployable, deployable, config)
        require(_figures(again) == _figures(found), "a deterministic device must give the same figures again")
        is_one = "latency" not in device.measures or math.isclose(found.latency_ratio, 1.0, rel_tol=1e-6)
        require(is_one, "a model compared with itself must have a latency_ratio of 1: candidate / baseline")
    layers = [counted.layer for counted in deployable.operators]
    times = layer_times(device, [deployable], layers, config)
    require(times is None or len(times) == 1, "layer_times must have one entry for each model")


def _check_costs(device: Device, found: Measurement) -> None:
    fault = fault_of(found, device)
    require(not fault, f"a device must give costs that are finite and above 0, but {device.name} {fault}")


def _check_ratio(device: Device, deployable: Deployable, config: DeviceConfig, folder: Path) -> None:
    """Compares another model with ``deployable``: their latencies and their ratio must agree."""
    size, model = OTHER_SIZE, example_model()
    file = folder / "other.onnx"
    export(model, file, size, {})
    other = Deployable(file, size, operator_counts(model, size), lambda: model)
    try:
        found = device.compare(other, deployable, config)
    except TrialFailed:  # it cannot take this model
        return
    _check_costs(device, found)
    wanted = found.latency_ms / found.baseline_ms
    require(
        math.isclose(found.latency_ratio, wanted, rel_tol=RATIO_TOLERANCE),
        f"latency_ratio must be latency_ms / baseline_ms, candidate / baseline: {found.latency_ratio:.3g} is not "
        f"{found.latency_ms:.3g} / {found.baseline_ms:.3g} = {wanted:.3g}",
    )


def _figures(found: Measurement) -> list[str]:
    return [repr(figure) for figure in (found.latency_ms, found.latency_ratio, found.baseline_ms, found.energy_uj)]
