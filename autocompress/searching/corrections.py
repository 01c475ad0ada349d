"""Decides when a search makes new proposals from tables that are corrected with its trials."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from autocompress.objectives.figures import known
from autocompress.proposals.lossless import is_beaten, lossless
from autocompress.proposals.proposer import Proposed
from autocompress.results import Row
from autocompress.searching.study import Study

EVERY = 8
"""Minimum number of new rows before tables are corrected again."""
SHARE = 0.05
"""Maximum share of the time of the search for correcting tables."""
SHARE_CUT = 0.2
"""The same after waiting proposals were dropped, if nothing good is left to try."""
log = logging.getLogger("autocompress.search")


class Corrections:
    """Alternates between the sampler and new proposals.

    Args:
        study: gets the recipes.
        proposed: the first proposals.
        baseline: the row of the baseline.
        rows: the rows so far.
    """

    def __init__(self, study: Study, proposed: Proposed, baseline: Row, rows: Sequence[Row]) -> None:
        self._study, self._first, self._again, self._baseline = study, proposed, proposed.again, baseline
        self._rows = list(rows)
        self._used = 0
        self._ended, self._took = 0.0, 0.0
        self._is_news, self._is_cut = bool(rows), False

    def add(self, row: Row) -> None:
        """Adds the row of a trial."""
        self._rows.append(row)
        drop = known(row, "accuracy_drop")
        self._is_news |= row.get("status") == "complete" and drop is not None and drop <= 0

    def before_ask(self, is_waiting: bool) -> None:
        """Enqueues new proposals, if there are enough new rows and no recipe is waiting."""
        if is_waiting and self._is_news:
            self._cut()
        new = len(self._rows) - self._used
        pause = self._took / (SHARE_CUT if self._is_cut else SHARE)
        if self._again is None or time.monotonic() < self._ended + pause:
            return
        if not ((new >= EVERY and not is_waiting) or (self._is_cut and not self._proposals_wait())):
            return
        self._used, self._is_cut, began = len(self._rows), False, time.monotonic()
        try:
            made = self._again(self._rows, self._baseline)
        except Exception:  # the sampler continues without them
            log.exception("no further proposals could be made")
            self._again = None
            return
        self._ended = time.monotonic()
        self._took = self._ended - began
        if made is not None:
            log.info("%d proposals from tables that %d trials corrected", len(made.recipes), len(self._rows))
            self._study.proposed = made
            self._study.enqueue_proposals(made.recipes, before_others=True)

    def _proposals_wait(self) -> bool:
        """Whether a proposal waits; other starting points do not matter."""
        ratios = self._first.ratios
        return ratios is not None and any(ratios(values) is not None for values in self._study.waiting())

    def _cut(self) -> None:
        """Drops waiting proposals with higher costs than a trial without a loss of accuracy."""
        self._is_news = False
        ratios = self._first.ratios
        if ratios is None:
            return
        costs = [name for name in self._study.job.objectives if name != "accuracy"]
        best = lossless(self._rows, costs, self._baseline)
        dropped = self._study.drop_waiting(
            lambda values: is_beaten(ratios(values) or {}, best, self._first.error) if best else False
        )
        if dropped:
            log.info("%d proposals are dropped: a cheaper trial has no loss of accuracy", dropped)
            self._is_cut = True
