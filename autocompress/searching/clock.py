"""The clock of a search: it begins with the process, and training a baseline does not count."""

from __future__ import annotations

import time

import psutil


def process_began() -> float:
    """When this process began, by ``time.monotonic``."""
    return time.monotonic() - max(0.0, time.time() - psutil.Process().create_time())


class Clock:
    """Seconds that a search has spent, over all its runs.

    Args:
        began: when this run began, by ``time.monotonic``.
    """

    def __init__(self, began: float) -> None:
        self._zero = began

    def leave_out(self, seconds: float) -> None:
        """Subtracts seconds that do not count: training a baseline."""
        self._zero += seconds

    def go_on_from(self, seconds: float) -> None:
        """Adds seconds of earlier runs."""
        self._zero -= seconds

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return time.monotonic() - self._zero
