"""When a search proposes again: tables are corrected by the trials that were measured meanwhile."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from autocompress.proposals.proposer import Proposed
from autocompress.results import Row
from autocompress.searching.study import Study

EVERY = 8
"""New rows, at least, before tables are corrected again."""
SHARE = 0.05
"""Of the time, at most, that this takes."""
log = logging.getLogger("autocompress.search")


class Corrections:
    """Alternates between the sampler and new proposals.

    Args:
        study: gets the recipes.
        proposed: the first proposals.
        baseline: the baseline's row.
        rows: those that are there already.
    """

    def __init__(self, study: Study, proposed: Proposed, baseline: Row, rows: Sequence[Row]) -> None:
        self._study, self._again, self._baseline = study, proposed.again, baseline
        self._rows = list(rows)
        self._used = 0
        self._not_before = 0.0

    def add(self, row: Row) -> None:
        """A trial has its row."""
        self._rows.append(row)

    def before_ask(self, is_waiting: bool) -> None:
        """Has new proposals asked next, where enough was measured and nothing else waits."""
        new = len(self._rows) - self._used
        if is_waiting or self._again is None or new < EVERY or time.monotonic() < self._not_before:
            return
        self._used, began = len(self._rows), time.monotonic()
        try:
            made = self._again(self._rows, self._baseline)
        except Exception:  # the sampler goes on without
            log.exception("nothing is proposed again")
            self._again = None
            return
        self._not_before = time.monotonic() + (time.monotonic() - began) / SHARE
        if made is not None:
            log.info("%d proposals from tables that %d trials corrected", len(made.recipes), len(self._rows))
            self._study.proposed = made
            self._study.enqueue_proposals(made.recipes)
