"""Kernels on as many threads as torch uses.

numba's own threading layers are not used: the one that is always there must not be entered by two threads at once, and
OpenMP's does not survive a fork. The kernels here release the lock of the interpreter instead, and a pool of plain
threads, made anew in a forked process, runs them on blocks of the work. Callers may be threads themselves.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

BLOCKS = 4
"""Shares of the work for each thread, so that one that is held up leaves work to the others."""

_pools: list[ThreadPoolExecutor] = []


def spread(kernel: Callable[[int, int], None], count: int, grain: int = 1, least: int = 1) -> None:
    """Calls ``kernel(begin, end)`` until ``range(count)`` is done, on ``torch.get_num_threads()`` threads.

    Args:
        kernel: compiled with ``nogil``; calls write to different places.
        count: of the units of work.
        grain: each call gets a multiple of this many units, but the last.
        least: that are worth a share of their own, as long as every thread has one.
    """
    threads = min(torch.get_num_threads(), -(-count // grain))
    if threads <= 1:
        if count:
            kernel(0, count)
        return
    share = -(-max(count // (threads * BLOCKS), min(count // threads, least), 1) // grain) * grain
    todo = deque(range(0, count, share))

    def work() -> None:
        while todo:
            try:
                begin = todo.popleft()
            except IndexError:
                return
            kernel(begin, min(begin + share, count))

    others = [_pool().submit(work) for _ in range(threads - 1)]
    work()
    for other in others:
        # One that has not begun has nothing left to do.
        if not other.cancel():
            other.result()


def _pool() -> ThreadPoolExecutor:
    if not _pools:
        _pools.append(ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="adder"))
    return _pools[0]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pools.clear)
