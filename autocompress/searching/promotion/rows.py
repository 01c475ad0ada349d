"""Rows of recipes that climb: one row per recipe, with the model of its last rung with a gain.

In addition to the columns of trials.csv, such a row has ``climbs`` (rungs can train it),
``reached`` (the highest finished rung), ``is_final`` (no rung can follow), ``rungs`` (accuracy of
each rung, also of those without a gain) and ``climbing_seconds`` (seconds above rung 0).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autocompress.objectives.figures import known
from autocompress.results import Row
from autocompress.searching.promotion.states import LAST_RUNG, Kept


def begun(row: Row) -> Row:
    """``row`` of rung 0, of a recipe that rungs can train."""
    accuracy = known(row, "accuracy")
    if accuracy is None:
        return row
    return {**row, "climbs": True, "accuracy_rung0": accuracy, "rungs": {"0": accuracy}}


def climbed(below: Row, row: Row, rung: int) -> Row:
    """The row of a recipe after its training at ``rung``, which gave ``row``.

    If the training failed, or its model is not better than that of the rung below, the model below
    stays the result, and the row says so.
    """
    accuracy, before = known(row, "accuracy"), known(below, "accuracy")
    if row["status"] == "failed" or accuracy is None or before is None:
        return stayed(below, rung, str(row.get("reason") or "it gave no model"), row["seconds"])
    tried = {**below.get("rungs", {}), str(rung): accuracy}
    if accuracy <= before:
        found = stayed(below, rung, f"it has {accuracy:.1f} %, and {before:.1f} % before it", row["seconds"])
        return {**found, "rungs": tried}
    kept = {name: below[name] for name in ("trial", "label", "climbs", "accuracy_rung0")}
    return {
        **row,
        **kept,
        "rung": rung,
        "reached": rung,
        "is_final": rung >= LAST_RUNG,
        "rungs": tried,
        "seconds": round(below["seconds"] + row["seconds"], 3),
        "climbing_seconds": round(below.get("climbing_seconds", 0.0) + row["seconds"], 3),
    }


def stayed(below: Row, rung: int, why: str, seconds: float) -> Row:
    """``below`` as the row of a recipe whose training at ``rung`` gained nothing."""
    said = f"rung {rung} gave no gain ({why}); the model of rung {below['rung']} stays"
    before = f"{below['reason']}; " if below.get("reason") else ""
    return {
        **below,
        "reason": before + said,
        "reached": rung,
        "is_final": True,
        "seconds": round(below["seconds"] + seconds, 3),
        "climbing_seconds": round(below.get("climbing_seconds", 0.0) + seconds, 3),
    }


def kept_of(row: Mapping[str, Any] | None, promoted: int | None) -> Kept:
    """The data of a recipe on disk, for the table of states.

    Args:
        row: row of the recipe; None if it has none.
        promoted: the highest rung to which it was promoted.
    """
    if row is None:
        return Kept(promoted=promoted)
    has_model = row["status"] != "failed" and known(row, "accuracy") is not None
    rung = int(row["rung"]) if has_model else None
    reached = int(row.get("reached", 0))
    is_final = bool(row.get("is_final")) or not row.get("climbs") or reached >= LAST_RUNG
    return Kept(rung, is_told=True, reached=reached, is_final=is_final, promoted=promoted)


def accuracies(row: Mapping[str, Any]) -> dict[int, float]:
    """Accuracy of each finished rung, also of those without a gain."""
    return {int(rung): float(value) for rung, value in (row.get("rungs") or {}).items()}
