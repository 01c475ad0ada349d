"""Compares figures with limits; figures are newly measured, or recorded by a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from autocompress.checking.limits import Limits
from autocompress.checking.verdicts import Judged, Verdict
from autocompress.errors import UserError
from autocompress.job import Bound
from autocompress.objectives.bounds import bounded_value, is_borderline, met
from autocompress.objectives.quantities import BY_NAME
from autocompress.report import words


@dataclass(frozen=True)
class Figures:
    """The figures of a model and of its reference.

    Attributes:
        row: columns of trials.csv.
        reference: the same columns for the reference.
        latency: the fields of a ``contract.Measurement`` for bounds (``latency_ratio``,
            ``latency_ms``, ``ratio_low``, ``ratio_high``); empty if it was not measured.
        drop: the 95 % interval of the accuracy drop in points; None if unknown.
        operators, fused_operators: number of nodes by name, if they were counted.
        notes: sentences by quantity.
    """

    row: Mapping[str, Any]
    reference: Mapping[str, Any]
    latency: Mapping[str, Any] = field(default_factory=dict)
    drop: tuple[float, float] | None = None
    operators: dict[str, int] = field(default_factory=dict)
    fused_operators: dict[str, int] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)


def judged(limits: Limits, figures: Figures) -> list[Judged]:
    """One verdict for each limit, in the order of the quantities.

    Raises:
        UserError: if a figure is not known.
    """
    found: list[Judged] = []
    if limits.limits.accuracy is not None:
        found.append(_accuracy(limits.limits.accuracy, figures))
    found += [_bound(name, bound, figures) for name, bound in limits.bounds().items()]
    for name, operators, counted in (
        ("operators", limits.operators, figures.operators),
        ("fused operators", limits.fused_operators, figures.fused_operators),
    ):
        if operators is not None:
            faults = operators.faults(counted)
            said = ", ".join(faults) or "as allowed"
            found.append(Judged(name, operators.told(), said, Verdict.MISSED if faults else Verdict.MET))
    return found


def _accuracy(least: float, figures: Figures) -> Judged:
    value = figures.row.get("accuracy")
    if value is None:
        raise UserError("accuracy is not known", "name labelled images in the budget: data: folder:PATH")
    verdict = Verdict.MET if met(BY_NAME["accuracy"], value, least) else Verdict.MISSED
    note = figures.notes.get("accuracy", "")
    return Judged("accuracy", f"at least {least:g} %", words.percent(value), verdict, value, note=note)


def _bound(name: str, bound: Bound, figures: Figures) -> Judged:
    value = bounded_value(name, bound, figures.row, figures.reference)
    if value is None:
        raise UserError(f"{name.replace('_', ' ')} is not known of this model", _UNKNOWN.get(name, ""))
    quantity = BY_NAME[name]
    write = words.AMOUNTS["×" if bound.relative else quantity.unit]
    limit, told = f"at most {write(bound.value)}", _written(name, bound, value)
    verdict = Verdict.MET if met(quantity, value, bound.value) else Verdict.MISSED
    low = high = None
    if name == "latency" and figures.latency.get("ratio_low") is not None:
        scale = 1.0 if bound.relative else figures.latency["latency_ms"] / figures.latency["latency_ratio"]
        low, high = scale * figures.latency["ratio_low"], scale * figures.latency["ratio_high"]
        if is_borderline(bound, figures.latency):
            verdict = Verdict.UNDECIDED
    if name == "accuracy_drop" and figures.drop is not None:
        low, high = figures.drop
    if low is not None and high is not None:
        told += f" ({_written(name, bound, low)} to {_written(name, bound, high)})"
    return Judged(name, limit, told, verdict, value, low, high, figures.notes.get(name, ""))


def _written(name: str, bound: Bound, value: float) -> str:
    if bound.relative:
        return words.ratio(value)
    if name == "accuracy_drop":
        return f"{words.points(value).removeprefix('+')} points"
    return words.AMOUNTS[BY_NAME[name].unit](value)


_UNKNOWN = {
    "accuracy_drop": "name labelled images and a reference in the budget",
    "energy": "an ONNX file does not say its energy; check the trial of a run",
    "macs": "an ONNX file does not say its multiply-adds; check the trial of a run",
    "params": "an ONNX file does not say its parameters; check the trial of a run",
}
