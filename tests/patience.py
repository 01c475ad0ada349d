"""Time limits of tests that wait for other processes: a busy machine gets more time."""

from __future__ import annotations

import os
import time

from autocompress.processors import usable_processors

REFERENCE_S = 0.06
"""Seconds of the work of :func:`slowness` where the limits of tests that judge time were set."""


def patient(seconds: float) -> float:
    """``seconds``, multiplied by the number of running processes per processor.

    Use it for waits that usually end early. Tests that judge time are marked ``timing``.
    """
    waiting = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return seconds * max(1.0, waiting / usable_processors())


def slowness() -> float:
    """How many times as long as there this machine needs for the same work now, at least 1.

    Tests that judge time multiply their limits by it.
    """
    samples = []
    for _ in range(3):
        began = time.perf_counter()
        sum(number * number for number in range(1_000_000))
        samples.append(time.perf_counter() - began)
    return max(1.0, min(samples) / REFERENCE_S)


class Patience:
    """A time limit that grows with the load while a test waits."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._began = seconds, time.monotonic()

    @property
    def is_over(self) -> bool:
        """Whether the limit has passed."""
        return time.monotonic() - self._began > patient(self._seconds)
