"""Which recipe a free worker gets, until when, and what happens when a worker is lost."""

from __future__ import annotations

import logging
import statistics
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from autocompress.files import is_full_disk
from autocompress.results import Row
from autocompress.searching.asked import Asked
from autocompress.searching.climbing.climbing import Climbing, Promotion
from autocompress.searching.climbing.rows import stayed
from autocompress.searching.climbing.states import MOST_ATTEMPTS
from autocompress.searching.endings import Endings
from autocompress.searching.spool import Spool
from autocompress.searching.study import Compose, Study

log = logging.getLogger("autocompress.search")

TYPICAL = 256
"""The last trials, which say how long one takes."""
MOST_FAILED_STARTS = 3
"""Workers that may fail to start one after another before no more are started."""
NODES_KNOWN_AFTER_S = 6.0
"""Seconds after a failed start until a node that ended is known to be gone, and does not count."""
MOST_LOSSES = 10
"""How often a rung of a recipe is tried, losses that were the fault of a node too."""


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


@dataclass(frozen=True)
class _UnderWay:
    """A recipe that a worker has, and since when (seconds since the epoch)."""

    asked: Asked
    since: float


class Dispatcher:
    """Hands recipes to workers.

    A recipe is asked for when a worker is free for it, so the sampler knows all rows.

    Args:
        study: where recipes come from and rows go.
        compose: runs the space with a chooser.
        allowance: of this run.
        spool: where workers leave their rows.
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
        spool: Spool,
        on_row: Callable[[Row], None],
        on_note: Callable[[str], None] = log.info,
        endings: Endings | None = None,
        climbing: Climbing | None = None,
    ) -> None:
        self._study, self._compose, self._allowance, self._spool = study, compose, allowance, spool
        self._on_row, self._on_note = on_row, on_note
        self._endings, self._climbing = endings, climbing
        self._running: dict[str, _UnderWay] = {}
        self._again: deque[Asked] = deque()
        self._handed_out: Counter[int] = Counter()
        self._losses: dict[tuple[int, int], list[str]] = {}
        """Nodes on which a rung of a recipe lost its worker, by number and rung."""
        self._issued = 0
        self._failed_starts: list[str] = []
        """Nodes on which workers failed to start, one after another."""
        self._failed_at = 0.0
        self._refusals: Counter[str] = Counter()
        """Workers that could not open the job, by node."""
        self._starts_no_more = False
        self.workers_seen = 0
        """Worker processes that were there so far, and could open the job as far as is known."""
        self._start_error = ""
        self._seconds: deque[float] = deque(maxlen=TYPICAL)
        self._why_ended = ""
        self._is_closed = False
        self._is_enough = False
        self.is_node_gone: Callable[[str], bool] = frozenset[str]().__contains__
        """Whether a node has left the cluster, or is about to: losses there are not counted."""

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
        if self._why_ended or not (spent or self.no_worker_starts):
            return self._why_ended
        return "all trials are spent" if spent else f"no worker starts any more: {self._start_error}"

    @property
    def is_over(self) -> bool:
        """No recipe is being tried, and none will be."""
        return self._is_enough or self.work_left == 0 or (self.no_worker_starts and not self._running)

    @property
    def is_start_in_doubt(self) -> bool:
        """Workers failed to start so often that no more should be started now."""
        failed = sum(not self.is_node_gone(node) for node in self._failed_starts)
        return self._starts_no_more or failed >= MOST_FAILED_STARTS

    @property
    def no_worker_starts(self) -> bool:
        """The same, and no node is about to be found gone: no worker will start."""
        is_known = (
            not self._failed_starts or not self._failed_starts[-1]
        )  # on this machine there is nothing to wait for
        is_known = is_known or time.monotonic() - self._failed_at >= NODES_KNOWN_AFTER_S
        return self._starts_no_more or (is_known and self.is_start_in_doubt)

    @property
    def under_way(self) -> list[dict[str, Any]]:
        """The recipes that are being tried: numbers of their trials, and labels."""
        running = [one.asked for one in list(self._running.values())]
        return [{"trial": asked.number, "label": asked.label} for asked in running]

    @property
    def start_error(self) -> str:
        """The last line of what the last worker that could not start said."""
        return self._start_error

    # --- a worker's life --------------------------------------------------------------------------

    def started(self) -> None:
        """A worker is there."""
        self._failed_starts.clear()
        self.workers_seen += 1

    def give_back(self, worker: str) -> None:
        """``worker`` will not try its recipe: another one gets it next."""
        self._again.append(self._running.pop(worker).asked)

    def refused(self, worker: str, why: str, node: str = "") -> bool:
        """``worker`` cannot open the job, or cannot measure, and ends: another one gets its recipe.

        Returns:
            Whether that happened so often on ``node`` that no more should be started there.
        """
        asked = self._running.pop(worker).asked
        self._spool.drop(asked.number, asked.attempt)
        self._again.append(asked)
        self._refusals[node] += 1
        self.workers_seen -= 1
        self._start_error = why
        self._on_note(f"trial {asked.number}: {why}; another worker gets it")
        return self._refusals[node] >= MOST_FAILED_STARTS

    def start_no_more(self) -> None:
        """No worker can open the job: the search ends with those that work already."""
        self._starts_no_more = True

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
        if asked is None:
            return None
        self._handed_out[asked.number] += 1
        below = self._study.row(asked.number) if asked.rung else None
        asked = replace(asked, below=below, attempt=self._handed_out[asked.number])
        self._running[worker] = _UnderWay(asked, time.time())
        return asked

    def finished(self, worker: str, row: Row | None) -> Row | None:
        """``worker`` is done with its recipe, which gave ``row``; the study has it now.

        None where the worker did not take the recipe up, because the time was over. Call
        :meth:`tell` with a row once the worker has its next recipe.
        """
        asked = self._running.pop(worker).asked
        if row is not None:
            self._keep(asked, row)
        return row

    def tell(self, row: Row) -> None:
        """Tells the driver about a finished row."""
        self._study.tell_followers(row["trial"])
        self._on_row(row)

    def lost(self, worker: str, error: str, node: str = "") -> None:
        """``worker`` is gone, ``error`` is Ray's text, ``node`` where it was.

        Its recipe is tried again, unless its row is there, it took too long, or it lost its worker
        ``MOST_ATTEMPTS`` times: then it gets a failed row. Losses on nodes that are gone do not
        count, up to ``MOST_LOSSES``.
        """
        under_way = self._running.pop(worker, None)
        if under_way is None:
            self._failed_starts.append(node)
            self._failed_at = time.monotonic()
            self._start_error = _last_line(error)
            log.warning("a worker could not start:\n%s", error)
            return
        asked = under_way.asked
        if is_full_disk(RuntimeError(error)):  # it only found no room to tell its row
            log.warning("trial %d: there was no room left for its row; a resume tries it again", asked.number)
            return
        row = self._spool.row(asked.number, asked.attempt)
        if row is None:
            row = self._try_again(under_way, error, node)
        if row is not None:
            self._keep(asked, row)
            self.tell(row)

    # --- inside -----------------------------------------------------------------------------------

    def _try_again(self, lost: _UnderWay, error: str, node: str) -> Row | None:
        """Puts a lost recipe before all others; or gives its failed row."""
        asked = lost.asked
        losses = self._losses.setdefault((asked.number, asked.rung), [])
        losses.append(node)
        own = sum(not self.is_node_gone(one) for one in losses)  # a node's end may be known later
        reason, seconds, is_hung = self._why_lost(lost, error)
        log.warning("trial %d, attempt %d: %s\n%s", asked.number, asked.attempt, reason, error)
        if is_hung or own >= MOST_ATTEMPTS or len(losses) >= MOST_LOSSES:
            return self._failed(asked, reason if len(losses) == 1 else f"{reason} ({len(losses)} times)", seconds)
        self._spool.drop(asked.number, asked.attempt)
        self._again.append(asked)
        which = f"({own} of {MOST_ATTEMPTS - 1})" if own else "on another node"
        self._on_note(f"trial {asked.number}: {reason}; it is tried again {which}")
        return None

    def _keep(self, asked: Asked, row: Row) -> None:
        """Puts a row into the study, and learns from it before the next recipe is handed out."""
        self._study.keep(asked.number, row)
        self._spool.drop(asked.number, asked.attempt)
        self._note(row)

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

    def _why_lost(self, lost: _UnderWay, error: str) -> tuple[str, float, bool]:
        """Why a trial was lost, how long it ran, and whether it hung (it is then not repeated)."""
        limit, now = self._allowance.trial_seconds, time.time()
        worked = self._spool.worked(lost.asked.number, lost.asked.attempt)
        seconds = now - lost.since if worked is None else worked.seconds + (not worked.is_held) * (now - worked.at)
        if "OutOfMemoryError" in error:
            return "the worker was lost: Ray ended it because the machine ran out of memory", seconds, False
        if worked is not None and worked.is_held:  # the trial's own time says nothing of what happened there
            reason = "the worker was lost while images were made: it was killed, ran out of memory, crashed or hung"
            return reason, seconds, now - worked.at >= limit
        if seconds >= limit:
            return f"time-out: it took longer than {limit / 60:g} minutes", seconds, True
        return "the worker was lost: it was killed, ran out of memory or crashed", seconds, False

    def _failed(self, asked: Asked, reason: str, seconds: float) -> Row:
        if asked.below is not None:
            return stayed(asked.below, asked.rung, reason, round(seconds, 3))
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
