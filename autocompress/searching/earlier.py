"""Recipes of an earlier run that are tried first.

Its results may be for another device or other data, so the recipes are measured again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autocompress.contract import Value
from autocompress.recipes.choosers import Replay
from autocompress.results import SearchResult, read
from autocompress.searching.study import Compose

SHARE = 0.5
"""Largest share of the trials for recipes of an earlier run."""
MOST_NAMED = 5
"""Maximum number of trials that a note names because they no longer fit."""


@dataclass(frozen=True)
class Earlier:
    """Recipes of an earlier run.

    Attributes:
        points: labels and values, those of its front first.
        notes: notes for the user, one sentence each.
    """

    points: list[tuple[str, dict[str, Value]]]
    notes: list[str]


def recipes_from(folder: Path, compose: Compose, trials: int) -> Earlier:
    """The recipes of the run in ``folder`` that can be composed here.

    Those of its front come first, then its other complete trials; at most half of ``trials``.

    Args:
        folder: folder of the earlier run.
        compose: compose function of the search that is beginning.
        trials: number of trials of its budget.

    Raises:
        UserError: if the folder cannot be read.
    """
    run = read(folder)
    points: list[tuple[str, dict[str, Value]]] = []
    unfit: list[str] = []
    known = set()
    for trial, values in _trials(run):
        if len(points) >= max(1, int(SHARE * trials)):
            break
        reason, key = _fits(values, compose)
        if reason:
            unfit.append(f"trial {trial}: {reason}")
        elif key not in known:
            known.add(key)
            points.append((f"trial {trial} of {folder.name}", dict(values)))
    notes = [f"{len(points)} recipes of {folder} are tried first"]
    if unfit:
        more = f"; and {len(unfit) - MOST_NAMED} more" if len(unfit) > MOST_NAMED else ""
        notes.append(f"recipes of {folder} that no longer fit: {'; '.join(unfit[:MOST_NAMED])}{more}")
    return Earlier(points, notes)


def _trials(run: SearchResult) -> list[tuple[int, Mapping[str, Value]]]:
    """Number and recipe of the trials of the front, the most accurate first, then of the others."""
    front = {int(row["trial"]): row["recipe"] for _, row in run.models.iterrows()}
    complete = run.trials[run.trials["status"] == "complete"]
    others = {int(row["trial"]): row["recipe"] for _, row in complete.iterrows() if int(row["trial"]) not in front}
    return [*front.items(), *others.items()]


def _fits(values: Mapping[str, Value], compose: Compose) -> tuple[str, str]:
    """The reason why the recipe cannot be composed unchanged, or an empty text; and its key."""
    try:
        recipe: Any = compose(Replay(values))
    except Exception as error:  # an old recipe may raise any error
        return " ".join(str(error).split()) or type(error).__name__, ""
    for name in values:  # parameters of later versions get their defaults
        if name not in recipe.values:
            return f"'{name}' is no parameter of its recipe here", ""
        if recipe.values[name] != values[name]:
            return f"'{name}' cannot be {values[name]} here", ""
    return "", recipe.key
