"""Feasibility: whether the cheapest candidates can meet each constraint."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from autocompress.contract import Deployable, Measurement
from autocompress.objectives.bounds import excess
from autocompress.opened.baseline import Baseline
from autocompress.opened.cheapest import Built, build_cheapest
from autocompress.opened.job import OpenedJob

UNCOMPRESSED = "uncompressed"
"""Label of the candidate without methods."""


class Measure(Protocol):
    """Measures latency and, where known, energy of ``candidate`` relative to ``baseline``."""

    def __call__(self, candidate: Deployable, baseline: Deployable, *, seconds: float) -> Measurement: ...


@dataclass(frozen=True)
class CheapestCandidate:
    """The lowest costs of a method, or of several, as ratios to the baseline, without training.

    Attributes:
        label: "uncompressed" (the baseline, first), "ghost", "quantize", ..., "all but ghost",
            "all together".
        latency_ratio: median of the ratios to the baseline.
        latency_low, latency_high: ends of its 95 % interval.
        energy_ratio: None if the devices of the job do not give energy.
        meets: by constraint, whether it can be met. A bound on latency can be met if the interval
            reaches it.
        estimated: methods with a structure that a dry run can only estimate; see
            ``Candidate.estimated``.
    """

    label: str
    latency_ms: float
    latency_ratio: float
    latency_low: float
    latency_high: float
    size_ratio: float
    macs_ratio: float
    params_ratio: float
    energy_ratio: float | None
    meets: dict[str, bool]
    estimated: tuple[str, ...] = ()


def feasibility(opened: OpenedJob, measure: Measure, seconds: float = 1.0) -> list[CheapestCandidate]:
    """Builds, exports and measures the cheapest dry-run candidates.

    Args:
        opened: an opened job.
        measure: measures on the devices of the job, see ``Measurer.measure``.
        seconds: seconds of latency measurement for each candidate.
    """
    base = opened.baseline
    with tempfile.TemporaryDirectory() as folder:
        found = [
            (built, measure(built.deployable, base.deployable, seconds=seconds))
            for built in build_cheapest(opened, Path(folder))
        ]
        itself = _itself(measure, base, seconds, [measured for _, measured in found])
        rows = [_row(opened, UNCOMPRESSED, base, base.deployable, itself, itself.energy_uj)]
        return rows + [
            _row(opened, built.label, built, built.deployable, measured, itself.energy_uj) for built, measured in found
        ]


def _itself(measure: Measure, base: Baseline, seconds: float, others: Sequence[Measurement]) -> Measurement:
    """The costs of the baseline, without measuring: its ratio to itself is 1.

    Its latency was measured together with ``others``, so only its energy may be unknown.
    """
    if not others or others[0].energy_uj is not None:
        itself = measure(base.deployable, base.deployable, seconds=seconds)
    else:
        itself = replace(others[0], latency_ms=statistics.median(other.baseline_ms for other in others))
    return replace(itself, latency_ratio=1.0, ratio_low=1.0, ratio_high=1.0)


def _row(
    opened: OpenedJob,
    label: str,
    model: Built | Baseline,
    deployable: Deployable,
    measured: Measurement,
    energy_uj: float | None,
) -> CheapestCandidate:
    """The row of a measured model; ``energy_uj`` is that of the baseline."""
    base = opened.baseline
    size = deployable.file.stat().st_size
    energy_ratio = measured.energy_uj / energy_uj if measured.energy_uj is not None and energy_uj else None
    best_ms = measured.latency_ms * measured.ratio_low / measured.latency_ratio
    costs = {
        "latency_ms": best_ms,
        "latency_ratio": measured.ratio_low,
        "size_bytes": size,
        "energy_uj": measured.energy_uj,
        "macs": model.macs,
        "params": model.params,
    }
    reference = {"size_bytes": base.size_bytes, "energy_uj": energy_uj, "macs": base.macs, "params": base.params}
    beyond = excess(opened.job.constraints.bounds(), costs, reference)
    meets = {name: value <= 0 for name, value in beyond.items()}
    return CheapestCandidate(
        label=label,
        latency_ms=measured.latency_ms,
        latency_ratio=measured.latency_ratio,
        latency_low=measured.ratio_low,
        latency_high=measured.ratio_high,
        size_ratio=size / base.size_bytes,
        macs_ratio=model.macs / base.macs,
        params_ratio=model.params / base.params,
        energy_ratio=energy_ratio,
        meets=meets,
        estimated=model.estimated if isinstance(model, Built) else (),
    )
