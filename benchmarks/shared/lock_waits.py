"""Notes how long each process of a search waits for locks; a plugin for ``benchmarks/cluster.py``.

Each process writes ``<pid>.json`` into the folder that ``AUTOCOMPRESS_LOCK_WAITS`` names, every
second: how long it lives, and the seconds that it waited, by kind of lock.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from autocompress.contract import hookimpl
from autocompress.files import write_json
from autocompress.job import Job
from autocompress.locks import FileLock

VARIABLE = "AUTOCOMPRESS_LOCK_WAITS"
MACHINE = ("machine", "queue", "aside")
"""Files of the machine lock of measurements."""
_began = time.monotonic()
_waits: Counter[str] = Counter()
_own = threading.Lock()
_acquire = FileLock.acquire


def kind_of(path: Path) -> str:
    """``machine``, ``making`` (another process makes the same entry), or ``others``."""
    if path.name.startswith(MACHINE):
        return "machine"
    return "making" if ".making" in path.parts else "others"


def _timed(self: FileLock, *given: Any, **named: Any) -> bool:
    began = time.monotonic()
    try:
        return _acquire(self, *given, **named)
    finally:
        with _own:
            _waits[kind_of(self.path)] += time.monotonic() - began


def _write(folder: Path) -> None:
    while True:
        with _own:
            told = {"lived": time.monotonic() - _began, **_waits}
        write_json(folder / f"{os.getpid()}.json", told)
        time.sleep(1.0)


if VARIABLE in os.environ:
    FileLock.acquire = _timed  # type: ignore[method-assign]
    threading.Thread(target=_write, args=(Path(os.environ[VARIABLE]),), daemon=True).start()


@hookimpl
def autocompress_search_started(job: Job) -> None:
    """Does nothing: it is enough that this file is imported."""
    del job
