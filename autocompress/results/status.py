"""status.json: the progress of a search, written by its driver and read by other processes."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import psutil

from autocompress.errors import UserError
from autocompress.files import write_json

STATUS_FILE = "status.json"
OVER, STOPPED = "over", "stopped"
PHASES = ("preparing", "searching", "closing", OVER, STOPPED)
"""Phases of a search.

"preparing" lasts until the first recipe, "searching" while recipes are tried, and "closing" while
the front is measured again. A search that ended is "over"; one that was interrupted is "stopped".
"""
_SAME_PROCESS_S = 2.0
"""Maximum difference in seconds of two readings of the start time of one process."""


_CONVERTED: Mapping[Any, Callable[[Any], Any]] = {
    "str": str,
    "int": int,
    "float": float,
    "float | None": lambda value: None if value is None else float(value),
    "Mapping[str, Any] | None": lambda value: None if value is None else dict(value),
    "Mapping[str, str]": lambda value: {str(name): str(text) for name, text in dict(value).items()},
    "tuple[Mapping[str, Any], ...]": lambda value: tuple(dict(one) for one in value),
}
"""By the type of a field, what makes its value of JSON, and raises an error if it cannot."""


def _began() -> float:
    return psutil.Process().create_time()


@dataclass(frozen=True)
class Status:
    """The progress of a search.

    Attributes:
        phase: one of ``PHASES``.
        step: text about the current work.
        fraction: finished fraction of the step, 0 to 1; None if unknown.
        trials: number of rows so far, including those before a resume.
        total: the budget of trials; 0 before it is known.
        front: models on the front so far.
        hypervolume: hypervolume of that front.
        workers: number of processes that try recipes.
        baseline: the row of the baseline; None if it is not known yet.
        under_way: recipes that are being tried: ``{"trial": number, "label": text}``.
        seconds_left: expected seconds until the search ends; None if unknown.
        note: the last note since the phase or the last trial; else empty.
        standing: notes that stay true for longer, by what they are about: a constraint that no
            recipe can meet, by its quantity.
        updated: seconds since the epoch.
        pid, process_began, host: process id, start time and host name of the driver.
    """

    phase: str = "preparing"
    step: str = ""
    fraction: float | None = None
    trials: int = 0
    total: int = 0
    front: int = 0
    hypervolume: float = 0.0
    workers: int = 0
    baseline: Mapping[str, Any] | None = None
    under_way: tuple[Mapping[str, Any], ...] = ()
    seconds_left: float | None = None
    note: str = ""
    standing: Mapping[str, str] = field(default_factory=dict)
    updated: float = field(default_factory=time.time)
    pid: int = field(default_factory=os.getpid)
    process_began: float = field(default_factory=_began)
    host: str = field(default_factory=platform.node)

    @property
    def is_running(self) -> bool | None:
        """Whether the driver is alive; None if it runs on another machine."""
        if self.phase in (OVER, STOPPED):
            return False
        if self.host != platform.node():
            return None
        try:
            began = psutil.Process(self.pid).create_time()
        except psutil.Error:
            return False
        return abs(began - self.process_began) < _SAME_PROCESS_S


def write_status(folder: Path, status: Status) -> None:
    """Writes status.json atomically."""
    write_json(folder / STATUS_FILE, asdict(status))


def read_status(folder: Path) -> Status | None:
    """The status of the run in ``folder``; None if it has none (from an earlier version).

    Raises:
        UserError: if the file cannot be read.
    """
    file = folder / STATUS_FILE
    try:
        told = {**json.loads(file.read_text(encoding="utf-8"))}
        values = {one.name: _CONVERTED[one.type](told[one.name]) for one in fields(Status) if one.name in told}
        return Status(**values)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, ArithmeticError) as error:
        raise UserError(f"{file} cannot be read: {error}", "the files of a run must not be changed") from None
