"""The driver's own worker: a thread that tries recipes while worker processes start.

A worker process needs many seconds to open the job. The driver has opened it already, so it tries
the first recipe, makes tables and proposals, and continues with proposals until all workers have
started. Recipes that train are left to the workers, which can be ended when they hang.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from autocompress.devices.lock import MachineLock
from autocompress.graph import let_trace, without_tracing
from autocompress.results import Row
from autocompress.searching.asked import Asked
from autocompress.searching.background import Background
from autocompress.searching.dispatch import Dispatcher
from autocompress.searching.gates import Lock

NAME = "driver"
"""The name of this worker for the dispatcher."""
MOST_ALONE = 20.0
log = logging.getLogger("autocompress.search")


class LetsTrace:
    """The machine lock for a thread of the driver, which also lets the main thread trace."""

    def __init__(self) -> None:
        self._lock = MachineLock()

    def shared(self) -> AbstractContextManager[Any]:
        """Held while computing."""
        return self._lock.shared()

    def breathe(self) -> None:
        """Lets a waiting measurement, and a thread that traces, go first."""
        self._lock.breathe()
        let_trace()


@dataclass
class DriverWorker:
    """Tries recipes in a thread. All methods must be called in the main thread of the driver.

    Attributes:
        dispatcher: gives recipes and takes rows.
        background: makes tables and proposals, after the first recipe.
        attempt: makes the row of a recipe, under the given lock.
        is_quick: whether a recipe has no training.
        workers: number of expected worker processes.
        threads: of torch, while workers run.
        most_threads: of torch, while none has been started.
        most_seconds: after this time a trial is given up, and this worker ends.
    """

    dispatcher: Dispatcher
    background: Background
    attempt: Callable[[Asked, Lock], Row]
    is_quick: Callable[[Asked], bool]
    workers: int
    threads: int
    most_threads: int
    most_seconds: float
    _asked: Asked | None = None
    _since: float = 0.0
    _rows: dict[int, Row] = field(default_factory=dict)
    _thread: threading.Thread | None = None
    _is_over: bool = False
    _tried: int = 0
    _is_alone: bool = False

    def start(self, *, with_recipe: bool, threads: int | None = None, deadline: float | None = None) -> None:
        """Starts with the first recipe (``with_recipe``), then tables and proposals.

        These use ``threads`` of torch, and are given up at ``deadline``, by ``time.time``.
        """
        asked = self.dispatcher.hand_out(NAME) if with_recipe else None
        if asked is not None:
            self._begin(asked)
        self.background.start(None if asked is None else partial(self._run, asked), threads, deadline)

    def alone(self, count: int) -> None:
        """Tries ``count`` recipes before workers start, for at most ``MOST_ALONE`` seconds."""
        goal, end = self._tried + count, time.monotonic() + MOST_ALONE
        self._is_alone = True
        while self._tried < goal and not self._is_over and time.monotonic() < end:
            self.turn()
            time.sleep(0.05)
        self._is_alone = False

    def turn(self) -> None:
        """Reports a finished row and begins the next trial, if there is one; call it often."""
        if self._asked is not None:
            self.collect()
        elif not self._is_over and self.background.is_done:
            self._next()

    def collect(self) -> None:
        """Reports a finished row, and begins nothing."""
        if self._asked is not None:
            self._look(self._asked)

    @property
    def is_busy(self) -> bool:
        """Whether a recipe is under way."""
        return self._asked is not None

    def _look(self, asked: Asked) -> None:
        if (row := self._rows.pop(asked.number, None)) is not None:
            self._asked = None
            self._tried += 1
            self.dispatcher.finished(NAME, row)
            self.dispatcher.tell(row)
        elif time.monotonic() - self._since > self.most_seconds or self._has_died:
            log.warning("trial %d: the driver gives it up", asked.number)
            self._asked, self._is_over = None, True
            self.dispatcher.lost(NAME, "")

    @property
    def _has_died(self) -> bool:
        """Whether the thread ended without a row."""
        alive = self.background.is_running or (self._thread is not None and self._thread.is_alive())
        return not alive and self._asked is not None and self._asked.number not in self._rows

    def _next(self) -> None:
        if self.dispatcher.workers_seen >= self.workers or self.dispatcher.why_ended:
            self._is_over = True
            return
        asked = self.dispatcher.hand_out(NAME)
        if asked is None:
            self._is_over = True
        elif not self.is_quick(asked):
            self._is_over = True
            self.dispatcher.give_back(NAME)
        else:
            self._begin(asked)
            threads = self.most_threads if self._is_alone else self.threads
            self._thread = threading.Thread(target=self._try, args=(asked, threads), name="driver-worker", daemon=True)
            self._thread.start()

    def _begin(self, asked: Asked) -> None:
        self._asked, self._since = asked, time.monotonic()

    # --- in the thread ----------------------------------------------------------------------------

    def _try(self, asked: Asked, threads: int) -> None:
        torch.set_num_threads(threads)
        with without_tracing():  # the driver composes recipes meanwhile
            self._run(asked)

    def _run(self, asked: Asked) -> None:
        with _logged(asked.number):
            self._rows[asked.number] = self.attempt(asked, LetsTrace())


@contextmanager
def _logged(number: int) -> Iterator[None]:
    try:
        yield
    except Exception:  # the driver notices that there is no row
        log.exception("trial %d: the driver could not try it", number)
