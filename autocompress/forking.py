"""Work in a forked process beside this one.

A forked process has this one's imports and objects, so it can build candidates at once. A new
process would first import torch for seconds.
"""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

import torch

from autocompress.processors import usable_processors

SLEEPERS = ("tqdm_monitor", "signals")
"""Threads that only sleep and hold no lock: tqdm's, and the one that hears signals."""
PR_SET_PDEATHSIG = 1
Result = TypeVar("Result")
log = logging.getLogger("autocompress")


def may_fork() -> bool:
    """Whether a forked process can compute here: no other thread works, and a processor is free.

    After CUDA was used, a forked process cannot use it, and might have to.
    """
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    is_alone = all(thread.name in SLEEPERS for thread in others)
    return sys.platform == "linux" and is_alone and usable_processors() > 1 and not torch.cuda.is_initialized()


def settle() -> None:
    """Must be called first in a forked process.

    OpenMP's threads do not exist there. Signals are the parent's business: the process ignores
    Ctrl-C, and it ends with its parent.
    """
    torch.set_num_threads(1)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@dataclass
class Forked(Generic[Result]):
    """A forked process that makes one result."""

    _process: BaseProcess
    _receiver: Connection

    @classmethod
    def started(cls, work: Callable[[], Result]) -> Forked[Result]:
        """Starts ``work`` in a forked process; see :func:`may_fork`. Its result is sent back."""
        context = multiprocessing.get_context("fork")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(work, sender), daemon=True)
        process.start()
        sender.close()
        return cls(process, receiver)

    def result(self, most_seconds: float, meanwhile: Callable[[], None] | None = None) -> Result | None:
        """The result; None where the process failed or takes longer. It has ended afterwards.

        Args:
            most_seconds: that are waited.
            meanwhile: called every tenth of a second.
        """
        found: Result | None = None
        try:
            for _ in range(max(1, round(most_seconds / 0.1))):
                if self._receiver.poll(0.1):
                    found = self._receiver.recv()
                    break
                if meanwhile is not None:
                    meanwhile()
        except (EOFError, OSError):
            log.debug("a forked process has failed")
        self.end()
        return found

    def end(self) -> None:
        """Ends the process, whatever it does."""
        self._process.kill()
        self._process.join()
        self._receiver.close()


def _work(work: Callable[[], Any], sender: Connection) -> None:
    settle()
    sender.send(work())
