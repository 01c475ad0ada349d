"""Places where the driver tries recipes before worker processes have started.

One is a thread of the driver. Others are forked processes, which have the opened job at once. A
worker process would need many seconds to import libraries and open the job.
"""

from __future__ import annotations

import logging
import multiprocessing
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Protocol

import torch

from autocompress.compute import give_memory_back
from autocompress.devices.lock import MachineLock
from autocompress.forking import Forked, Send
from autocompress.graph import let_trace, without_tracing
from autocompress.results import Row
from autocompress.searching.asked import Asked
from autocompress.searching.gates import Lock

Attempt = Callable[[Asked, Lock], Row]
"""Makes the row of a recipe, under the given lock."""
log = logging.getLogger("autocompress.search")


class Place(Protocol):
    """A place that tries one recipe at a time. Its methods are called in the main thread."""

    @property
    def name(self) -> str:
        """Name of the worker for the dispatcher."""

    def begin(self, asked: Asked, threads: int) -> None:
        """Begins to try a recipe, with at most this number of threads of torch."""

    def row(self, asked: Asked) -> Row | None:
        """The row of the recipe; None while there is none."""

    def has_died(self, asked: Asked) -> bool:
        """Whether there will be no row of the recipe."""

    def end(self) -> None:
        """Ends the place, and its trial if that is possible."""


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


class TrialThread:
    """A thread of the driver for each recipe."""

    name = "driver"

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._rows: dict[int, Row] = {}
        self._is_running: Callable[[], bool] = bool

    def begin(self, asked: Asked, threads: int) -> None:
        """Starts a thread."""
        thread = threading.Thread(target=self._try, args=(asked, threads), name="driver-worker", daemon=True)
        self._is_running = thread.is_alive
        thread.start()

    def begin_within(self, asked: Asked, is_running: Callable[[], bool]) -> Callable[[], None]:
        """A function that tries a recipe in another thread, which runs while ``is_running()``."""
        self._is_running = is_running
        return partial(self._run, asked)

    def row(self, asked: Asked) -> Row | None:
        """The row of the recipe; None while there is none."""
        return self._rows.pop(asked.number, None)

    def has_died(self, asked: Asked) -> bool:
        """Whether the thread ended without a row."""
        return not self._is_running() and asked.number not in self._rows

    def end(self) -> None:
        """Does nothing, because a thread cannot be ended from outside; it ends with the driver."""

    def _try(self, asked: Asked, threads: int) -> None:
        torch.set_num_threads(threads)
        with without_tracing():  # the driver composes recipes meanwhile
            self._run(asked)

    def _run(self, asked: Asked) -> None:
        if (row := _tried(self._attempt, asked, LetsTrace())) is not None:
            self._rows[asked.number] = row
        give_memory_back()


class TrialProcess:
    """A forked process, with one thread of torch. See :func:`forking.may_fork`."""

    def __init__(self, attempt: Attempt, number: int) -> None:
        self._number = number
        waiting, self._orders = multiprocessing.get_context("fork").Pipe(duplex=False)
        self._forked = Forked.started(partial(_serve, attempt, waiting))
        self._rows: dict[int, Row] = {}

    @property
    def name(self) -> str:
        """Name of the worker for the dispatcher."""
        return f"driver-{self._number}"

    @property
    def is_alive(self) -> bool:
        """Whether the process has not ended."""
        return self._forked.is_alive

    def begin(self, asked: Asked, threads: int) -> None:
        """Sends the recipe to the process."""
        del threads
        with suppress(OSError):  # the process has died; :meth:`has_died` says so
            self._orders.send(asked)

    def row(self, asked: Asked) -> Row | None:
        """The row of the recipe; None while there is none."""
        self._rows.update(self._forked.arrived())
        return self._rows.pop(asked.number, None)

    def has_died(self, asked: Asked) -> bool:
        """Whether the process ended without a row, or could not make it."""
        is_alive = self.is_alive  # before the row is looked for, which may be its last message
        self._rows.update(self._forked.arrived())
        return not is_alive and asked.number not in self._rows

    def end(self) -> None:
        """Kills the process."""
        self._forked.end()
        self._orders.close()


def _serve(attempt: Attempt, waiting: Connection, send: Send) -> None:
    """Tries recipes in the forked process, until one breaks it."""
    lock = MachineLock()
    while True:
        asked: Asked = waiting.recv()
        if (row := _tried(attempt, asked, lock)) is None:
            return
        send((asked.number, row))
        give_memory_back()


def _tried(attempt: Attempt, asked: Asked, lock: Lock) -> Row | None:
    """The row of a recipe; None after an error, which is logged. The driver notices its absence."""
    try:
        return attempt(asked, lock)
    except Exception:
        log.exception("trial %d: the driver could not try it", asked.number)
        return None
