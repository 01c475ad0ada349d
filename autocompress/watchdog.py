"""Ends a process whose work hangs, be it in a kernel that never returns.

Its clock can be stopped for shared work.
"""

from __future__ import annotations

import faulthandler
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

RENEWED = 0.05
"""Part of the limit after which a sign of life sets the clock again: each time starts a thread."""


@dataclass
class _Watch:
    """The clock of one piece of work: ``left`` of its ``limit`` at ``since``, in seconds."""

    limit: float
    file: TextIO
    told: Callable[[bool], None]
    left: float
    since: float = 0.0
    is_paused: bool = False

    def arm(self, seconds: float) -> None:
        """Ends the process after ``seconds``, unless called again."""
        faulthandler.dump_traceback_later(max(seconds, 1e-3), exit=True, file=self.file)
        self.since = time.monotonic()

    def pause(self) -> None:
        self.left -= time.monotonic() - self.since
        self.is_paused = True
        self.arm(self.limit)
        self.told(True)

    def alive(self) -> None:
        if time.monotonic() - self.since > RENEWED * self.limit:
            self.arm(self.limit)

    def go_on(self) -> None:
        self.told(False)
        self.is_paused = False
        self.arm(self.left)


_watch: _Watch | None = None


@contextmanager
def watched(seconds: float, file: TextIO, told: Callable[[bool], None] = lambda _: None) -> Iterator[None]:
    """Ends the process where the work within takes longer than ``seconds``.

    The stacks of all threads go to ``file``. One at a time in a process, from one thread.

    Args:
        seconds: the limit.
        file: with a descriptor, open for writing.
        told: called with True when the clock is stopped (:func:`paused`), with False when it goes
            on.
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
    """Stops the clock, if there is one, for work that others share.

    It gives a function to call as a sign of life while that work goes on. Without a call for a
    whole limit, the process is ended.
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
