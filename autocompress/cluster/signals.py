"""Keeps our signal handlers while Ray starts and ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def handlers_kept() -> Iterator[Callable[[], None]]:
    """Keeps our signal handlers while Ray starts and ends.

    Ray installs handlers that abort the process at SIGTERM, and removes all handlers when it ends.
    Yields a function that restores ours, and calls it at the end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def put_back() -> None:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)

    try:
        yield put_back
    finally:
        put_back()
