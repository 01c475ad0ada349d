"""Device: what latency, energy and size are measured on."""

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
"""What a device can ask for: the exported file, or the torch module that it was written from."""


@dataclass(frozen=True)
class OperatorCount:
    """Operations of one layer for one image.

    Attributes:
        layer: module name.
        kind: "multiply-add", or a kind that a LayerSpec names ("add").
        operations: how many.
        weight_bits, activation_bits: 32 for float.
    """

    layer: str
    kind: str
    operations: int
    weight_bits: int = 32
    activation_bits: int = 32


@dataclass(frozen=True)
class Deployable:
    """A model as a device sees it.

    Attributes:
        file: ONNX.
        input_size: (channels, height, width).
        operators: counts, for cost models.
        module: gives the torch module of the file; called at most once. None where there is none.
    """

    file: Path
    input_size: tuple[int, int, int]
    operators: Sequence[OperatorCount] = ()
    module: Callable[[], nn.Module] | None = field(default=None, compare=False, repr=False)

    def model(self) -> nn.Module:
        """The torch module that computes what the file computes: hardened, in eval mode.

        It must stay as it is.

        Raises:
            TrialFailed: if the file came without one.
        """
        return self._model

    @cached_property
    def _model(self) -> nn.Module:
        if self.module is None:
            raise TrialFailed(f"there is no torch module of '{self.file}'")
        return self.module()

    def convert(self, to: str) -> Path | nn.Module:
        """The model in the format ``to`` (``FORMATS``), made once.

        Raises:
            TrialFailed: if it cannot be had in that format.
        """
        if to not in FORMATS:
            raise TrialFailed(f"no model can be converted to '{to}'; known formats: {', '.join(FORMATS)}")
        return self.file if to == "onnx" else self.model()


@dataclass(frozen=True)
class Measurement:
    """A cost, always beside the baseline's, measured in the same interleaved run.

    Attributes:
        latency_ms: median milliseconds a batch.
        latency_ratio: median of the per-block ratios candidate / baseline.
        ratio_low, ratio_high: 95 % confidence interval of that median.
        baseline_ms: the baseline's median in the same run.
        energy_uj: microjoules an image, where the device knows it.
        noisy: the interval is too wide for the ratio to be trusted.
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
        layers: seconds by layer, in the order in which they run. What runs behind a layer and
            before the next one (additions, activations, pooling) is charged to it.
        total: seconds of a run without the profiler, which itself costs some microseconds a node.
    """

    layers: Mapping[str, float]
    total: float


class NoOptions(BaseModel):
    """The options of a device that has none of its own."""

    model_config = ConfigDict(extra="forbid")


class Device(ABC):
    """Runs models, or tells what they cost. Baseline and candidate always run on the same device.

    A device that runs models gives :meth:`open`. The engine does the rest: it makes the batch,
    holds the machine's lock, runs candidate and baseline in turns, and computes interval and noise
    flag (``autocompress.devices.measure``). A ``deterministic`` device gives :meth:`compare` in its
    place.
    """

    name: ClassVar[str]
    measures: ClassVar[frozenset[str]] = frozenset({"latency"})
    """Objectives it gives: "latency", "energy"."""
    deterministic: ClassVar[bool] = False
    """True where the same model always costs the same (a cost model)."""
    formats: ClassVar[frozenset[str]] = frozenset({"onnx"})
    """What :meth:`open` needs of a model (``FORMATS``).

    The engine has it made before it takes the lock.
    """
    Options: ClassVar[type[BaseModel]] = NoOptions
    """The device's own options: the section ``device.options`` of a job.

    It must forbid unknown keys.
    """
    placement: ClassVar[PlacementTable] = PlacementTable()
    """Which operators its runtime computes on integers; by default as ONNX Runtime does."""
    channel_multiple: ClassVar[int] = 8
    """Its kernels suit numbers of channels that are multiples of this (``prune.multiple``)."""
    is_local: ClassVar[bool] = True
    """Models run on this machine, so that the engine holds its lock meanwhile."""

    def named(self, name: str) -> Device | None:
        """The device that ``name`` stands for: this one by its own name, else None.

        A family of devices may make one (a cost model from a user's profile).

        Raises:
            UserError: if ``name`` is one of the family, but cannot be made.
        """
        return self if name == self.name else None

    def describe(self) -> str:
        """One line for lists; empty where the name says it all."""
        return ""

    def check(self, config: DeviceConfig) -> list[str]:
        """Reasons why the device cannot be used here; empty means that it can."""
        del config
        return []

    def counts(self, kind: str) -> bool:
        """Whether the device has costs for operations of ``kind`` (:class:`OperatorCount`).

        A device that runs files needs none.
        """
        del kind
        return True

    def environment(self, config: DeviceConfig) -> dict[str, Any]:
        """What costs depend on beside model, machine and ``config``, as JSON (versions, settings).

        It is stored with each measurement, and is part of the keys of measurements.
        """
        del config
        return {}

    def is_in_thread(self, config: DeviceConfig) -> bool:
        """Whether a run computes in the calling thread alone.

        It is then timed by the time that this thread was on a processor, which a busy machine
        hardly changes, and otherwise by wall time."""
        return config.threads == 1

    def open(self, deployable: Deployable, images: np.ndarray, config: DeviceConfig) -> Callable[[], object]:
        """Loads a model and places the batch where it computes.

        Args:
            deployable: in one of ``formats``.
            images: float32 ``(config.batch, C, H, W)``.
            config: how it is run; ``Options`` has validated ``config.options``.

        Returns:
            A function that runs the batch once. It returns when the run is over, also on a GPU.

        Raises:
            TrialFailed: if the model cannot be loaded.
        """
        raise NotImplementedError(f"'{self.name}' runs no models")

    def compare(self, candidate: Deployable, baseline: Deployable, config: DeviceConfig) -> Measurement:
        """What ``candidate`` costs beside ``baseline``. Only ``deterministic`` devices are asked.

        Raises:
            TrialFailed: if the device cannot tell.
        """
        raise NotImplementedError(f"'{self.name}' computes no costs")

    def layer_times(
        self, deployables: Sequence[Deployable], layers: Collection[str], config: DeviceConfig
    ) -> list[LayerTimes] | None:
        """Where the files' time goes, for the layers of the network that they were written from.

        The engine holds the machine's lock (``autocompress.devices.layer_times``).

        Args:
            deployables: measured interleaved; the first is what the others are compared with.
            layers: names.
            config: how files are run.

        Returns:
            None where the device cannot tell. A search then takes latency to follow multiply-adds.

        Raises:
            TrialFailed: if the runtime cannot load a file.
        """
        del deployables, layers, config
        return None
