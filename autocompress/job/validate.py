"""Checks a job against what is installed: timm's models, data sets, methods and devices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from pydantic import ValidationError

from autocompress.errors import did_you_mean
from autocompress.job.early import (
    check_checkpoint,
    check_method_names,
    check_plugins,
    check_recipes_from,
    check_sampler_name,
    unknown_also,
    unknown_cost_model,
    unknown_device,
)
from autocompress.job.modelnames import ELSEWHERE, check_model_name, unknown_model, unknown_weights
from autocompress.job.schema import COST_MODEL, Job
from autocompress.job.sections import DeviceConfig
from autocompress.job.spaces import limits_of


class Plugins(Protocol):
    """The part of ``contract.Manager`` that is needed here; this package may not import it."""

    def methods(self) -> Sequence[Any]:
        """All methods."""

    def devices(self) -> Sequence[Any]:
        """All devices."""

    def datasets(self) -> Sequence[Any]:
        """All data set providers."""

    def samplers(self) -> Sequence[Any]:
        """All samplers."""


def validate(job: Job, manager: Plugins) -> None:
    """Checks every name in ``job``, and finds contradictions; trains and loads nothing.

    Raises:
        UserError: naming file, line and key, with the closest known names.
    """
    _check_model(job)
    _check_data(job, manager)
    _check_methods(job, manager)
    _check_device(job, manager)
    _check_sampler(job, manager)
    check_recipes_from(job)
    check_plugins(job)


def warnings(job: Job) -> list[str]:
    """Settings that are allowed but probably a mistake, one sentence each."""
    found = []
    for quantity, bound in job.constraints.bounds().items():
        if bound.relative and bound.value >= 1:
            subject = job.source.subject(f"constraints.{quantity}")
            found.append(f"{subject} of {bound.value:g}x saves nothing: the baseline meets it")
    modelled = job.device.name.startswith(COST_MODEL)
    measured = "latency" in (*job.objectives, *job.constraints.bounds()) and not modelled
    if measured and job.sampler != "random" and job.source.holds("seed"):
        found.append("latency is measured, so a seed repeats this search only with sampler 'random'")
    return found


def _check_model(job: Job) -> None:
    check_model_name(job)
    from autocompress.compat.torch_compiler import timm

    if job.model.startswith(ELSEWHERE):
        return
    name, _, tag = job.model.partition(".")
    if not timm.is_model(name):
        raise unknown_model(job, timm.list_models())
    if tag or job.pretrained:
        weights = timm.list_models(f"{name}.*", pretrained=True) + timm.list_models(name, pretrained=True)
        if tag and job.model not in weights:
            raise unknown_weights(job, weights)
        if not weights:
            raise job.source.error("pretrained", f"cannot be true: timm has no weights of '{name}'", "train it here")
    check_checkpoint(job)


def _check_data(job: Job, manager: Plugins) -> None:
    providers = manager.datasets()
    for split in ("train", "val", "test"):
        spec = getattr(job.data, split)
        if spec is not None and not any(provider.claims(spec) for provider in providers):
            key = "data" if job.data.train == job.data.val == job.data.test else f"data.{split}"
            names = [provider.name for provider in providers]
            raise job.source.error(key, f"names no data set: '{spec}'", did_you_mean(spec, names))


def _check_methods(job: Job, manager: Plugins) -> None:
    check_method_names(job, limits_of(job), [method.name for method in manager.methods()])


def _check_device(job: Job, manager: Plugins) -> None:
    devices = manager.devices()
    names = [device.name for device in devices]
    device = _named(job.device.name, devices)
    if device is None:
        raise unknown_device(job, names)
    if "latency" not in device.measures:
        hint = f"to get energy from it, write cost_model: {device.name.removeprefix(COST_MODEL)}"
        raise job.source.error("device", f"cannot be '{device.name}', which does not measure latency", hint)
    _check_options(job, device)
    _check_also(job, devices)
    reasons = _reasons(device, job.device)
    if reasons:
        raise job.source.error("device", f"cannot be used here: {'; '.join(reasons)}")
    gives = set(device.measures)
    if job.cost_model is not None:
        model = _named(COST_MODEL + job.cost_model, devices)
        if model is None:
            raise unknown_cost_model(job, names)
        if "energy" not in model.measures:
            hint = f"to get latency from it, write device: {model.name}"
            raise job.source.error("cost_model", f"cannot be '{job.cost_model}', which does not give energy", hint)
        if reasons := _reasons(model, job.device):
            raise job.source.error("cost_model", f"cannot be used here: {'; '.join(reasons)}")
        gives.add("energy")
    for quantity in ("energy", "latency"):
        _check_measured(job, quantity, gives)


def _check_sampler(job: Job, manager: Plugins) -> None:
    samplers = {sampler.name: sampler for sampler in manager.samplers()}
    check_sampler_name(job, samplers)
    try:
        reasons = samplers[job.sampler].check(job)
        if not reasons:
            samplers[job.sampler].make(job, job.seed)
    except Exception as error:
        reasons = [f"it raised {type(error).__name__}: {' '.join(str(error).split())}"]
    if reasons:
        raise job.source.error("sampler", f"cannot be '{job.sampler}' here: {'; '.join(reasons)}")


def _check_also(job: Job, devices: Sequence[Any]) -> None:
    """Refuses other devices that do not exist or cannot be used now."""
    for config in job.also:
        device = _named(config.name, devices)
        if device is None:
            raise unknown_also(job, config.name, [device.name for device in devices])
        if "latency" not in device.measures:
            raise job.source.error("also", f"cannot have '{device.name}', which does not measure latency")
        _check_options(job, device, config, "also")
        if reasons := _reasons(device, config):
            raise job.source.error("also", f"cannot have '{device.name}' here: {'; '.join(reasons)}")


def _check_options(job: Job, device: Any, config: DeviceConfig | None = None, key: str = "device") -> None:
    """Refuses options that the device does not have."""
    try:
        device.Options.model_validate((config or job.device).options)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join([f"{key}.options", *map(str, first["loc"])])
        known = ", ".join(device.Options.model_fields) or "none"
        hint = f"options of '{device.name}': {known}"
        unknown = first["type"] == "extra_forbidden"
        text = "is not an option of the device" if unknown else f"is wrong: {first['msg']}"
        raise job.source.error(key, text, hint) from None


def _reasons(device: Any, config: DeviceConfig) -> list[str]:
    """Reasons against a device; a check that raises is one."""
    try:
        found: list[str] = device.check(config)
    except Exception as error:
        return [f"its check raised {type(error).__name__}: {' '.join(str(error).split())}"]
    return found


def _named(name: str, devices: Sequence[Any]) -> Any | None:
    """The device called ``name``, including devices of a family such as ``ssh:HOST``."""
    return next((found for device in devices if (found := device.named(name)) is not None), None)


def _check_measured(job: Job, quantity: str, gives: set[str]) -> None:
    """Refuses an objective or a constraint that no device of the job measures."""
    if quantity in gives:
        return
    hint = "set 'cost_model', or a device that measures it" if quantity == "energy" else "choose another device"
    if quantity in job.constraints.bounds():
        raise job.source.error(f"constraints.{quantity}", f"bounds {quantity}, which no device here measures", hint)
    if quantity in job.objectives:
        raise job.source.error("objectives", f"ask for {quantity}, which no device here measures", hint)
