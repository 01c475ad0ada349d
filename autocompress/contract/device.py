"""Device: the interface for measuring latency, energy and size."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict

from autocompress.contract.placement import PlacementTable
from autocompress.errors import TrialFailed

if TYPE_CHECKING:
    from torch import nn

    from autocompress.job import DeviceConfig

FORMATS = ("onnx", "torch")
"""Formats that a device can take: the exported file, or the torch module behind it."""


@dataclass(frozen=True)
class OperatorCount:
    """Operations of one layer for one image.

    Attributes:
        layer: module name.
        kind: "multiply-add", or a kind that a LayerSpec names ("add").
        operations: number of operations.
        weight_bits, activation_bits: 32 for float.
    """

    layer: str
    kind: str
    operations: int
    weight_bits: int = 32
    activation_bits: int = 32


@dataclass(frozen=True)
class Deployable:
    """A model in the formats that devices take.

    Attributes:
        file: ONNX.
        input_size: (channels, height, width).
        operators: counts, for cost models.
        module: returns the torch module of the file; called at most once. None where there is none.
    """

    file: Path
    input_size: tuple[int, int, int]
    operators: Sequence[OperatorCount] = ()
    module: Callable[[], nn.Module] | None = field(default=None, compare=False, repr=False)

    def model(self) -> nn.Module:
        """The torch module that is equivalent to the file: hardened, in eval mode.

        It must not be changed.

        Raises:
            TrialFailed: if there is no torch module.
        """
        return self._model

    @cached_property
    def _model(self) -> nn.Module:
        if self.module is None:
            raise TrialFailed(f"there is no torch module of '{self.file}'")
        return self.module()

    def convert(self, to: str) -> Path | nn.Module:
        """The model in the format ``to`` (one of ``FORMATS``), made once.

        Raises:
            TrialFailed: if there is no such format.
        """
        if to not in FORMATS:
            raise TrialFailed(f"models cannot be converted to '{to}'; known formats: {', '.join(FORMATS)}")
        return self.file if to == "onnx" else self.model()


@dataclass(frozen=True)
class Measurement:
    """Costs of a candidate and of the baseline, measured in one interleaved run.

    Attributes:
        latency_ms: median milliseconds per batch.
        latency_ratio: median of the ratios candidate / baseline of the blocks.
        ratio_low, ratio_high: 95 % confidence interval of that median.
        baseline_ms: median of the baseline in the same run.
        energy_uj: microjoules per image, where the device gives it.
        noisy: the interval is too wide to trust the ratio.
        environment: machine, processor features, threads, runtime version, session options.
    """

    latency_ms: float
    latency_ratio: float
    ratio_low: float
    ratio_high: float
    baseline_ms: float
    energy_uj: float | None = None
    noisy: bool = False
    environment: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LayerTimes:
    """Time of one run of a file.

    Attributes:
        layers: seconds by layer, in the order of execution. The time of operators between two
            layers (additions, activations, pooling) is added to that of the first layer.
        total: seconds of a run without the profiler, which costs some microseconds per node.
    """

    layers: Mapping[str, float]
    total: float


class NoOptions(BaseModel):
    """The options of a device without options."""

    model_config = ConfigDict(extra="forbid")


class Device(ABC):
    """Runs models, or computes their costs. Baseline and candidate use the same device.

    A device that runs models implements :meth:`open`. The engine makes the batch, holds the machine
    lock, runs candidate and baseline alternately, and computes interval and noise flag
    (``autocompress.devices.measure``). A ``deterministic`` device implements :meth:`compare`
    instead.
    """

    name: ClassVar[str]
    measures: ClassVar[frozenset[str]] = frozenset({"latency"})
    """The objectives that the device measures: "latency", "energy"."""
    deterministic: ClassVar[bool] = False
    """True where the same model always has the same cost (a cost model)."""
    formats: ClassVar[frozenset[str]] = frozenset({"onnx"})
    """Formats for :meth:`open` (``FORMATS``). The engine converts before it takes the lock."""
    Options: ClassVar[type[BaseModel]] = NoOptions
    """The options of the device: the section ``device.options`` of a job.

    It must forbid unknown keys.
    """
    placement: ClassVar[PlacementTable] = PlacementTable()
    """The operators that its runtime computes on integers; the default is ONNX Runtime's."""
    channel_multiple: ClassVar[int] = 8
    """Its kernels are fast for multiples of this number of channels (``prune.multiple``)."""
    is_local: ClassVar[bool] = True
    """Models run on this machine, so the engine holds the machine lock while measuring."""

    def named(self, name: str) -> Device | None:
        """The device called ``name``: this device if it has that name, else None.

        A family of devices may make a new device here (a cost model from a user's profile).

        Raises:
            UserError: if ``name`` is one of the family, but cannot be made.
        """
        return self if name == self.name else None

    def describe(self) -> str:
        """One line for lists; empty where the name is enough."""
        return ""

    def check(self, config: DeviceConfig) -> list[str]:
        """Reasons why the device cannot be used here; empty where it can."""
        del config
        return []

    def counts(self, kind: str) -> bool:
        """Whether the device has costs for operations of ``kind`` (:class:`OperatorCount`).

        A device that runs files needs no such costs and returns True.
        """
        del kind
        return True

    def environment(self, config: DeviceConfig) -> dict[str, Any]:
        """Further values on which costs depend, as JSON: versions and settings.

        Model, machine and ``config`` need not be in it. The result is stored with each measurement,
        and is part of the keys of measurements.
        """
        del config
        return {}

    def is_in_thread(self, config: DeviceConfig) -> bool:
        """Whether a run computes only in the calling thread.

        If so, it is timed by the processor time of this thread, which a busy machine changes
        little. If not, it is timed by wall time.
        """
        return config.threads == 1

    def prepare(self, deployable: Deployable, images: np.ndarray, config: DeviceConfig) -> None:
        """Called before the machine lock is taken alone, with each model that is then opened.

        A device whose runtime may crash can load the model in another process here. Trainings may
        run beside it, but no measurements. The default does nothing.

        Args:
            deployable, images, config: as for :meth:`open`.

        Raises:
            TrialFailed: if the model cannot be loaded.
            NoAnswer: if that is not known, for example because the other process did not answer.
        """
        del deployable, images, config

    def open(self, deployable: Deployable, images: np.ndarray, config: DeviceConfig) -> Callable[[], object]:
        """Loads a model, and moves the batch to where the model computes.

        Args:
            deployable: the model, in one of ``formats``.
            images: float32 ``(config.batch, C, H, W)``.
            config: settings of the run; ``Options`` has validated ``config.options``.

        Returns:
            A function that runs the batch once. It returns when the run has finished, also on a
            GPU.

        Raises:
            TrialFailed: if the model cannot be loaded.
        """
        raise NotImplementedError(f"'{self.name}' runs no models")

    def time_elsewhere(
        self, candidate: Deployable, baseline: Deployable, config: DeviceConfig, seconds: float, sittings: int
    ) -> Sequence[tuple[Sequence[float], Sequence[float]]] | None:
        """Times both models where they run, for a device that is not local.

        The engine computes ratio, interval and noise flag from the result.

        Args:
            candidate, baseline: run in turn, in short blocks.
            config: how they are run.
            seconds: the approximate time of all sittings together.
            sittings: the number of times that both models are opened again.

        Returns:
            For each sitting, seconds of a run in each block of the candidate and of the baseline.
            None if the engine should time the function that :meth:`open` returns.

        Raises:
            TrialFailed: if the other machine does not answer, or cannot load a model.
        """
        del candidate, baseline, config, seconds, sittings
        return None

    def compare(self, candidate: Deployable, baseline: Deployable, config: DeviceConfig) -> Measurement:
        """Costs of ``candidate`` and ``baseline``. Only called for ``deterministic`` devices.

        Raises:
            TrialFailed: if the device cannot compute them.
        """
        raise NotImplementedError(f"'{self.name}' computes no costs")

    def layer_times(
        self, deployables: Sequence[Deployable], layers: Collection[str], config: DeviceConfig
    ) -> list[LayerTimes] | None:
        """The time of each layer of the network in some files.

        The engine holds the machine lock (``autocompress.devices.layer_times``).

        Args:
            deployables: measured in turn; each is compared with the first one.
            layers: names of the layers.
            config: settings of the runs.

        Returns:
            None where the device cannot measure it. A search then assumes that latency is
            proportional to multiply-adds.

        Raises:
            TrialFailed: if the runtime cannot load a file.
        """
        del deployables, layers, config
        return None
