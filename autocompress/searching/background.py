"""Tables and proposals made beside the first trials: Ray and its workers need seconds to start,
too.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from autocompress.compression.proposing import Proposed
from autocompress.compression.sensitivity import Sensitivity
from autocompress.contract import Value
from autocompress.graph import let_trace, without_tracing
from autocompress.searching.searchable import SearchableJob

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


@dataclass
class Background:
    """A thread that prepares while the search goes on.

    Attributes:
        opened: of the job; its pipeline is not used by the driver meanwhile.
        wants_bits: fewer than 8 bits may gain something, so their sensitivity is measured even
            where there are proposals.
    """

    opened: SearchableJob
    wants_bits: bool
    _prepared: Prepared | None = None
    _thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._run, name="proposals", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def ready(self, *, wait: bool) -> Prepared | None:
        """What was prepared; without ``wait``, None while it is not there.

        Where the thread was never started, nothing was prepared."""
        while wait and self._thread.is_alive():
            self._thread.join(timeout=0.5)  # in steps, so that signals are seen
        return None if self._thread.is_alive() else self._prepared or Prepared(None, (), ())

    def _run(self) -> None:
        try:
            with without_tracing():  # the driver composes recipes meanwhile, and methods may trace for that
                proposed = self.opened.proposals(pause=let_trace)
                needs_bits = proposed is None or self.wants_bits
                sensitivity = self.opened.sensitivity(pause=let_trace) if needs_bits else []
            self._prepared = Prepared(proposed, sensitivity, self.opened.starting_points(sensitivity))
        except Exception:
            log.exception("nothing could be prepared; the search goes on without proposals")
