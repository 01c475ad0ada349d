"""The spool: rows of workers for the driver, which is the only writer of the study.

A worker writes its row here, and then sends it to the driver. The driver adds it to the study and
removes the file. If the driver was killed, the next one finds the remaining rows here.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autocompress.files import kept_if_possible, write_text
from autocompress.results import Row

SPOOL = "spool"
"""Name of the folder in the folder of the run."""
_ROW, _CLOCK = "json", "clock"
_NAME = re.compile(rf"(\d+)\.(\d+)\.({_ROW}|{_CLOCK})")
log = logging.getLogger("autocompress.search")


@dataclass(frozen=True)
class Worked:
    """The working time of a worker, recorded when it begins or ends waiting for shared work.

    Attributes:
        seconds: seconds of its own work until ``at``.
        is_held: it has waited since ``at``.
        at: seconds since the epoch.
    """

    seconds: float
    is_held: bool
    at: float


class Spool:
    """The rows of one run that its driver may not have received.

    Args:
        folder: ``results/<name>``.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / SPOOL

    # --- the worker -------------------------------------------------------------------------------

    def write(self, number: int, attempt: int, row: Row) -> None:
        """Writes the row of a trial; on a full disk, the driver still gets it by message."""
        with kept_if_possible(self._folder):
            self._write(number, attempt, _ROW, json.dumps(row))

    def clock(self, number: int, attempt: int) -> Callable[[bool], None]:
        """Starts a clock; call the result with True when the worker waits, False when it goes on.

        A file is only written at these calls, because a trial that never waits needs none.
        """
        since, seconds = time.time(), 0.0

        def tell(is_held: bool) -> None:
            nonlocal since, seconds
            now = time.time()
            if is_held:
                seconds += now - since
            since = now
            with kept_if_possible(self._folder):
                told = {"seconds": seconds, "is_held": is_held, "at": now}
                self._write(number, attempt, _CLOCK, json.dumps(told))

        return tell

    # --- the driver -------------------------------------------------------------------------------

    def row(self, number: int, attempt: int) -> Row | None:
        """The row of one attempt; None if there is none."""
        return _read(self._path(number, attempt, _ROW))

    def worked(self, number: int, attempt: int) -> Worked | None:
        """The last record of the working time of an attempt; None if it never waited."""
        found = _read(self._path(number, attempt, _CLOCK))
        try:
            return None if found is None else Worked(**found)
        except TypeError:
            return None

    def waiting(self) -> Iterator[tuple[int, Row]]:
        """Numbers and rows of trials that are not in the study, in the order of the numbers."""
        found = [_NAME.fullmatch(path.name) for path in self._folder.glob(f"*.{_ROW}")]
        for number, attempt in sorted((int(name[1]), int(name[2])) for name in found if name is not None):
            row = self.row(number, attempt)
            if row is not None and row.get("trial") == number:
                yield number, row

    def drop(self, number: int, attempt: int) -> None:
        """Removes the files of one attempt, when its row is in the study."""
        for kind in (_ROW, _CLOCK):
            self._path(number, attempt, kind).unlink(missing_ok=True)

    def clear(self) -> None:
        """Removes the files of all attempts."""
        shutil.rmtree(self._folder, ignore_errors=True)

    # --- reading ----------------------------------------------------------------------------------

    def _path(self, number: int, attempt: int, kind: str) -> Path:
        return self._folder / f"{number}.{attempt}.{kind}"

    def _write(self, number: int, attempt: int, kind: str, text: str) -> None:
        self._folder.mkdir(exist_ok=True)
        write_text(self._path(number, attempt, kind), text)


def _read(path: Path) -> dict[str, Any] | None:
    """The JSON object in ``path``; None if it is missing or cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("%s cannot be read: %s", path, error)
        return None
    return found if isinstance(found, dict) else None
