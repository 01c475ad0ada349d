"""Tables as JSON files: each row is written when it is done, and existing rows are kept."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from autocompress.files import write_json


def read(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``; empty if the file does not exist."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def command_line() -> str:
    """The command that runs this benchmark, for tables."""
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])


class TimeIsUp(Exception):
    """Raised if there is no time for the next row."""


class Rows:
    """Rows by key in one JSON file.

    An interrupted run continues: existing rows are not made again.

    Args:
        path: the JSON file.
        head: values on which rows depend (settings, versions); rows with another head are dropped.
        until: time (by ``time.monotonic``) after which no row begins; None for no limit.
    """

    def __init__(self, path: Path, head: dict[str, Any], until: float | None = None) -> None:
        self.path, self.head, self.until = path, json.loads(json.dumps(head, default=str)), until
        found = read(path)
        same = all(found.get(key) == value for key, value in self.head.items())
        self.rows: dict[str, dict[str, Any]] = found.get("rows", {}) if found and same else {}

    def row(self, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The row ``key``. If it is missing, it is made, timed, written and shown.

        Raises:
            TimeIsUp: if it is missing, and the time is up.
        """
        if key not in self.rows:
            if self.until is not None and time.monotonic() > self.until:
                raise TimeIsUp
            started = time.perf_counter()
            made = make()
            self.rows[key] = {**made, "seconds": round(time.perf_counter() - started, 1)}
            self.write()
        shown = {name: value for name, value in self.rows[key].items() if name != "correct"}
        print(key, json.dumps(shown), flush=True)
        return self.rows[key]

    def write(self, **more: Any) -> None:
        """Writes head, rows and further values."""
        write_json(self.path, {**self.head, **more, "rows": self.rows})


def packed(correct: np.ndarray) -> str:
    """One flag per image as hexadecimal text, for tables."""
    return f"{len(correct)}:{np.packbits(correct).tobytes().hex()}"


def unpacked(text: str) -> np.ndarray:
    """The reverse of :func:`packed`: bool ``(images,)``."""
    count, _, flags = text.partition(":")
    return np.unpackbits(np.frombuffer(bytes.fromhex(flags), dtype=np.uint8))[: int(count)].astype(bool)
