"""Gives recipes to free workers within the budget, and handles lost workers."""

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
from autocompress.searching.endings import Endings
from autocompress.searching.promotion.choosing import Climbing, Promotion
from autocompress.searching.promotion.rows import stayed
from autocompress.searching.promotion.states import MOST_ATTEMPTS
from autocompress.searching.spool import Spool
from autocompress.searching.study import Compose, Study

log = logging.getLogger("autocompress.search")

TYPICAL = 256
"""Number of last trials from which the duration of a trial is estimated."""
MOST_FAILED_STARTS = 3
"""Failed starts of workers in a row after which no more are started."""
NODES_KNOWN_AFTER_S = 6.0
"""Seconds after a failed start until it is known whether its node was lost."""
MOST_LOSSES = 10
"""Maximum number of attempts at a rung of a recipe, including losses with a node."""


@dataclass(frozen=True)
class Allowance:
    """The remaining budget of this run.

    Attributes:
        trials: number of further trials.
        deadline: seconds since the epoch after which no trial is started. None: no limit.
        trial_seconds: time limit of a trial. Making images that trials share does not count.
    """

    trials: int
    deadline: float | None
    trial_seconds: float


@dataclass(frozen=True)
class _UnderWay:
    """The recipe of a worker, and the time at which it began (seconds since the epoch)."""

    asked: Asked
    since: float


class Dispatcher:
    """Gives recipes to workers.

    A recipe is drawn when a worker is free for it, so that the sampler knows all rows.

    Args:
        study: gives recipes and keeps rows.
        compose: runs the space with a chooser.
        allowance: allowance of this run.
        spool: files with the rows of workers.
        on_row: called in the driver with each new row.
        on_note: called with notes for the user.
        endings: decides whether the search ends early; None for a search without early end.
        climbing: decides which recipes are trained further; None for no further training.
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
        """Number of worker processes so far, without those that could not open the job."""
        self._start_error = ""
        self._seconds: deque[float] = deque(maxlen=TYPICAL)
        self._why_ended = ""
        self._is_closed = False
        self._is_enough = False
        self.is_node_gone: Callable[[str], bool] = frozenset[str]().__contains__
        """Whether a node has left the cluster, or is about to leave; losses there do not count."""

    # --- questions of Ray -------------------------------------------------------------------------

    @property
    def work_left(self) -> int:
        """Number of workers for which the budget has work now."""
        waiting = len(self._running) + len(self._again)
        left = 0 if self._why_ended else self._allowance.trials - self._issued
        return waiting + (left or int(self._promotion() is not None))

    @property
    def why_ended(self) -> str:
        """The reason why no more recipes are given out; empty if there is none."""
        spent = self._issued >= self._allowance.trials
        if self._why_ended or not (spent or self.no_worker_starts):
            return self._why_ended
        return "all trials are spent" if spent else f"no worker starts any more: {self._start_error}"

    @property
    def is_over(self) -> bool:
        """Whether no recipe is being tried, and none will be."""
        return self._is_enough or self.work_left == 0 or (self.no_worker_starts and not self._running)

    @property
    def is_start_in_doubt(self) -> bool:
        """Whether workers failed to start so often that no more should be started now."""
        failed = sum(not self.is_node_gone(node) for node in self._failed_starts)
        return self._starts_no_more or failed >= MOST_FAILED_STARTS

    @property
    def no_worker_starts(self) -> bool:
        """Whether :attr:`is_start_in_doubt`, and a lost node can no longer be the reason."""
        is_known = not self._failed_starts or not self._failed_starts[-1]  # on this machine, no node can be lost
        is_known = is_known or time.monotonic() - self._failed_at >= NODES_KNOWN_AFTER_S
        return self._starts_no_more or (is_known and self.is_start_in_doubt)

    @property
    def under_way(self) -> list[dict[str, Any]]:
        """Number and label of the trials that are running."""
        running = [one.asked for one in list(self._running.values())]
        return [{"trial": asked.number, "label": asked.label} for asked in running]

    @property
    def start_error(self) -> str:
        """The last line of the error of the last worker that could not start."""
        return self._start_error

    # --- events of workers ------------------------------------------------------------------------

    def started(self) -> None:
        """A worker has started."""
        self._failed_starts.clear()
        self.workers_seen += 1

    def give_back(self, worker: str) -> None:
        """``worker`` will not try its recipe, so another one gets it next."""
        self._again.append(self._running.pop(worker).asked)

    def refused(self, worker: str, why: str, node: str = "") -> bool:
        """``worker`` cannot open the job or measure, and ends; another one gets its recipe.

        Returns:
            Whether this happened so often on ``node`` that no more should be started there.
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
        """Starts no more workers, because none can open the job.

        Running workers finish. Then the search ends.
        """
        self._starts_no_more = True

    def hand_out(self, worker: str) -> Asked | None:
        """The next recipe for ``worker``; lost recipes come first.

        None if there is none left; see ``why_ended``.
        """
        if self._deadline_is_near():
            self._close("the time is up")
        if self._is_closed:
            self._again.clear()  # recipes that wait for another attempt are left to a resume
            return None
        if self._again:
            asked: Asked | None = self._again.popleft()
        else:
            asked = self._promoted() or self._next()
            asked = asked or self._promoted()  # no recipe is left that promotions should wait for
        if asked is None:
            return None
        self._handed_out[asked.number] += 1
        below = self._study.row(asked.number) if asked.rung else None
        asked = replace(asked, below=below, attempt=self._handed_out[asked.number])
        self._running[worker] = _UnderWay(asked, time.time())
        return asked

    def finished(self, worker: str, row: Row | None) -> Row | None:
        """``worker`` has finished its recipe; returns its row, which is now in the study.

        None if the worker did not begin the recipe because the time was up. Call :meth:`tell` with
        the row after the worker got its next recipe.
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
        """``worker`` was lost on ``node``; ``error`` is the text of Ray.

        If its recipe has no row yet, it is tried again. If the recipe took too long, or lost its
        worker ``MOST_ATTEMPTS`` times, it gets a failed row instead. Losses on nodes that left the
        cluster do not count, up to ``MOST_LOSSES``.
        """
        under_way = self._running.pop(worker, None)
        if under_way is None:
            self._failed_starts.append(node)
            self._failed_at = time.monotonic()
            self._start_error = _last_line(error)
            log.warning("a worker could not start:\n%s", error)
            return
        asked = under_way.asked
        if is_full_disk(RuntimeError(error)):  # only its row could not be written
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
        """Puts a lost recipe before all others, or returns its failed row."""
        asked = lost.asked
        losses = self._losses.setdefault((asked.number, asked.rung), [])
        losses.append(node)
        own = sum(not self.is_node_gone(one) for one in losses)  # the loss of a node may be known later
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
        """Puts a row into the study, and uses it before the next recipe is given out."""
        self._study.keep(asked.number, row)
        self._spool.drop(asked.number, asked.attempt)
        self._note(row)

    def _promotion(self) -> Promotion | None:
        """The recipe to train now; None if other recipes should be tried first."""
        if self._climbing is None or self._is_closed:
            return None
        is_early = self._climbing.is_first_pass and self._study.is_waiting
        if not self._why_ended and (is_early or not self._study.is_proposed):
            return None
        deadline = self._allowance.deadline
        left = None if deadline is None else deadline - time.time()
        return self._climbing.next(is_last=bool(self.why_ended), seconds=left)

    def _promoted(self) -> Asked | None:
        """Promotes the recipe that should be trained now, and returns it."""
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
            self._on_row(row)  # an invalid draw
            if self._is_closed:
                return None
            if self._deadline_is_near():
                self._end("the time is up")
                return None

    def _deadline_is_near(self) -> bool:
        """Whether a new trial would probably not end in time."""
        if (deadline := self._allowance.deadline) is None:
            return False
        typical = statistics.median(self._seconds) if self._seconds else 0.0
        return time.time() + typical > deadline

    def _note(self, row: Row) -> None:
        """Uses a row before the next recipe is given out."""
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
        """Gives out no more recipes, not even lost ones."""
        self._is_closed = True
        self._end(why)

    def _end(self, why: str) -> None:
        if not self._why_ended:
            self._why_ended = why
            log.info("no more trials: %s", why)

    def _why_lost(self, lost: _UnderWay, error: str) -> tuple[str, float, bool]:
        """Why a trial was lost, its seconds, and whether it hung (then it is not repeated)."""
        limit, now = self._allowance.trial_seconds, time.time()
        worked = self._spool.worked(lost.asked.number, lost.asked.attempt)
        seconds = now - lost.since if worked is None else worked.seconds + (not worked.is_held) * (now - worked.at)
        if "OutOfMemoryError" in error:
            return "the worker was lost: Ray ended it because the machine ran out of memory", seconds, False
        if worked is not None and worked.is_held:  # its own time does not count while it makes images
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
