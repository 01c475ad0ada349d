"""Ends a process that hangs, even inside a native function that never returns.

The clock can be paused for work that several processes share.
"""

from __future__ import annotations

import faulthandler
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

RENEWED = 0.05
"""Minimum time between two restarts of the clock, as a share of the limit.

Restarts are limited because each one starts a thread.
"""


@dataclass
class _Watch:
    """The clock of one block.

    Attributes:
        limit: seconds that the block may take.
        file: file for the stacks of all threads when the process is ended.
        told: called with True when the clock is paused, and with False when it runs again.
        left: seconds that were left at ``since``.
        since: time of the last start of the clock, by ``time.monotonic``.
        is_paused: the clock is paused.
    """

    limit: float
    file: TextIO
    told: Callable[[bool], None]
    left: float
    since: float = 0.0
    is_paused: bool = False

    def arm(self, seconds: float) -> None:
        """Ends the process in ``seconds``, unless this is called again before."""
        faulthandler.dump_traceback_later(max(seconds, 1e-3), exit=True, file=self.file)
        self.since = time.monotonic()

    def pause(self) -> None:
        self.left -= time.monotonic() - self.since
        self.is_paused = True
        self.arm(self.limit)
        self.told(True)

    def alive(self) -> None:
        """Records progress of the work for which the clock is paused."""
        if time.monotonic() - self.since > RENEWED * self.limit:
            self.arm(self.limit)

    def go_on(self) -> None:
        self.told(False)
        self.is_paused = False
        self.arm(self.left)


_watch: _Watch | None = None


@contextmanager
def watched(seconds: float, file: TextIO, told: Callable[[bool], None] = lambda _: None) -> Iterator[None]:
    """Ends the process if the block takes longer than ``seconds``.

    The stacks of all threads are written to ``file``. Uses cannot be nested, and only one thread of
    a process may use it.

    Args:
        seconds: the limit.
        file: file that is open for writing and has a descriptor.
        told: called with True when the clock is paused (:func:`paused`), and with False when it
            runs again.
    """
    global _watch
    _watch = _Watch(seconds, file, told, left=seconds)
    _watch.arm(seconds)
    try:
        yield
    finally:
        _watch = None
        faulthandler.cancel_dump_traceback_later()


@contextmanager
def paused() -> Iterator[Callable[[], None]]:
    """Pauses the clock, if there is one, for work that several processes share.

    Yields a function that must be called repeatedly while the work makes progress. The process ends
    if it is not called for ``limit`` seconds.
    """
    watch = _watch
    if watch is None or watch.is_paused:
        yield (lambda: None) if watch is None else watch.alive
        return
    watch.pause()
    try:
        yield watch.alive
    finally:
        watch.go_on()
