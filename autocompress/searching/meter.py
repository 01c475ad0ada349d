"""The meter: latency from one device, energy from another, always beside the baseline's."""

from __future__ import annotations

from dataclasses import dataclass, replace

from autocompress.contract import Deployable, Device, Manager, Measurement, manager
from autocompress.errors import UserError
from autocompress.job import DeviceConfig, Job


@dataclass(frozen=True)
class Meter:
    """Measures the costs of files.

    Attributes:
        device: gives latency.
        config: how.
        energy_device: a cost model that gives energy, where the job wants it from another device.
    """

    device: Device
    config: DeviceConfig
    energy_device: Device | None = None

    @classmethod
    def of(cls, job: Job, device: Device, plugins: Manager | None = None) -> Meter:
        """The devices that ``job`` names.

        Raises:
            UserError: if the job asks for energy and nothing in it gives energy.
        """
        energy_device = None
        if job.energy_device is not None:
            energy_device = (plugins or manager()).device(job.energy_device)
        wants_energy = "energy" in job.objectives or job.constraints.energy is not None
        if wants_energy and energy_device is None and "energy" not in device.measures:
            raise UserError(
                f"the job asks for energy, which the device '{device.name}' does not measure",
                "name a cost model: cost_model: 45nm",
            )
        return cls(device, job.device, energy_device)

    @property
    def deterministic(self) -> bool:
        """The same file always costs the same."""
        return self.device.deterministic

    def measure(self, candidate: Deployable, baseline: Deployable, *, seconds: float) -> Measurement:
        """Latency and, where it is known, energy of ``candidate`` against ``baseline``, in about ``seconds``."""
        measured = self.device.measure(candidate, baseline, self.config, seconds=seconds)
        if self.energy_device is None:
            return measured
        modelled = self.energy_device.measure(candidate, baseline, self.config)
        environment = {**measured.environment, "energy": modelled.environment}
        return replace(measured, energy_uj=modelled.energy_uj, environment=environment)

    def energy(self, deployable: Deployable) -> float | None:
        """Microjoules an image of one file, where a device knows it without running it."""
        device = self.energy_device or (self.device if self.device.deterministic else None)
        if device is None or "energy" not in device.measures:
            return None
        return device.measure(deployable, deployable, self.config).energy_uj
