"""The search: Optuna chooses recipes, Ray Tune places trials on workers, the study on disk is the only truth.

``study`` and ``telling`` hold what is known, ``chooser`` and ``samplers`` draw recipes, ``gates`` runs one trial,
``searcher``, ``trainable`` and ``placement`` are Ray's side, ``run`` puts them together and ``closing`` ends a search.

The package can be called: ``autocompress.search(model="resnet18", data="digits", latency="0.5x")``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autocompress.results import SearchResult
    from autocompress.search.progress import Observer


def search(job: Path | str | None = None, *, observer: Observer | None = None, **settings: Any) -> SearchResult:
    """Searches, and reads the result.

    Args:
        job: a job file; None for a job of settings alone.
        observer: is told how it goes.
        **settings: keys of a job, by their names in YAML (``model``, ``data``, ``device``, ...) or their short forms
            (``latency``, ``accuracy_drop``, ``trials``, ``minutes``, ...); they override the file.

    Returns:
        The finished run; it lies in ``results/<name>``.

    Raises:
        UserError: if the job cannot be carried out, or the run exists already.
    """
    # Imported here: ray takes seconds.
    from autocompress.job import load_job
    from autocompress.search import run

    return run.search(load_job(job, settings), observer=observer)


def resume(folder: Path | str, *, observer: Observer | None = None, **budget: Any) -> SearchResult:
    """Goes on with the search in ``folder``; ``trials`` and ``minutes`` give it another budget. See ``run.resume``."""
    from autocompress.search import run

    return run.resume(folder, observer=observer, **budget)


class _CallableModule(ModuleType):
    """``autocompress.search`` names this package and the function that users call; it is both."""

    def __call__(self, job: Path | str | None = None, **settings: Any) -> SearchResult:
        return search(job, **settings)


sys.modules[__name__].__class__ = _CallableModule
