"""Work in a forked process beside this one.

A forked process has this one's imports and objects, so it can build candidates at once. A new
process would first import torch for seconds.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from autocompress.processors import usable_processors

SLEEPERS = ("tqdm_monitor", "signals")
"""Threads that only sleep and hold no lock: tqdm's, and the one that receives signals."""
PR_SET_PDEATHSIG = 1
SIZE = 2
"""Bytes of a number in a pipe."""
END = b"\xff\xff"
"""The mark after the last number in a pipe."""
Send = Callable[[Any], None]


def may_fork() -> bool:
    """Whether a forked process can compute here: no other thread works, and a processor is free.

    It is False once CUDA was used: a forked process could not use CUDA, and might need it.
    """
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    is_alone = all(thread.name in SLEEPERS for thread in others)
    return sys.platform == "linux" and is_alone and usable_processors() > 1 and not torch.cuda.is_initialized()


def settle() -> None:
    """Must be called first in a forked process.

    OpenMP's threads do not exist there. The parent handles signals: this process ignores Ctrl-C,
    and ends with its parent.
    """
    torch.set_num_threads(1)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@dataclass
class Forked:
    """A forked process that sends messages to this one."""

    _process: BaseProcess
    _receiver: Connection

    @classmethod
    def started(cls, work: Callable[[Send], None]) -> Forked:
        """Starts ``work`` in a forked process; see :func:`may_fork`.

        Args:
            work: gets a function that sends a message, which must be picklable.
        """
        context = multiprocessing.get_context("fork")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(work, sender), daemon=True)
        process.start()
        sender.close()
        return cls(process, receiver)

    def messages(self, most_seconds: float, meanwhile: Callable[[], None] | None = None) -> Iterator[Any]:
        """Yields the messages of the process until it ends.

        Args:
            most_seconds: maximum number of seconds to wait for each message.
            meanwhile: called every tenth of a second.
        """
        end = time.monotonic() + most_seconds
        try:
            while time.monotonic() < end:
                if self._receiver.poll(0.1):
                    yield self._receiver.recv()
                    end = time.monotonic() + most_seconds
                elif meanwhile is not None:
                    meanwhile()
        except (EOFError, OSError):
            return

    def arrived(self) -> Iterator[Any]:
        """The messages so far, without waiting.

        Call it often, because the process waits while its pipe is full.
        """
        try:
            while self._receiver.poll():
                yield self._receiver.recv()
        except (EOFError, OSError):
            return

    @property
    def is_alive(self) -> bool:
        """Whether the process has not ended."""
        return self._process.is_alive()

    def end(self) -> None:
        """Ends the process at once."""
        self._process.kill()
        self._process.join()
        self._receiver.close()


class Claims:
    """Numbers that several processes take from one pipe; each number is taken once.

    A pipe needs no lock, which a process could hold when it dies. Make the object before forking.
    Other processes that are forked meanwhile have the pipe open too, so the pipe never closes and
    its end is a mark in it.
    """

    def __init__(self) -> None:
        self._waiting, self._filled = os.pipe()

    def fill(self, count: int) -> None:
        """Offers all numbers below ``count``, at most 32,000. It is called once, by one process."""
        os.write(self._filled, b"".join(number.to_bytes(SIZE, "little") for number in range(count)) + END)

    def taken(self) -> Iterator[int]:
        """Yields numbers that no other process has taken; waits until :meth:`fill` was called."""
        while (data := os.read(self._waiting, SIZE)) != END:
            yield int.from_bytes(data, "little")
        os.write(self._filled, END)  # the other processes need the mark too

    def close(self) -> None:
        """Closes the pipe. Call it in the process that made the object, when no process takes."""
        os.close(self._waiting)
        os.close(self._filled)


def _work(work: Callable[[Send], None], sender: Connection) -> None:
    settle()
    work(sender.send)
