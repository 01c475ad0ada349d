"""Which recipe a free worker gets, until when, and what happens when a worker is lost."""

from __future__ import annotations

import logging
import statistics
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autocompress.files import is_full_disk
from autocompress.results import Row
from autocompress.searching.climbing.climbing import Climbing, Promotion
from autocompress.searching.climbing.rows import stayed
from autocompress.searching.climbing.states import MOST_ATTEMPTS
from autocompress.searching.endings import Endings
from autocompress.searching.study import Asked, Compose, Study

log = logging.getLogger("autocompress.search")

TYPICAL = 256
"""The last trials, which say how long one takes."""
MOST_FAILED_STARTS = 3
"""Workers that may fail to start one after another before no more are started."""


@dataclass(frozen=True)
class Allowance:
    """What this run may still spend.

    Attributes:
        trials: how many more.
        deadline: seconds since the epoch after which no trial is started. None: no limit.
        trial_seconds: the longest that one trial may take. Time spent on images that trials share
            does not count.
    """

    trials: int
    deadline: float | None
    trial_seconds: float


class Dispatcher:
    """Hands recipes to workers.

    A recipe is asked for when a worker is free for it, so the sampler knows all rows.

    Args:
        study: where recipes come from and rows are.
        compose: runs the space with a chooser.
        allowance: of this run.
        on_row: called in the driver with each new row.
        on_note: called with what the user should know.
        endings: judge when there is enough; None for a search that ends with its allowance.
        climbing: says which recipes are trained further; None where none is.
    """

    def __init__(
        self,
        study: Study,
        compose: Compose,
        allowance: Allowance,
        on_row: Callable[[Row], None],
        on_note: Callable[[str], None] = log.info,
        endings: Endings | None = None,
        climbing: Climbing | None = None,
    ) -> None:
        self._study, self._compose, self._allowance = study, compose, allowance
        self._on_row, self._on_note = on_row, on_note
        self._endings, self._climbing = endings, climbing
        self._running: dict[str, Asked] = {}
        self._again: deque[Asked] = deque()
        self._attempts: Counter[tuple[int, int]] = Counter()
        self._issued = 0
        self._failed_starts = 0
        self.workers_seen = 0
        """Worker processes that were there so far."""
        self._start_error = ""
        self._seconds: deque[float] = deque(maxlen=TYPICAL)
        self._why_ended = ""
        self._is_closed = False
        self._is_enough = False

    # --- what Ray asks ----------------------------------------------------------------------------

    @property
    def work_left(self) -> int:
        """How many workers could be busy now, as far as the budget is concerned."""
        waiting = len(self._running) + len(self._again)
        left = 0 if self._why_ended else self._allowance.trials - self._issued
        return waiting + (left or int(self._promotion() is not None))

    @property
    def why_ended(self) -> str:
        """Why no more recipes are handed out; empty while they are."""
        spent = self._issued >= self._allowance.trials
        return self._why_ended or ("all trials are spent" if spent else "")

    @property
    def is_over(self) -> bool:
        """No recipe is being tried, and none will be."""
        return self._is_enough or self.work_left == 0 or (self.no_worker_starts and not self._running)

    @property
    def no_worker_starts(self) -> bool:
        """Workers failed to start so often that no more should be started."""
        return self._failed_starts >= MOST_FAILED_STARTS

    @property
    def under_way(self) -> list[dict[str, Any]]:
        """The recipes that are being tried: numbers of their trials, and labels."""
        return [{"trial": asked.number, "label": asked.label} for asked in list(self._running.values())]

    @property
    def start_error(self) -> str:
        """The last line of what the last worker that could not start said."""
        return self._start_error

    # --- a worker's life --------------------------------------------------------------------------

    def started(self) -> None:
        """A worker is there."""
        self._failed_starts = 0
        self.workers_seen += 1

    def give_back(self, worker: str) -> None:
        """``worker`` will not try its recipe: another one gets it next."""
        self._again.append(self._running.pop(worker))

    def hand_out(self, worker: str) -> Asked | None:
        """The next recipe for ``worker``, lost ones first.

        None where there is none left for it: see ``why_ended``.
        """
        if self._deadline_is_near():
            self._close("the time is up")
        if self._is_closed:
            self._again.clear()  # what waits for another attempt is for a resume
            return None
        if self._again:
            asked: Asked | None = self._again.popleft()
        else:
            asked = self._promoted() or self._next()
            asked = asked or self._promoted()  # what can climb waits for recipes that were never tried
        if asked is not None:
            self._running[worker] = asked
        return asked

    def finished(self, worker: str) -> Row | None:
        """``worker`` is done with its recipe: the row is in the study.

        Returns it; None where the worker did not take the recipe up, because the time was over."""
        asked = self._running.pop(worker)
        row = self._row_of(asked)
        if row is not None:
            self._note(row)
        return row

    def tell(self, row: Row) -> None:
        """Tells the driver about a finished row."""
        self._study.tell_followers(row["trial"])
        self._on_row(row)

    def lost(self, worker: str, error: str) -> None:
        """``worker`` is gone, ``error`` is Ray's text.

        Its recipe is tried again, unless its row is there, it took too long, or it lost its worker
        ``MOST_ATTEMPTS`` times: then it gets a failed row."""
        asked = self._running.pop(worker, None)
        if asked is None:
            self._failed_starts += 1
            self._start_error = _last_line(error)
            log.warning("a worker could not start:\n%s", error)
            return
        if is_full_disk(RuntimeError(error)):  # it only found no room to tell its row
            log.warning("trial %d: there was no room left for its row; a resume tries it again", asked.number)
            return
        row = self._row_of(asked)
        if row is None:
            self._attempts[asked.number, asked.rung] += 1
            reason, seconds, is_hung = self._why_lost(asked, error)
            tries = self._attempts[asked.number, asked.rung]
            log.warning("trial %d, attempt %d: %s\n%s", asked.number, tries, reason, error)
            if not is_hung and tries < MOST_ATTEMPTS:
                self._study.take_back(asked.number)
                self._again.append(asked)
                self._on_note(f"trial {asked.number}: {reason}; it is tried again ({tries} of {MOST_ATTEMPTS - 1})")
                return
            row = self._failed(asked, reason if tries == 1 else f"{reason} ({tries} times)", seconds)
            if asked.rung:
                self._study.amend(asked.number, row)
            else:
                self._study.tell(asked.number, row)
        self._note(row)
        self.tell(row)

    # --- inside -----------------------------------------------------------------------------------

    def _row_of(self, asked: Asked) -> Row | None:
        """The row that a worker was to make; None while it is not there."""
        row = self._study.row(asked.number)
        return None if row is None or int(row.get("reached", 0)) < asked.rung else row

    def _promotion(self) -> Promotion | None:
        """The recipe that should be trained now; None where others should be tried first."""
        if self._climbing is None or self._is_closed:
            return None
        is_early = self._climbing.is_first_pass and self._study.is_waiting
        if not self._why_ended and (is_early or not self._study.is_proposed):
            return None
        deadline = self._allowance.deadline
        left = None if deadline is None else deadline - time.time()
        return self._climbing.next(is_last=bool(self.why_ended), seconds=left)

    def _promoted(self) -> Asked | None:
        """The same, promoted."""
        found = self._promotion()
        if found is None or self._climbing is None:
            return None
        self._study.promote(found.number, found.rung)
        self._climbing.promote(found)
        row = self._climbing.row(found.number)
        log.info("trial %d climbs to rung %d", found.number, found.rung)
        return Asked(found.number, row["recipe"], row.get("label", ""), found.rung)

    def _next(self) -> Asked | None:
        while True:
            if self._issued >= self._allowance.trials:
                self._end("all trials are spent")
                return None
            asked = self._study.ask(self._compose)
            if asked is None:
                self._end("every recipe of the space was tried")
                return None
            self._issued += 1
            if (row := self._study.row(asked.number)) is None:
                return asked
            self._note(row)
            self._on_row(row)  # a draw that cannot be built
            if self._is_closed:
                return None
            if self._deadline_is_near():
                self._end("the time is up")
                return None

    def _deadline_is_near(self) -> bool:
        """A trial that would hardly end in time is not begun."""
        if (deadline := self._allowance.deadline) is None:
            return False
        typical = statistics.median(self._seconds) if self._seconds else 0.0
        return time.time() + typical > deadline

    def _note(self, row: Row) -> None:
        """Learns from a row before the next recipe is handed out."""
        if self._climbing is not None:
            self._climbing.add(row)
        if row["status"] == "complete" and not row.get("reached"):
            self._seconds.append(row["seconds"])
        if self._endings is not None:
            self._endings.add(row)
            self._is_enough = self._endings.is_met
            if self._endings.why:
                self._close(self._endings.why)

    def _close(self, why: str) -> None:
        """Hands nothing out any more, lost recipes neither."""
        self._is_closed = True
        self._end(why)

    def _end(self, why: str) -> None:
        if not self._why_ended:
            self._why_ended = why
            log.info("no more trials: %s", why)

    def _why_lost(self, asked: Asked, error: str) -> tuple[str, float, bool]:
        """Why a trial was lost, how long it ran, and whether it hung (it is then not repeated)."""
        limit = self._allowance.trial_seconds
        started, held = self._study.started_at(asked.number), self._study.held_since(asked.number)
        seconds = 0.0 if started is None else (held or time.time()) - started
        if "OutOfMemoryError" in error:
            return "the worker was lost: Ray ended it because the machine ran out of memory", seconds, False
        if held is not None:  # the trial's own time says nothing of what happened there
            reason = "the worker was lost while images were made: it was killed, ran out of memory, crashed or hung"
            return reason, seconds, time.time() - held >= limit
        if seconds >= limit:
            return f"time-out: it took longer than {limit / 60:g} minutes", seconds, True
        return "the worker was lost: it was killed, ran out of memory or crashed", seconds, False

    def _failed(self, asked: Asked, reason: str, seconds: float) -> Row:
        below = self._study.row(asked.number) if asked.rung else None
        if below is not None:
            return stayed(below, asked.rung, reason, round(seconds, 3))
        return {
            "trial": asked.number,
            "status": "failed",
            "reason": reason,
            "seconds": round(seconds, 3),
            "rung": 0,
            "recipe": asked.values,
            "label": asked.label,
        }


def _last_line(error: str) -> str:
    lines = [line for line in error.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "see log.txt"
