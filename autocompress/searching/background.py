"""Tables and proposals are made while Ray and its workers start."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from autocompress.contract import Value
from autocompress.graph import let_trace, without_tracing
from autocompress.proposals.proposer import Proposed
from autocompress.results import Row
from autocompress.searching.measurer import Measurer
from autocompress.searching.reach import OutOfReach, hopeless, out_of_reach
from autocompress.searching.searchable import SearchableJob
from autocompress.sensitivity.table import Sensitivity

Point = tuple[str, dict[str, Value]]
"""Label and values of a recipe."""
log = logging.getLogger("autocompress.search")


@dataclass(frozen=True)
class Prepared:
    """What a search learns of its network.

    Attributes:
        proposed: recipes from tables; None where none can be made.
        sensitivity: what low bits lose alone; empty where nobody asks.
        points: starting points that need it.
    """

    proposed: Proposed | None
    sensitivity: Sequence[Sensitivity]
    points: Sequence[Point]

    @property
    def table_rows(self) -> list[dict[str, Any]]:
        """What was measured of each part alone, as rows of ``tables.csv``."""
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
    """A thread that prepares while the search goes on.

    Attributes:
        opened: of the job; its pipeline is not used by the driver meanwhile.
        wants_bits: fewer than 8 bits may gain something, so their sensitivity is measured even
            where there are proposals.
        measurer: of the job's devices.
        baseline: the baseline's row.
        tell: told of constraints that nothing can meet, as soon as they are known.
        progress: told of what takes long.
        out_of_reach: these constraints.
    """

    opened: SearchableJob
    wants_bits: bool
    measurer: Measurer
    baseline: Row
    tell: Callable[[str], None]
    progress: Callable[[float, str], None] | None = None
    out_of_reach: Sequence[OutOfReach] = ()
    _prepared: Prepared | None = None
    _first: Callable[[], None] | None = None
    _threads: int | None = None
    _has_proposed: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._run, name="proposals", daemon=True)

    def start(self, first: Callable[[], None] | None = None, threads: int | None = None) -> None:
        """Begins, with ``first`` before all else; torch takes ``threads``, as many as it has by
        default."""
        self._first, self._threads = first, threads
        self._thread.start()

    def wait_for_proposals(self, meanwhile: Callable[[], None]) -> None:
        """Returns once proposals are made, or cannot be; calls ``meanwhile`` again and again."""
        while self._thread.is_alive() and not self._has_proposed.wait(0.2):
            meanwhile()

    @property
    def is_running(self) -> bool:
        """The thread was started and has not ended."""
        return self._thread.is_alive()

    @property
    def is_done(self) -> bool:
        """The thread was started and has ended."""
        return self._thread.ident is not None and not self._thread.is_alive()

    def ready(self, *, meanwhile: Callable[[], None] | None = None) -> Prepared | None:
        """What was prepared; None while it is not there.

        Where the thread was never started, nothing was prepared.

        Args:
            meanwhile: called again and again until it is there; without, nothing is waited for.
        """
        while meanwhile is not None and self._thread.is_alive():
            self._thread.join(timeout=0.2)  # in steps, so that signals are seen
            meanwhile()
        return None if self._thread.is_alive() else self._prepared or Prepared(None, (), ())

    def _run(self) -> None:
        try:
            with without_tracing():  # the driver composes recipes meanwhile, and methods may trace for that
                if self._threads is not None:
                    torch.set_num_threads(self._threads)
                if self._first is not None:
                    self._first()
                self._look_how_far(let_trace)
                proposed = self.opened.proposals(self.progress, pause=let_trace)
                self._has_proposed.set()
                needs_bits = proposed is None or self.wants_bits
                sensitivity = self.opened.sensitivity(self.progress, pause=let_trace) if needs_bits else []
                points = self._hopeful(self.opened.starting_points(sensitivity), let_trace)
            self._prepared = Prepared(proposed, sensitivity, points)
        except Exception:
            log.exception("nothing could be prepared; the search goes on without proposals")

    def _look_how_far(self, pause: Callable[[], None]) -> None:
        """Finds constraints that nothing can meet; a fault of a method only means that none is
        found."""
        try:
            self.out_of_reach = out_of_reach(self.opened, self.measurer, self.baseline, pause)
        except Exception:
            log.exception("what can be reached is not known")
        for found in self.out_of_reach:
            log.warning("%s", found)
            self.tell(str(found))

    def _hopeful(self, points: list[Point], pause: Callable[[], None]) -> list[Point]:
        """``points`` without those of a method that cannot meet a bound alone."""
        labels = [label for label, _ in points]
        try:
            left_out = hopeless(self.opened, self.measurer, self.baseline, labels, pause)
        except Exception:
            log.exception("what each method can reach alone is not known")
            return points
        for label, missed in left_out.items():
            log.info("'%s' is not tried: its cheapest recipe misses the bound on %s", label, missed)
        return [point for point in points if point[0] not in left_out]
