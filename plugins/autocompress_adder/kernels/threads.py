"""Runs kernels on the threads of torch, with torch's number of threads.

After an operator, torch's threads spin for milliseconds, so additional threads would have to share
the processor with them. If torch's OpenMP can be found, a kernel is a parallel region of that
OpenMP. Otherwise, and in a forked process, where that OpenMP fails, it runs on its own threads.
numba's threading layers are not used, because the one that is always available must not be entered
by two threads at once, and callers may be threads.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from autocompress.processors import usable_processors

BLOCKS = 4
"""Shares of the work per thread, so that others take over the work of a delayed thread."""

_BODY = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_parent = os.getpid()
_pools: list[ThreadPoolExecutor] = []


def spread(kernel: Callable[[int, int], None], count: int, grain: int = 1, least: int = 1) -> None:
    """Calls ``kernel(begin, end)`` for parts of ``range(count)`` on torch's number of threads.

    Args:
        kernel: compiled with ``nogil``; calls write to different places.
        count: number of units of work.
        grain: each call except the last gets a multiple of this number of units.
        least: minimum number of units of a share, unless a thread would have none.
    """
    threads = torch.get_num_threads()
    share = -(-max(count // (threads * BLOCKS), min(count // threads, least), 1) // grain) * grain
    if threads == 1 or share >= count:
        if count:
            kernel(0, count)
        return
    todo = deque(range(0, count, share))
    errors: list[BaseException] = []

    def work(*_: Any) -> None:
        try:
            while todo:
                begin = todo.popleft()
                kernel(begin, min(begin + share, count))
        except IndexError:  # another thread was quicker
            pass
        except BaseException as error:  # raised by the caller, below
            todo.clear()
            errors.append(error)

    region = _openmp() if os.getpid() == _parent else None
    if region is not None:
        region(_BODY(work), None, threads, 0)
    else:
        _on_our_own(work, threads)
    if errors:
        raise errors[0]


def _on_our_own(work: Callable[[], None], threads: int) -> None:
    if not _pools:
        _pools.append(ThreadPoolExecutor(usable_processors(), thread_name_prefix="adder"))
    others = [_pools[0].submit(work) for _ in range(threads - 1)]
    work()
    for other in others:
        # A thread that has not begun has nothing left to do.
        if not other.cancel():
            other.result()


@functools.cache
def _openmp() -> Any:
    """``GOMP_parallel(body, data, threads, flags)`` of torch's OpenMP; None if it has none.

    This function of GNU's OpenMP starts a parallel region. LLVM's and Intel's on Linux have it too.
    """
    libraries = Path(torch.__file__).parent / "lib"
    try:
        region = ctypes.CDLL(str(libraries / "libtorch_cpu.so")).GOMP_parallel
    except (OSError, AttributeError):
        return None
    region.argtypes, region.restype = [_BODY, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    return region


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pools.clear)
