"""A forked process that helps to make tables: it builds the probes, then measures cells.

If a search has a worker for each processor, workers start after the first proposals. Until then a
processor is free. The process has the baseline from the time of forking, and reads orders and
moments from the store.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from autocompress.devices.lock import MachineLock
from autocompress.forking import Claims, Forked, Send
from autocompress.proposals.choices import Part, Selection
from autocompress.proposals.probes import Built, Point, ProbeBuilder

MOST_WAITED = 60.0
"""Maximum seconds to wait for a message; then this process does the work itself."""
MOST_LATE = 5.0
"""Seconds after the deadline that the last cell of the other process may take."""
NICENESS = 10
"""Niceness of the forked process, because the first recipe and the moments are more urgent."""
Measure = Callable[[Selection], float]
"""Divergence of a selection."""


@dataclass
class Helper:
    """The forked process, from the side of this process.

    Attributes:
        asked: the shares of each probe by coupling.
    """

    asked: list[Mapping[str, float]]
    _folder: tempfile.TemporaryDirectory[str]
    _claims: Claims
    _forked: Forked
    _probes: Built | None = None
    _cells: dict[int, float] = field(default_factory=dict)

    @classmethod
    def started(
        cls,
        builder: ProbeBuilder,
        parts: Sequence[Part],
        points: Sequence[Point],
        measures: Callable[[Callable[[], None]], tuple[list[Selection], Measure]],
    ) -> Helper:
        """Forks; see :func:`forking.may_fork`.

        Args:
            builder: builds the files of the probes.
            parts, points: parts of the problem, and the probes as choices of these parts.
            measures: returns the cells in their order, and a function that measures one. It is
                called in the forked process when cells are offered, with a function that gives way
                to measurements.
        """
        folder, claims = tempfile.TemporaryDirectory(), Claims()

        def work(send: Send) -> None:
            os.nice(NICENESS)
            made = builder.build(parts, points, Path(folder.name), MachineLock())
            send([(point, replace(file, module=None)) for point, file in made])  # a module cannot be sent
            lock, cells = MachineLock(), None
            for number in claims.taken():
                with lock.shared():
                    cells = cells or measures(lock.breathe)
                    send((number, cells[1](cells[0][number])))

        return cls(asked_of(parts, points), folder, claims, Forked.started(work))

    def offer(self, count: int) -> None:
        """Lets the forked process begin with this number of cells; with none, it ends."""
        self._claims.fill(count)

    def cells(
        self,
        selections: Sequence[Selection],
        measure: Measure,
        deadline: float,
        meanwhile: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> list[float | None]:
        """Divergences of cells, measured by both processes.

        Args:
            selections: those of ``measures``, which were offered.
            measure: measures a cell in this process.
            deadline: by ``clock``. This process begins no cell after the deadline, and waits for
                cells of the other process until ``MOST_LATE`` seconds after the deadline.
            meanwhile: called while waiting. It must let a measurement that waits for the machine
                lock go first, because the other process then waits for that measurement.
            clock: returns seconds.

        Returns:
            A number for each cell; None for a cell that was not measured, or could not be.
        """
        found: list[float | None] = [None] * len(selections)
        for number in self._claims.taken():
            for message in self._forked.arrived():
                self._take(message)
            if clock() < deadline:
                found[number] = _tried(measure, selections[number])
        left = deadline + MOST_LATE - clock()
        self._listen(until_probes=False, meanwhile=meanwhile, end=time.monotonic() + left)
        for number, value in self._cells.items():
            found[number] = value
        return found

    def probes(self, parts: Sequence[Part], points: Sequence[Point], meanwhile: Callable[[], None]) -> Built | None:
        """The files of these probes; None if the process builds other probes, or failed."""
        if asked_of(parts, points) != self.asked:
            return None
        if self._probes is None:
            self._listen(until_probes=True, meanwhile=meanwhile)
        return self._probes

    def _listen(self, *, until_probes: bool, meanwhile: Callable[[], None], end: float = math.inf) -> None:
        """Takes messages, until the process ends, the probes are there, or the time is up."""
        most = min(MOST_WAITED, max(0.2, end - time.monotonic()))
        for message in self._forked.messages(most, meanwhile):
            self._take(message)
            if (until_probes and self._probes is not None) or time.monotonic() > end:
                return

    def _take(self, message: Any) -> None:
        """Keeps the probes, or a cell."""
        if isinstance(message, list):
            self._probes = message
        else:
            number, value = message
            self._cells[number] = value

    def end(self) -> None:
        """Ends the process, and removes the files."""
        self._forked.end()
        self._claims.close()
        self._folder.cleanup()


def _tried(measure: Measure, selection: Selection) -> float | None:
    try:
        return measure(selection)
    except Exception:  # the next caller that asks for this cell gets the error
        return None


def asked_of(parts: Sequence[Part], points: Sequence[Point]) -> list[Mapping[str, float]]:
    """The shares of each probe by coupling."""
    return [{part.name: float(part.choices[at]) for part, at in zip(parts, point, strict=True)} for point in points]
