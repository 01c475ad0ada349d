"""Makes tables and proposals in a thread, while Ray and its workers start."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from autocompress.graph import let_trace, without_tracing
from autocompress.proposals.proposer import NoProposals, Point, Proposed
from autocompress.results import Row
from autocompress.searching.measurer import Measurer
from autocompress.searching.reach import OutOfReach, hopeless, out_of_reach
from autocompress.searching.searchable import SearchableJob
from autocompress.sensitivity.table import Sensitivity

log = logging.getLogger("autocompress.search")


PROPOSALS = "proposals"
"""What a note is about that says why there are no proposals."""
MOST_WAITED = 10.0
"""Maximum seconds to wait for the trial of 8 bits alone, when all else is prepared."""


class _TimeIsUp(BaseException):
    """Ends the thread; no handler of errors of methods catches it."""


@dataclass(frozen=True)
class Prepared:
    """Tables and recipes for a search.

    Attributes:
        proposed: recipes from tables; None if none can be made.
        sensitivity: the sensitivity table; empty if it is not needed.
        points: starting points from it.
        partly_float: recipes with 8 bits and float groups, to be tried before the others.
    """

    proposed: Proposed | None
    sensitivity: Sequence[Sensitivity]
    points: Sequence[Point]
    partly_float: Sequence[Point] = ()

    @property
    def table_rows(self) -> list[dict[str, Any]]:
        """The rows of ``tables.csv``."""
        bits = [
            {
                "axis": f"{row.role} bits",
                "name": row.group,
                "group": row.group,
                "choice": float(row.bits),
                "divergence": row.loss,
                "measured": True,
                "scale": 1.0,
            }
            for row in self.sensitivity
        ]
        return [*(dict(row) for row in (self.proposed.rows if self.proposed else ())), *bits]


@dataclass
class Background:
    """A thread that makes tables and proposals while the search runs.

    Attributes:
        opened: the opened job; the driver does not use its pipeline meanwhile.
        int8_loses: whether 8 bits alone lost accuracy in a trial, so that sensitive groups in float
            may help; None while that trial is under way.
        wants_bits: whether fewer than 8 bits may help, so that sensitivity is measured even if
            there are proposals.
        measurer: measures on the devices of the job.
        baseline: the row of the baseline.
        tell: called with constraints that the cheapest recipes miss, as soon as known, and with
            ``fault``.
        keep: called with the same notes, before ``tell``: with what each is about (the quantity of
            a constraint, or ``PROPOSALS``), and with the note.
        progress: called with the progress of long steps.
        out_of_reach: the constraints that none of the cheapest recipes meets.
        has_recipes: whether there are proposals.
        fault: why there are none, if a method raised an error; else empty.
    """

    opened: SearchableJob
    wants_bits: bool
    int8_loses: Callable[[], bool | None]
    measurer: Measurer
    baseline: Row
    tell: Callable[[str], None]
    progress: Callable[[float, str], None] | None = None
    keep: Callable[[str, str], None] | None = None
    out_of_reach: Sequence[OutOfReach] = ()
    has_recipes: bool = False
    fault: str = ""
    _prepared: Prepared | None = None
    _first: Callable[[], None] | None = None
    _threads: int | None = None
    _deadline: float | None = None
    _has_proposed: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._run, name="proposals", daemon=True)

    def start(
        self, first: Callable[[], None] | None = None, threads: int | None = None, deadline: float | None = None
    ) -> None:
        """Starts the thread.

        Args:
            first: function that is called before all else.
            threads: number of threads of torch.
            deadline: time in seconds as given by ``time.time``. What is not finished by then is
                given up, because no recipe would be tried after it.
        """
        self._first, self._threads, self._deadline = first, threads, deadline
        self._thread.start()

    def wait_for_proposals(self, meanwhile: Callable[[], None]) -> None:
        """Waits until proposals are made or have failed, and calls ``meanwhile`` repeatedly."""
        while self._thread.is_alive() and not self._has_proposed.wait(0.2):
            meanwhile()

    @property
    def is_running(self) -> bool:
        """Whether the thread was started and has not ended."""
        return self._thread.is_alive()

    @property
    def is_done(self) -> bool:
        """Whether the thread was started and has ended."""
        return self._thread.ident is not None and not self._thread.is_alive()

    def ready(self, *, meanwhile: Callable[[], None] | None = None) -> Prepared | None:
        """The result; None while it is not finished. It is empty if the thread was never started.

        Args:
            meanwhile: called repeatedly while waiting; None does not wait.
        """
        while meanwhile is not None and self._thread.is_alive():
            self._thread.join(timeout=0.2)  # in steps, so that signals are seen
            meanwhile()
        return None if self._thread.is_alive() else self._prepared or Prepared(None, (), ())

    def _pause(self) -> None:
        let_trace()
        if self._deadline is not None and time.time() > self._deadline:
            raise _TimeIsUp

    def _run(self) -> None:
        try:
            with without_tracing():  # the driver composes recipes meanwhile, and methods may trace for that
                if self._threads is not None:
                    torch.set_num_threads(self._threads)
                if self._first is not None:
                    self._first()
                self._look_how_far(self._pause)
                proposed = self._proposals()
                self.has_recipes = proposed is not None and bool(proposed.recipes)
                self._prepared = Prepared(proposed, (), ())
                self._has_proposed.set()
                needs_bits = proposed is None or self.wants_bits
                sensitivity = self.opened.sensitivity(self.progress, pause=self._pause) if needs_bits else []
                points = self._hopeful(self.opened.starting_points(sensitivity), self._pause)
                self._prepared = Prepared(proposed, sensitivity, points)
                if self._is_float_useful():
                    partly_float = self.opened.partly_float(self.progress, self._pause)
                    self._prepared = replace(self._prepared, partly_float=partly_float)
        except _TimeIsUp:
            log.warning("the time was up before tables and proposals were made")
        except Exception:
            log.exception("not all could be prepared; the search continues with what there is")
        finally:
            self.opened.end_proposals()

    @property
    def notes(self) -> list[str]:
        """The notes for the summary."""
        return [self.fault] if self.fault else []

    def _proposals(self) -> Proposed | None:
        """The proposals; None if there are none."""
        try:
            return self.opened.proposals(self.progress, pause=self._pause)
        except NoProposals as error:
            log.warning("%s", error)
            self.fault = str(error)
            self._tell(PROPOSALS, self.fault)
            return None

    def _tell(self, about: str, note: str) -> None:
        if self.keep is not None:
            self.keep(about, note)
        self.tell(note)

    def _is_float_useful(self) -> bool:
        """Whether 8 bits alone lost accuracy; waits for that trial for a while."""
        end = time.monotonic() + MOST_WAITED
        while (found := self.int8_loses()) is None and time.monotonic() < end:
            self._pause()
            time.sleep(0.05)
        return bool(found)

    def _look_how_far(self, pause: Callable[[], None]) -> None:
        """Finds constraints that the cheapest recipes miss; none if a method raises an error."""
        try:
            self.out_of_reach = out_of_reach(self.opened, self.measurer, self.baseline, pause)
        except Exception:
            log.exception("it is not known which constraints can be met")
        for found in self.out_of_reach:
            log.warning("%s", found)
            self._tell(found.quantity, str(found))

    def _hopeful(self, points: list[Point], pause: Callable[[], None]) -> list[Point]:
        """``points`` without those of a method that cannot meet a bound alone."""
        labels = [label for label, _ in points]
        try:
            left_out = hopeless(self.opened, self.measurer, self.baseline, labels, pause)
        except Exception:
            log.exception("it is not known which constraints each method can meet alone")
            return points
        for label, missed in left_out.items():
            log.info("'%s' is not tried: its cheapest recipe misses the bound on %s", label, missed)
        return [point for point in points if point[0] not in left_out]
