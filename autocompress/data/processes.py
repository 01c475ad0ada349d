"""Processes that read pictures for this one, for several epochs and splits."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from autocompress.data.batches import Reading, Request
from autocompress.data.randomness import random_kept
from autocompress.errors import UserError
from autocompress.processors import usable_processors

log = logging.getLogger("autocompress")

MOST = 8
"""Maximum number of processes with "auto"."""
AHEAD = 2
"""Batches that each process reads ahead."""
POOLS = 2
"""Maximum number of picture lists with processes: the training images, and other images."""
WORTH_S = 2.0
"""Minimum seconds of work for which processes are started."""
SHARED_MEMORY = "/dev/shm"

Answer = torch.Tensor


@dataclass(frozen=True)
class Readers:
    """The number of processes that read pictures.

    Attributes:
        count: number of processes; 0 to read in this process.
        waits: processes only start if enough work is left.
    """

    count: int = 0
    waits: bool = False

    @classmethod
    def of(cls, asked: int | str, trials: int = 1) -> Readers:
        """The reader processes of a job.

        Args:
            asked: a number, or "auto": one less than the processors of a trial, at most ``MOST``.
            trials: number of simultaneous trials of the job.
        """
        if isinstance(asked, int):
            return cls(asked)
        return cls(max(0, min(usable_processors() // trials - 1, MOST)), waits=True)


HERE = Readers()


class _Requests(Sampler[Request]):
    """The requests of the next iteration."""

    def __init__(self) -> None:
        self.next: Sequence[Request] = ()

    def __iter__(self) -> Iterator[Request]:
        return iter(self.next)

    def __len__(self) -> int:
        return len(self.next)


@dataclass
class _Pool:
    """Processes for one list of pictures; they work on one iteration at a time."""

    reading: Reading
    count: int
    busy: bool = False
    requests: _Requests = field(default_factory=_Requests)

    def __post_init__(self) -> None:
        # Forked processes need no imports. After the first use of CUDA, forking is not possible.
        context = "forkserver" if torch.cuda.is_initialized() else "fork" if hasattr(os, "fork") else "spawn"
        if context == "forkserver":
            get_context(context).set_forkserver_preload(["autocompress.data.batches", "timm.data"])
        with _as_many_as_asked():
            self.loader: DataLoader[Any] = DataLoader(
                self.reading,
                batch_size=None,
                sampler=self.requests,
                num_workers=self.count,
                prefetch_factor=AHEAD,
                persistent_workers=True,
                pin_memory=torch.cuda.is_initialized(),
                collate_fn=_as_it_is,
                worker_init_fn=_begin,
                multiprocessing_context=context,
                # The first iteration draws a number. It must not come from torch's own generator,
                # which dropout uses later.
                generator=torch.Generator(),
            )

    def answers(self, requests: Sequence[Request]) -> Iterator[Any]:
        """The answers, in order.

        Raises:
            RuntimeError: if a process ends.
        """
        self.requests.next, self.busy = requests, True
        try:
            with _as_many_as_asked(), _signals_kept():
                found = iter(self.loader)
            yield from found
        except (ConnectionError, EOFError, FileNotFoundError) as error:  # it was killed while it answered
            raise RuntimeError(f"DataLoader worker ended while it answered: {error}") from error
        finally:
            self.busy = False


_pools: OrderedDict[Any, _Pool] = OrderedDict()


def answers(reading: Reading, requests: Sequence[Request], readers: Readers) -> Iterator[Answer]:
    """The images of each request, uint8 or float32 ``(N, C, H, W)``, in order.

    If a process ends, or all are busy with another iteration, this process reads.

    Raises:
        UserError: naming a picture that cannot be read.
    """
    if requests and requests[0].seeds is not None:
        _ = reading.augmented  # before forking, so that the processes have it
    done, count = 0, readers.count if len(requests) > 1 else 0
    if count and readers.waits:
        began = time.monotonic()
        first = _here(reading, requests[0])
        count = count if (time.monotonic() - began) * (len(requests) - 1) > WORTH_S else 0
        yield first
        done = 1
    pool = _pool(reading, readers.count) if count else None
    if pool is not None:
        try:
            for answer in pool.answers(_sent(requests[done:], reading, count)):
                yield _checked(answer)
                done += 1
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            _drop(pool)
            log.warning("a process that reads pictures ended (%s); this process reads on", str(error).splitlines()[0])
    for request in requests[done:]:
        yield _here(reading, request)


def _here(reading: Reading, request: Request) -> Answer:
    with random_kept():
        return reading.read(request)


def _checked(answer: Any) -> Answer:
    if isinstance(answer, tuple):
        raise UserError(*answer)
    return answer if isinstance(answer, torch.Tensor) else torch.from_numpy(answer)


def _sent(requests: Sequence[Request], reading: Reading, count: int) -> Sequence[Request]:
    """The requests; answers are sent through pipes if shared memory is too small."""
    if not requests:
        return requests
    channels, height, width = reading.info.input_size
    largest = 4 * len(requests[0].indices) * channels * height * width
    if largest * (count * AHEAD + 2) <= shared_memory():
        return requests
    return [Request(one.indices, one.slots, one.seeds, by_pipe=True) for one in requests]


def shared_memory() -> int:
    """Free bytes of shared memory; 0 if there is none."""
    try:
        facts = os.statvfs(SHARED_MEMORY)
    except OSError:
        return 0
    return facts.f_bavail * facts.f_frsize


def _pool(reading: Reading, count: int) -> _Pool | None:
    """The processes for ``reading``, started if needed; None if they are busy."""
    key = reading.origin.key, reading.origin.pictures.place, reading.info, count, os.getpid()
    if (pool := _pools.get(key)) is not None:
        _pools.move_to_end(key)
        return None if pool.busy else pool
    _pools[key] = pool = _Pool(reading, count)
    while len(_pools) > POOLS:
        _pools.popitem(last=False)
    return pool


def _drop(pool: _Pool) -> None:
    for key in [key for key, one in _pools.items() if one is pool]:
        del _pools[key]


@contextmanager
def _as_many_as_asked() -> Iterator[None]:
    """Context without torch's warning about more processes than processors."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")
        yield


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Context after which torch has no handler for SIGCHLD.

    That handler would raise at any place in this process when a reading process ends. Even without
    the handler, waiting for an answer of that process raises.
    """
    before = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, before)


def _as_it_is(answer: Any) -> Any:
    return answer


def _begin(_number: int) -> None:
    """Called first in a reading process: signals are left to its parent."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
