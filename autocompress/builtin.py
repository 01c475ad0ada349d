"""The built-in plugin: devices, data sets and samplers that need no further package."""

from __future__ import annotations

from autocompress.contract import Device, Sampler, hookimpl
from autocompress.data import DatasetProvider, builtin_providers
from autocompress.devices import OnnxRuntimeCpu, OpenVinoCpu, Ssh, TorchEager, cost_models
from autocompress.searching.sampling.samplers import builtin_samplers


@hookimpl
def autocompress_devices() -> list[Device]:
    """ONNX Runtime, OpenVINO and torch on this machine, and a cost model for each profile."""
    return [OnnxRuntimeCpu(), OpenVinoCpu(), TorchEager(), Ssh(), *cost_models()]


@hookimpl
def autocompress_datasets() -> list[DatasetProvider]:
    """digits, glyphs, folders of images and timm's data sets."""
    return builtin_providers()


@hookimpl
def autocompress_samplers() -> list[Sampler]:
    """TPE, NSGA-II, GP and random."""
    return builtin_samplers()
