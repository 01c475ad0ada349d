"""The actor of a worker process under Ray: one recipe per step.

This module imports little, so that :class:`WorkerProcess` can prepare its process before the
settings of the search import the engine.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from ray import tune

from autocompress import heap
from autocompress.errors import CannotWork
from autocompress.garbage import collect_seldom

if TYPE_CHECKING:
    from autocompress.searching.asked import Asked
    from autocompress.searching.settings import Settings


class WorkerProcess(tune.Trainable):
    """A worker in Ray Tune: one Tune trial per process, one step per recipe.

    The driver gives it a recipe (:meth:`take`) before each step. So a worker is never reused by
    another Tune trial, a starting worker is never given up because another one is free, and a
    recipe is only drawn when it is needed.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        collect_seldom()  # before the engine is imported with the settings
        heap.keep_freed()
        super().__init__(*arguments, **options)

    def setup(self, config: dict[str, Any], settings: Settings | None = None) -> None:
        """Called once per process; ``settings`` come from ``tune.with_parameters``."""
        from autocompress.searching.trainable import Worker

        del config
        assert settings is not None
        self._worker = Worker.of(settings)
        self._asked: Asked | None = None

    def take(self, asked: Asked | None) -> None:
        """Sets the recipe of the next step; None ends the worker."""
        self._asked = asked

    def step(self) -> dict[str, Any]:
        """Runs one recipe; the row is text, because Tune computes statistics of all numbers."""
        asked, self._asked = self._asked, None
        if asked is None:
            return {"done": True}
        deadline = self._worker.settings.deadline
        try:
            row = self._worker.run_in_time(asked) if deadline is None or time.time() < deadline else None
        except CannotWork as error:
            return {"done": True, "refused": str(error)}
        return {"done": False, "trial": asked.number, "row": "" if row is None else json.dumps(row)}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Writes nothing, because study and cache have everything."""
        del checkpoint_dir

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Reads nothing."""
        del checkpoint
