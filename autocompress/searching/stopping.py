"""Handles Ctrl-C, SIGTERM and a closed terminal during a search.

- Ctrl-C raises KeyboardInterrupt: the search is closed with the front so far.
- SIGTERM raises Terminated: the search ends without closing, and can be resumed.
- SIGHUP is ignored on the command line, so that a closed terminal does not end the search.

Python runs signal handlers between two bytecodes of the main thread, which may be inside a native
function for long. So a thread also receives signals, and ends the process if the main thread does
not do so in time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

from autocompress.errors import ExitCode, Terminated
from autocompress.searching import localray

ENDS_WITHIN_S = 1.8
"""Seconds after SIGTERM in which the main thread can end by itself."""
LAST_WORDS_S = 0.2
"""Seconds for the last message."""

_is_caught = False
_is_terminated = False


@contextmanager
def caught(*, ends_process: bool = False, last_words: Callable[[], None] | None = None) -> Iterator[None]:
    """Handles signals while a search runs.

    It does nothing in other threads than the main one, or when nested.

    Args:
        ends_process: the process only runs this search. A second Ctrl-C then ends it at once, and
            it ignores SIGHUP. In a program of the user, Ctrl-C is left to Python.
        last_words: called if SIGTERM ends the process while the main thread is busy (in a native
            function, or starting Ray) and cannot print a message.
    """
    global _is_caught, _is_terminated
    if _is_caught or threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers: dict[int, Any] = {}
    if ends_process or signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        handlers[signal.SIGTERM] = _end_soon if ends_process else terminate
    if ends_process:
        handlers[signal.SIGINT] = _Interrupt()
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
            handlers[signal.SIGHUP] = signal.SIG_IGN
    _is_caught, _is_terminated = True, False
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        with _watched(partial(_on_time_out, last_words) if signal.SIGTERM in handlers else None, ends_process):
            yield
    finally:
        _is_caught = False
        for number, handler in before.items():
            signal.signal(number, handler)


def terminate(signal_number: int, frame: FrameType | None) -> None:
    """Handler of SIGTERM.

    Raises:
        Terminated: always.
    """
    global _is_terminated
    del signal_number, frame
    _is_terminated = True
    raise Terminated


@contextmanager
def terminated_by_name() -> Iterator[None]:
    """Raises Terminated again, because a waiting Ray turns a SystemExit into one with code 1.

    Raises:
        Terminated: in place of a SystemExit after SIGTERM.
    """
    try:
        yield
    except SystemExit:
        if _is_terminated:
            raise Terminated from None
        raise


def _end_soon(signal_number: int, frame: FrameType | None) -> None:
    """Handler of SIGTERM in a process that only runs a search."""
    localray.is_ending = True
    terminate(signal_number, frame)


def end_at_once(code: int) -> None:
    """Kills Ray of this process, removes its files, and ends the process."""
    with contextlib.suppress(Exception):
        localray.kill_all()
    os._exit(code)


class _Interrupt:
    """Handler of Ctrl-C; the second Ctrl-C ends the process at once."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, signal_number: int, frame: FrameType | None) -> None:
        del signal_number, frame
        self._count += 1
        if self._count > 1:
            end_at_once(ExitCode.INTERRUPTED)
        raise KeyboardInterrupt


def _on_time_out(last_words: Callable[[], None] | None) -> None:
    if last_words is not None:
        # In a thread that is not joined, because the main thread may hold the lock of the log or of
        # the terminal.
        speaker = threading.Thread(target=last_words, daemon=True)
        speaker.start()
        speaker.join(timeout=LAST_WORDS_S)
    end_at_once(ExitCode.TERMINATED)


@contextmanager
def _watched(on_time_out: Callable[[], None] | None, ends_process: bool) -> Iterator[None]:
    """A thread that receives signals while the main thread is busy.

    Python writes the numbers of signals to a socket.
    """
    ours, pythons = socket.socketpair()
    pythons.setblocking(False)
    before = signal.set_wakeup_fd(pythons.fileno(), warn_on_full_buffer=False)
    if before != -1:  # an event loop of the user already receives signals
        signal.set_wakeup_fd(before)
        on_time_out, ends_process = None, False
    ended = threading.Event()

    def listen() -> None:
        interrupts = 0
        while not ended.is_set() and (received := ours.recv(16)):
            interrupts += received.count(signal.SIGINT)
            if signal.SIGTERM in received and on_time_out is not None and not ended.wait(ENDS_WITHIN_S):
                on_time_out()
            if interrupts > 1 and ends_process and not ended.wait(ENDS_WITHIN_S / 2):
                end_at_once(ExitCode.INTERRUPTED)

    thread = threading.Thread(target=listen, name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        if before == -1:
            signal.set_wakeup_fd(-1)
        pythons.close()
        thread.join(timeout=1.0)
        ours.close()
