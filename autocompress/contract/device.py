"""Device: what latency, energy and size are measured on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from autocompress.job import DeviceConfig


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
    """A model as a device sees it: an ONNX file and, for cost models, its operator counts."""

    file: Path
    input_size: tuple[int, int, int]
    operators: Sequence[OperatorCount] = ()


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
        layers: seconds by layer, in the order in which they run. What runs behind a layer and before the next one
            (additions, activations, pooling) is charged to it.
        total: seconds of a run without the profiler, which itself costs some microseconds a node.
    """

    layers: Mapping[str, float]
    total: float


class Device(ABC):
    """Measures files. Baseline and candidate always run on the same device."""

    name: ClassVar[str]
    measures: ClassVar[frozenset[str]] = frozenset({"latency"})
    """Objectives it gives: "latency", "energy"."""
    deterministic: ClassVar[bool] = False
    """True where the same file always costs the same (a cost model)."""

    def named(self, name: str) -> Device | None:
        """The device that ``name`` stands for: this one by its own name, else None. A family of devices may make one
        (a cost model from a user's profile).

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
        """Whether it has figures for operations of ``kind`` (:class:`OperatorCount`); it needs none where files run."""
        del kind
        return True

    @abstractmethod
    def measure(
        self, candidate: Deployable, baseline: Deployable, config: DeviceConfig, *, seconds: float = 2.0
    ) -> Measurement:
        """Latency of ``candidate`` against ``baseline``, interleaved, in about ``seconds`` of measuring."""

    def layer_times(
        self, deployables: Sequence[Deployable], layers: Collection[str], config: DeviceConfig
    ) -> list[LayerTimes] | None:
        """Where the files' time goes, for the layers of the network that they were written from.

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
