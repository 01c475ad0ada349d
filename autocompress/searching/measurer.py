"""Measures the costs of a trial relative to the baseline: latency and energy."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from typing import Any

from autocompress.contract import Deployable, Device, Manager, Measurement, manager
from autocompress.devices import measure
from autocompress.devices.trying import told
from autocompress.errors import UserError
from autocompress.job import Constraints, DeviceConfig, Job
from autocompress.objectives.bounds import is_borderline
from autocompress.opened.keys import measured_with

AGAIN = 2
"""Maximum number of repetitions of a latency measurement with the bound inside its interval."""


@dataclass(frozen=True)
class Measurer:
    """Measures the costs of files.

    Attributes:
        device: device for latency.
        config: configuration of the device.
        energy_device: a cost model for energy, if energy comes from another device.
    """

    device: Device
    config: DeviceConfig
    energy_device: Device | None = None

    @classmethod
    def of(cls, job: Job, device: Device, plugins: Manager | None = None) -> Measurer:
        """The devices that ``job`` names.

        Raises:
            UserError: if the job asks for energy and none of its devices gives energy.
        """
        energy_device = None
        if job.energy_device is not None:
            energy_device = (plugins or manager()).device(job.energy_device)
        wants_energy = "energy" in job.objectives or "energy" in job.constraints.bounds()
        if wants_energy and energy_device is None and "energy" not in device.measures:
            raise UserError(
                f"the job asks for energy, which the device '{device.name}' does not measure",
                "name a cost model: cost_model: 45nm",
            )
        return cls(device, job.device, energy_device)

    @property
    def deterministic(self) -> bool:
        """Whether the same file always has the same costs."""
        return self.device.deterministic

    def measured_with(self) -> dict[str, Any]:
        """The values on which latencies depend, as JSON; see ``opened.keys.measured_with``."""
        return measured_with(self.device, self.config)

    def measure(
        self,
        candidate: Deployable,
        baseline: Deployable,
        *,
        seconds: float,
        again: float | None = None,
        constraints: Constraints | None = None,
    ) -> Measurement:
        """Latency of ``candidate`` relative to ``baseline``, and energy where it is known."""
        measured = self.latency(candidate, baseline, seconds=seconds, again=again, constraints=constraints)
        if self.energy_device is None:
            return measured
        modelled = measure(self.energy_device, candidate, baseline, self.config)
        environment = {**measured.environment, "energy": modelled.environment}
        return replace(measured, energy_uj=modelled.energy_uj, environment=environment)

    def latency(
        self,
        candidate: Deployable,
        baseline: Deployable,
        *,
        seconds: float,
        again: float | None = None,
        constraints: Constraints | None = None,
        most: int = AGAIN,
    ) -> Measurement:
        """Latency of ``candidate`` relative to ``baseline``, in about ``seconds``.

        If the bound of ``constraints`` on latency is inside the interval, latency is measured
        again, up to ``most`` times for ``again`` seconds (by default ``seconds``). All measurements
        are then combined.
        """
        measured = self.once(candidate, baseline, seconds)
        if constraints is None or self.deterministic:
            return measured
        bound = constraints.bounds().get("latency")
        for _ in range(most):
            if not is_borderline(bound, asdict(measured)):
                break
            measured = combined(measured, self.once(candidate, baseline, again or seconds))
        return measured

    def once(self, candidate: Deployable, baseline: Deployable, seconds: float) -> Measurement:
        """A single measurement on the device."""
        return measure(self.device, candidate, baseline, self.config, seconds=seconds)

    def surely(self, candidate: Deployable, baseline: Deployable, *, seconds: float) -> Measurement:
        """As :meth:`measure`, but raises a UserError if the device fails."""
        with self.told():
            return self.measure(candidate, baseline, seconds=seconds)

    def told(self) -> AbstractContextManager[None]:
        """Turns errors of the devices into a UserError (:func:`devices.trying.told`)."""
        return told(self.device, *([] if self.energy_device is None else [self.energy_device]))

    def energy(self, deployable: Deployable) -> float | None:
        """Microjoules per image of one file, if a device knows it without running the file."""
        device = self.energy_device or (self.device if self.device.deterministic else None)
        if device is None or "energy" not in device.measures:
            return None
        return measure(device, deployable, deployable, self.config).energy_uj


def combined(one: Measurement, other: Measurement) -> Measurement:
    """Combines two measurements of one file, weighted by the inverse squares of their intervals.

    Logarithms are averaged. If the measurements differ by more than their intervals explain, the
    combined interval is at least half their distance.
    """
    halves = [max(math.log(each.ratio_high / each.ratio_low) / 2, 1e-6) for each in (one, other)]
    weights = [1 / half**2 for half in halves]

    def mean(first: float, second: float) -> float:
        logs = weights[0] * math.log(first) + weights[1] * math.log(second)
        return math.exp(logs / sum(weights))

    ratio = mean(one.latency_ratio, other.latency_ratio)
    apart = abs(math.log(one.latency_ratio / other.latency_ratio)) / 2
    half = max(1 / math.sqrt(sum(weights)), apart)
    return replace(
        other,
        latency_ms=mean(one.latency_ms, other.latency_ms),
        latency_ratio=ratio,
        ratio_low=ratio * math.exp(-half),
        ratio_high=ratio * math.exp(half),
        baseline_ms=mean(one.baseline_ms, other.baseline_ms),
        noisy=one.noisy and other.noisy,
        environment={**other.environment, "measured": one.environment.get("measured", 1) + 1},
    )
