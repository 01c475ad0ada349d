"""Checks a file, or a model of a run, against a budget."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
import pandas as pd

from autocompress.checking.accuracy import scored
from autocompress.checking.judging import Figures, judged
from autocompress.checking.limits import Limits, read_limits
from autocompress.checking.verdicts import Checked, Judged, Verdict
from autocompress.contract import Deployable
from autocompress.data import task_of
from autocompress.devices.comparing import deployable, running_device
from autocompress.errors import UserError
from autocompress.export import operator_histogram
from autocompress.job import Constraints
from autocompress.results import FRONT_FILE, SearchResult, read
from autocompress.searching.measurer import Measurer

RECORDED = "figures are those that the run recorded; latency was measured when it ended"
INTERRUPTED = "figures are those of the trials: the search was interrupted, and its front not measured again"
_STANDARD = ("", "ai.onnx")


def check(subject: str | Path, budget: str | Path | Limits, trial: int | None = None) -> Checked:
    """Checks whether a model meets a budget.

    Args:
        subject: an ONNX file, or the folder of a run. For a run, the recorded figures are checked.
            If the budget names a ``reference`` or ``data``, the file of the trial is checked like
            any other file.
        budget: a budget file; see ``docs/ci.md``.
        trial: trial of a run; the recommended one by default.

    Raises:
        UserError: if the budget or the model cannot be read, or a limited figure is unknown.
    """
    limits = budget if isinstance(budget, Limits) else read_limits(budget)
    subject = Path(subject)
    if not subject.is_dir():
        if trial is not None:
            raise UserError(f"{subject} is a file, and has no trials", "leave --trial out")
        return _file(subject, limits)
    result = read(subject)
    row = _row(result, trial)
    basis = INTERRUPTED if result.is_interrupted else RECORDED
    if row is None:
        unmet = Judged("model", "meets the constraints of the job", "no model of the front does", Verdict.MISSED)
        return Checked(str(subject), [unmet], basis)
    name, file = f"{subject}, trial {row['trial']}", subject / str(row["artifact"]) / "model.onnx"
    if limits.reference is not None or limits.data is not None:
        found = _file(file, limits)
        return Checked(name, found.judged, found.basis)
    return Checked(name, judged(limits, _recorded(result, row, file, limits)), basis)


def _row(result: SearchResult, trial: int | None) -> pd.Series | None:
    """The row of the trial on the front; None if no trial is given and none is recommended."""
    if result.front.empty:
        raise UserError(f"{result.folder} has no {FRONT_FILE} yet", "the search is not over")
    if trial is None:
        return result.recommended()
    result.artifact(trial)
    return result.models[result.models["trial"] == trial].iloc[0]


def _recorded(result: SearchResult, row: pd.Series, file: Path, limits: Limits) -> Figures:
    """The recorded figures of the model; accuracy on the test split, if there is one."""
    known = {str(name): None if _is_missing(value) else value for name, value in row.items()}
    base = {str(name): None if _is_missing(value) else value for name, value in result.baseline.items()}
    tested = known.get("test_accuracy") is not None
    if tested:
        known |= {"accuracy": known["test_accuracy"], "accuracy_drop": known["test_accuracy_drop"]}
    of = "on the test split" if tested else "on the validation split"
    latency = {
        "latency_ratio": known["latency_ratio"],
        "latency_ms": known["latency_ms"],
        "ratio_low": known["latency_ratio_low"],
        "ratio_high": known["latency_ratio_high"],
    }
    return Figures(
        known,
        base,
        latency,
        notes={"accuracy": of, "accuracy_drop": of},
        operators=_nodes(file, limits),
        fused_operators=_fused(file, limits),
    )


def _is_missing(value: Any) -> bool:
    return not isinstance(value, dict) and bool(pd.isna(value))


def _file(file: Path, limits: Limits) -> Checked:
    """The verdicts on a file, from new measurements."""
    bounds = limits.bounds()
    if limits.reference is None and (relative := list(limits.limits.relative())):
        raise UserError(f"the limit on {relative[0].replace('_', ' ')} is relative", "name a file in 'reference:'")
    candidate = deployable(file, limits.device)
    base = None if limits.reference is None else deployable(limits.reference, limits.device)
    row: dict[str, Any] = {"size_bytes": file.stat().st_size}
    reference: dict[str, Any] = {} if base is None else {"size_bytes": base.file.stat().st_size}
    latency: dict[str, Any] = {}
    drop = None
    notes: dict[str, str] = {}
    if limits.limits.accuracy is not None or "accuracy_drop" in bounds:
        right = scored(candidate, limits)
        task = task_of(limits.task).task()
        row["accuracy"] = task.metric(right)
        notes = dict.fromkeys(("accuracy", "accuracy_drop"), f"on {len(right):,} images")
        if base is not None:
            wanted = scored(base, limits)
            row["accuracy_drop"] = task.metric(wanted) - row["accuracy"]
            paired = task.interval(right, wanted)
            drop = (-paired.high, -paired.low)
    if "latency" in bounds:
        latency = _latency(candidate, base or candidate, limits)
        row |= {"latency_ms": latency["latency_ms"], "latency_ratio": latency["latency_ratio"]}
        times = latency["environment"].get("measured", 1)
        notes["latency"] = "measured once" if times == 1 else f"measured {times} times"
    figures = Figures(row, reference, latency, drop, _nodes(file, limits), _fused(file, limits), notes)
    return Checked(str(file), judged(limits, figures), _basis(limits) if "latency" in bounds else "")


def _latency(candidate: Deployable, reference: Deployable, limits: Limits) -> dict[str, Any]:
    device = running_device(limits.device)
    asked = Constraints.model_validate({"latency": limits.bounds()["latency"]})
    measurer = Measurer(device, limits.device)
    with measurer.told():
        measured = measurer.latency(candidate, reference, seconds=limits.seconds, constraints=asked, most=limits.reruns)
    return asdict(measured)


def _basis(limits: Limits) -> str:
    again = f"measured again, up to {limits.reruns} times" if limits.reruns else "not measured again"
    return (
        f"latency is measured for {limits.seconds:g} s and, if the limit lies within the 95 % interval, {again}; all "
        "measurements are judged together, and a limit within their interval is undecided"
    )


def _nodes(file: Path, limits: Limits) -> dict[str, int]:
    """The number of nodes by operator, if the budget limits them."""
    return {} if limits.operators is None else nodes_of(file)


def _fused(file: Path, limits: Limits) -> dict[str, int]:
    """The number of nodes that ONNX Runtime runs, by operator, if the budget limits them."""
    return {} if limits.fused_operators is None else operator_histogram(file)


def nodes_of(file: Path) -> dict[str, int]:
    """Number of nodes by ``name``, or ``domain::name`` for operators that are not in ONNX.

    Nodes of functions and of subgraphs are included.
    """
    model = onnx.load(str(file), load_external_data=False)
    counts: Counter[str] = Counter()
    waiting = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while waiting:
        node = waiting.pop()
        counts[node.op_type if node.domain in _STANDARD else f"{node.domain}::{node.op_type}"] += 1
        waiting += [inner for attribute in node.attribute for inner in attribute.g.node]
        waiting += [inner for attribute in node.attribute for graph in attribute.graphs for inner in graph.node]
    return dict(counts)
