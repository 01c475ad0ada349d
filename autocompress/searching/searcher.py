"""Ray's end in the driver: hands out recipes ahead of the workers, and looks after trials that lost theirs."""

from __future__ import annotations

import json
import logging
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ray.tune.search import Searcher

from autocompress.files import is_full_disk
from autocompress.searching.bounds import Row
from autocompress.searching.study import Asked, Compose, Study

log = logging.getLogger("autocompress.search")


@dataclass(frozen=True)
class Allowance:
    """What this run may still spend.

    Attributes:
        trials: how many more.
        deadline: seconds since the epoch after which none is started; None: no limit.
        trial_seconds: the most that one may take, without what it is held up by images that trials share.
    """

    trials: int
    deadline: float | None
    trial_seconds: float


class StudySearcher(Searcher):
    """Asks the study for recipes. Ray calls ``suggest`` while workers are busy, so one is ready when they are free.

    Args:
        study: where recipes come from and rows are.
        compose: runs the space with a chooser.
        allowance: of this run.
        on_row: called in the driver with each new row.
    """

    def __init__(self, study: Study, compose: Compose, allowance: Allowance, on_row: Callable[[Row], None]) -> None:
        super().__init__()
        self._study, self._compose, self._allowance, self._on_row = study, compose, allowance, on_row
        self._running: dict[str, Asked] = {}
        self._issued = 0
        self._seconds: list[float] = []
        self.why_ended = ""

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Tune has nothing to say here: objectives and space are the study's."""
        del metric, mode, config, spec
        return True

    def suggest(self, trial_id: str) -> Any:
        """The next recipe for Ray's trial as a dict, or FINISHED, a text."""
        while True:
            if self._issued >= self._allowance.trials:
                return self._end("all trials are spent")
            if self._allowance.deadline is not None and time.time() + self._typical() > self._allowance.deadline:
                return self._end("the time is up")
            asked = self._study.ask(self._compose)
            if asked is None:
                return self._end("every recipe of the space was tried")
            self._issued += 1
            if (row := self._study.row(asked.number)) is not None:  # a draw that cannot be built
                self._on_row(row)
                continue
            self._running[trial_id] = asked
            # As text: Ray would take the dots in parameter names for nesting.
            return {"trial": asked.number, "recipe": json.dumps(asked.values), "label": asked.label}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The study has the row already. Where it has none, the trial was interrupted and will be enqueued again, or
        its worker was lost: ``lost`` is called next."""
        del result
        asked = self._running[trial_id] if error else self._running.pop(trial_id)
        row = self._study.row(asked.number)
        if row is not None:
            self._close(asked, row)

    def lost(self, trial_id: str, error: str) -> None:
        """The trial's worker is gone, ``error`` is Ray's text: it gets a failed row, unless it had told its own. Where
        the worker only found no room to tell its row, the trial is left to a resume."""
        asked = self._running.pop(trial_id, None)
        if asked is not None and is_full_disk(RuntimeError(error)):
            log.warning("trial %d: there was no room left for its row; it will be tried again", asked.number)
            return
        if asked is not None and self._study.row(asked.number) is None:
            row = self._lost_row(asked, error)
            self._study.tell(asked.number, row)
            self._close(asked, row)

    def _close(self, asked: Asked, row: Row) -> None:
        if row["status"] == "complete":
            self._seconds.append(row["seconds"])
        self._study.tell_followers(asked.number)
        self._on_row(row)

    def _lost_row(self, asked: Asked, error: str) -> Row:
        started, held = self._study.started_at(asked.number), self._study.held_since(asked.number)
        seconds = 0.0 if started is None else (held or time.time()) - started
        if started is None:
            reason = f"the worker could not start: {_last_line(error)}"
        elif held is not None:  # the trial's own time says nothing of what happened there
            reason = "the worker was lost while images were made: it was killed, ran out of memory, crashed or hung"
        elif seconds >= self._allowance.trial_seconds:
            reason = f"time-out: it took longer than {self._allowance.trial_seconds / 60:g} minutes"
        else:
            reason = "the worker was lost: it was killed, ran out of memory or crashed"
        log.warning("trial %d: %s\n%s", asked.number, reason, error)
        return {
            "trial": asked.number,
            "status": "failed",
            "reason": reason,
            "seconds": round(seconds, 3),
            "rung": 0,
            "recipe": asked.values,
            "label": asked.label,
        }

    def _typical(self) -> float:
        """Seconds of a typical trial: one that would hardly end in time is not begun."""
        return statistics.median(self._seconds) if self._seconds else 0.0

    def _end(self, why: str) -> str:
        if not self.why_ended:
            self.why_ended = why
            log.info("no more trials: %s", why)
        return str(Searcher.FINISHED)

    # Ray saves searchers as pickles beside its trials; the study is all that must last.

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Keeps nothing."""
        del checkpoint_path

    def restore(self, checkpoint_path: str) -> None:
        """Needs nothing."""
        del checkpoint_path

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Keeps nothing."""
        del checkpoint_dir, session_str

    def restore_from_dir(self, checkpoint_dir: str) -> None:
        """Needs nothing."""
        del checkpoint_dir


def _last_line(error: str) -> str:
    lines = [line for line in error.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "see log.txt"
