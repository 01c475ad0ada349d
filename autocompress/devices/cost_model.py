"""Cost models: latency and energy of other hardware, from operator counts and a profile."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from autocompress.contract import Deployable, Device, Measurement
from autocompress.devices.profiles import SUFFIXES, Profile, built_in_profiles, load_profile
from autocompress.errors import TrialFailed
from autocompress.job import DeviceConfig

PREFIX = "cost-model:"


@dataclass(frozen=True)
class ModelledCost:
    """The cost of one image; ``seconds`` and ``joules`` are NaN if the profile lacks them.

    Attributes:
        operations: counts by "kind @ unit"; the unit has the widths at which operations ran.
    """

    seconds: float
    joules: float
    operations: dict[str, int] = field(default_factory=dict)


class CostModel(Device):
    """Adds up the costs of the operations of all layers with weights on the hardware of a profile.

    Costs include only arithmetic at full use of the hardware. Memory traffic, pooling and additions
    of branches are not included. Results are deterministic, so the interval of a ratio is the ratio
    itself.

    Args:
        profile: costs of operations.
        name: the name of the profile; the device is called ``cost-model:<name>``.
    """

    deterministic = True

    def __init__(self, profile: Profile, name: str) -> None:
        # One class is used for all profiles, so name and measures belong to the object.
        self.name = PREFIX + name  # type: ignore[misc]
        self.measures = profile.measures  # type: ignore[misc]
        self.profile = profile

    def named(self, name: str) -> Device | None:
        """This device, or the cost model of a user's profile: ``cost-model:PATH.yaml``.

        Raises:
            UserError: if the file has no profile.
        """
        if name == self.name:
            return self
        path = name.removeprefix(PREFIX)
        if path == name or not path.endswith(SUFFIXES):
            return None
        return CostModel(load_profile(Path(path)), path)

    def describe(self) -> str:
        """The profile's description."""
        return self.profile.description

    def check(self, config: DeviceConfig) -> list[str]:
        """Refuses another input size: operators are counted at the model's own size."""
        if config.input_size is not None:
            return [f"a cost model counts operators at the model's own input size, not at {config.input_size}"]
        return []

    def counts(self, kind: str) -> bool:
        """Whether the profile has costs for operations of ``kind``."""
        return kind in self.profile.kinds

    def cost(self, deployable: Deployable) -> ModelledCost:
        """The cost of one image.

        Raises:
            TrialFailed: if there are no counts, or the profile lacks an operator kind.
        """
        if not deployable.operators:
            raise TrialFailed(f"'{self.name}' was given no operator counts of {deployable.file.name}")
        seconds, joules = 0.0, 0.0
        operations: Counter[str] = Counter()
        for counted in deployable.operators:
            found = self.profile.cost(counted.kind, counted.weight_bits, counted.activation_bits)
            if found is None:
                known = ", ".join(self.profile.kinds)
                raise TrialFailed(
                    f"'{self.name}' has no unit for '{counted.kind}', which layer '{counted.layer}' needs "
                    f"(it has {known})"
                )
            seconds += counted.operations * (math.nan if found.seconds is None else found.seconds)
            joules += counted.operations * (math.nan if found.joules is None else found.joules)
            operations[f"{counted.kind} @ {found.ran_as}"] += counted.operations
        return ModelledCost(seconds, joules, dict(sorted(operations.items())))

    def compare(self, candidate: Deployable, baseline: Deployable, config: DeviceConfig) -> Measurement:
        """Costs by the profile; latency is NaN if the profile only has energy.

        Raises:
            TrialFailed: as :meth:`cost`.
        """
        own, base = self.cost(candidate), self.cost(baseline)
        ratio = own.seconds / base.seconds
        return Measurement(
            latency_ms=1e3 * own.seconds * config.batch,
            latency_ratio=ratio,
            ratio_low=ratio,
            ratio_high=ratio,
            baseline_ms=1e3 * base.seconds * config.batch,
            energy_uj=1e6 * own.joules if "energy" in self.measures else None,
            environment={
                "cost_model": self.name,
                "profile": self.profile.description,
                "profile_key": self.profile.key,
                "batch": config.batch,
            },
        )


def cost_models() -> list[CostModel]:
    """One device for each profile that comes with the package."""
    return [CostModel(profile, name) for name, profile in built_in_profiles().items()]
