"""Freed memory is kept for the next tensors, and given back between trials."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, threading
from autocompress import heap

if sys.argv[1] == "kept":
    heap.keep_freed()
import torch
from autocompress.compute import give_memory_back

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(16 * 2**20).add_(1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def least():
    return min(faults() for _ in range(8))  # the first tensors find no free block that is aligned

def in_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(least()))
    thread.start()
    thread.join()
    return found[0]

torch.set_num_threads(1)
again, elsewhere = least(), in_thread()
resident = int(open("/proc/self/statm").read().split()[1])
give_memory_back()
print(again, elsewhere, resident - int(open("/proc/self/statm").read().split()[1]))
"""
"""Prints the page faults of a tensor of 64 MiB, and the number of pages that are given back."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this machine has another C library than glibc")
def test_freed_memory_is_kept_until_it_is_given_back() -> None:
    def run(how: str) -> list[int]:
        said = subprocess.run([sys.executable, "-c", FAULTS, how], check=True, capture_output=True, text=True).stdout
        return [int(number) for number in said.split()]

    again, elsewhere, given_back = run("kept")
    usual, *_ = run("usual")
    assert 10 * again <= usual
    assert 10 * elsewhere <= usual, "all threads use the same memory"
    assert given_back * resource.getpagesize() >= 60 * 2**20
