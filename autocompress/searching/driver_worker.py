"""The driver's own workers: they try recipes while worker processes start.

A worker process needs many seconds to open the job. The driver has opened it already, so it tries
the first recipe, makes tables and proposals, and continues with proposals until all workers have
started. It does so in a thread and, where that is safe, in forked processes. Recipes that train are
left to the worker processes, which have memory and threads for them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from autocompress.searching.asked import Asked
from autocompress.searching.background import Background
from autocompress.searching.dispatch import Dispatcher
from autocompress.searching.early import Place, TrialThread

ALONE_EACH = 6
"""Recipes that each thread or process tries before workers start, if workers need all processors.

While a worker starts, a trial beside it takes twice as long.
"""
MOST_ALONE = 40.0
"""Maximum seconds for these recipes."""
MOST_IDLE = 10.0
"""Seconds after which workers start if no recipe can be tried yet, because sensitivity to bits is
still measured.
"""
log = logging.getLogger("autocompress.search")


@dataclass
class _Seat:
    """A thread or forked process, and the recipe that it tries.

    Attributes:
        place: the thread or process.
        asked: its recipe; None while it has none.
        since: when the recipe began, by ``time.monotonic``.
    """

    place: Place
    asked: Asked | None = None
    since: float = 0.0

    def take(self, asked: Asked) -> None:
        """Notes the recipe."""
        self.asked, self.since = asked, time.monotonic()


@dataclass
class DriverWorker:
    """Tries recipes while tables are made.

    All methods must be called in the main thread of the driver.

    Attributes:
        dispatcher: gives recipes and takes rows.
        background: makes tables and proposals, after the first recipe.
        thread: tries recipes in the driver.
        others: forked processes; the last of them tries the first recipe, so that tables need not
            wait for it.
        is_quick: whether a recipe has no training.
        workers: number of expected worker processes.
        threads: number of threads of torch while workers run.
        most_threads: number of threads of torch while no worker has been started.
        most_seconds: seconds after which a trial is given up; no process begins another then.
    """

    dispatcher: Dispatcher
    background: Background
    thread: TrialThread
    others: Sequence[Place]
    is_quick: Callable[[Asked], bool]
    workers: int
    threads: int
    most_threads: int
    most_seconds: float
    _seats: list[_Seat] = field(init=False)
    _is_over: bool = False
    _tried: int = 0
    _is_alone: bool = False

    def __post_init__(self) -> None:
        self._seats = [_Seat(place) for place in (self.thread, *self.others)]

    def start(self, *, with_recipe: bool, threads: int | None = None, deadline: float | None = None) -> None:
        """Starts with the first recipe (``with_recipe``), and with tables and proposals.

        These use ``threads`` of torch, and are given up at ``deadline``, by ``time.time``.
        """
        seat, first = self._seats[-1], None
        asked = self.dispatcher.hand_out(seat.place.name) if with_recipe else None
        if asked is not None:
            seat.take(asked)
            if seat.place is self.thread:
                first = self.thread.begin_within(asked, lambda: self.background.is_running)
            else:
                seat.place.begin(asked, self.threads)
        self.background.start(first, threads, deadline)

    def alone(self) -> None:
        """Tries ``ALONE_EACH`` recipes in each process, for at most ``MOST_ALONE`` seconds."""
        began, goal = time.monotonic(), self._tried + ALONE_EACH * len(self._seats)
        self._is_alone = True
        while self._tried < goal and not self._is_over and time.monotonic() < began + MOST_ALONE:
            if not self.background.is_done and time.monotonic() > began + MOST_IDLE:
                break
            self.turn()
            time.sleep(0.05)
        self._is_alone = False

    def turn(self) -> None:
        """Reports finished rows and begins further trials, if there are any; call it often."""
        for seat in list(self._seats):
            if seat.asked is not None:
                self._look(seat, seat.asked)
            elif self._is_over or self._is_replaced(seat):
                self._leave(seat)
            elif self.background.is_done:
                self._next(seat)

    def collect(self) -> None:
        """Reports finished rows, and begins nothing."""
        for seat in list(self._seats):
            if seat.asked is not None:
                self._look(seat, seat.asked)

    @property
    def is_busy(self) -> bool:
        """Whether a recipe is under way."""
        return any(seat.asked is not None for seat in self._seats)

    def end(self) -> None:
        """Ends the forked processes. A recipe that one of them tries is left to a resume."""
        for seat in self._seats[1:]:
            self._leave(seat)

    def _is_replaced(self, seat: _Seat) -> bool:
        """Whether worker processes have started in place of ``seat``; the last one goes first.

        So there are never more processes than memory and processors allow for workers.
        """
        return self._seats.index(seat) >= max(1, self.workers - self.dispatcher.workers_seen)

    def _leave(self, seat: _Seat) -> None:
        """Ends a forked process. The thread of the driver stays."""
        if seat is not self._seats[0]:
            seat.place.end()
            self._seats.remove(seat)

    def _look(self, seat: _Seat, asked: Asked) -> None:
        name = seat.place.name
        if (row := seat.place.row(asked)) is not None:
            seat.asked = None
            self._tried += 1
            self.dispatcher.finished(name, row)
            self.dispatcher.tell(row)
        elif time.monotonic() - seat.since > self.most_seconds or seat.place.has_died(asked):
            log.warning("trial %d: the driver gives it up", asked.number)
            seat.asked = None
            self._is_over = self._is_over or seat is self._seats[0]  # a thread cannot be ended
            self._leave(seat)
            self.dispatcher.lost(name, "")

    def _next(self, seat: _Seat) -> None:
        if self.dispatcher.workers_seen >= self.workers or self.dispatcher.why_ended:
            self._is_over = True
            return
        name = seat.place.name
        asked = self.dispatcher.hand_out(name)
        if asked is None:
            self._is_over = True
        elif not self.is_quick(asked):
            self._is_over = True
            self.dispatcher.give_back(name)
        else:
            seat.take(asked)
            is_only = self._is_alone and len(self._seats) == 1
            seat.place.begin(asked, self.most_threads if is_only else self.threads)
