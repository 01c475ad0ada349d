"""TPE learns from misses if they are told as misses.

Then it makes few of them, and many if they are told as failures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toy_search import toy_job

from autocompress.contract import Space
from autocompress.contract.space import Chooser
from autocompress.searching.study import Study

BASELINE = {"accuracy": 90.0}
GROUPS, TRIALS = 6, 120


class Recipe:
    """A width for each of six groups."""

    def __init__(self, chooser: Chooser) -> None:
        space = Space(chooser)
        for group in range(GROUPS):
            space.float(f"width.{group}", 0.05, 1.0, default=1.0)
        self.values = space.chosen
        self.key = str(self.values)


def misses_among_the_last_half(folder: Path, told: str) -> int:
    """Runs a toy search with a bound on the mean width. One random draw in fifty meets it."""
    job = toy_job(folder, name=told, sampler="tpe", constraints={"latency": "0.3x"})
    job.folder.mkdir()
    study, missed = Study(job.folder, job, BASELINE), []
    for _ in range(TRIALS):
        asked = study.ask(Recipe)
        assert asked is not None
        widths = [float(width) for width in asked.values.values()]
        ratio = sum(widths) / GROUPS
        row: dict[str, Any] = {"trial": asked.number, "status": "complete", "latency_ratio": ratio, "seconds": 0.0}
        missed.append(ratio > 0.3)
        if missed[-1]:
            row |= {"status": told, "excess": {"latency": ratio / 0.3 - 1.0}}
        else:
            drop = 10 * max((1 - width) ** 2 for width in widths)
            row |= {"accuracy": 90.0 - drop, "accuracy_drop": drop, "excess": {"latency": ratio / 0.3 - 1.0}}
        study.tell(asked.number, row)
    return sum(missed[TRIALS // 2 :])


@pytest.mark.slow
def test_tpe_learns_from_misses_that_are_told_as_misses(tmp_path: Path) -> None:
    learned = misses_among_the_last_half(tmp_path, "infeasible")
    ignored = misses_among_the_last_half(tmp_path, "failed")
    assert learned <= 35
    assert ignored >= learned + 15
