"""What Ctrl-C, SIGTERM and a closed terminal do to a search.

- Ctrl-C raises KeyboardInterrupt: the search is closed with the front so far.
- SIGTERM raises Terminated: the search leaves what a resume needs, and ends without closing.
- SIGHUP does nothing to a search on the command line: a closed terminal does not end it.

Python runs signal handlers between two bytecodes of the main thread, which may be inside a kernel
for long. So a thread is told of signals too, and ends the process where the main thread does not do
so in time.
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
"""After SIGTERM the main thread has this long to end by itself."""
LAST_WORDS_S = 0.2
"""Saying how to go on may take this long."""

_is_caught = False
_is_terminated = False


@contextmanager
def caught(*, ends_process: bool = False, last_words: Callable[[], None] | None = None) -> Iterator[None]:
    """Handles signals while a search runs.

    Does nothing in another thread than the main one, or within itself.

    Args:
        ends_process: the process has nothing else to do than this search. A second Ctrl-C then ends
            it at once, and it outlives its terminal. In a program of the user's own Ctrl-C is left
            to Python.
        last_words: called where SIGTERM ends the process although the main thread is still busy (in
            a kernel, or with the start of Ray) and can say nothing itself.
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
    """Ray turns every SystemExit that is raised while it waits into one with code 1.

    This makes it Terminated again.

    Raises:
        Terminated: in the place of a SystemExit after SIGTERM.
    """
    try:
        yield
    except SystemExit:
        if _is_terminated:
            raise Terminated from None
        raise


def _end_soon(signal_number: int, frame: FrameType | None) -> None:
    """Handler of SIGTERM in a process that has nothing else to do."""
    localray.is_ending = True
    terminate(signal_number, frame)


def end_at_once(code: int) -> None:
    """Kills this process's Ray, removes its files, and ends the process."""
    with contextlib.suppress(Exception):
        localray.kill_all()
    os._exit(code)


class _Interrupt:
    """Handler of Ctrl-C: the second one does not wait for anything."""

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
        # In a thread that is not waited for: the main thread may hold the lock of the log or of the
        #     terminal.
        speaker = threading.Thread(target=last_words, daemon=True)
        speaker.start()
        speaker.join(timeout=LAST_WORDS_S)
    end_at_once(ExitCode.TERMINATED)


@contextmanager
def _watched(on_time_out: Callable[[], None] | None, ends_process: bool) -> Iterator[None]:
    """A thread that hears of signals although the main thread is busy.

    Python writes their numbers to a socket.
    """
    ours, pythons = socket.socketpair()
    pythons.setblocking(False)
    before = signal.set_wakeup_fd(pythons.fileno(), warn_on_full_buffer=False)
    if before != -1:  # an event loop of the user's listens already
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
