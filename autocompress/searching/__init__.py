"""The search: Optuna draws recipes, Ray Tune runs workers, and a study on disk has all results.

``study`` holds all recipes and results, ``sampling`` draws recipes with Optuna's samplers, and
``gates`` runs one trial. ``dispatch`` gives recipes to workers; ``workerprocess``, ``placement``,
``localray`` and ``gpus`` are Ray's side of that. ``run`` puts all together, ``stopping`` handles
signals and ``closing`` ends a search.

Users call :func:`search` and :func:`resume` as ``autocompress.search`` and ``autocompress.resume``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autocompress.results import SearchResult
    from autocompress.searching.progress import Observer


def search(job: Path | str | None = None, *, observer: Observer | None = None, **settings: Any) -> SearchResult:
    """Search for compressed models, and read the result.

    Example: ``search(model="resnet18", data="digits", latency="0.5x", accuracy_drop=1.0,
        trials=24)``

    Args:
        job: path of a job file. None for a job that is only given by ``settings``.
        observer: notified of progress. None shows one line in a notebook, and nothing elsewhere.
        **settings: keys of a job, which override those of the file. A key is named as in YAML
            (``model``, ``data``, ``device``, ``space``, ...), or by its short form (``latency``,
            ``accuracy_drop``, ``trials``, ``minutes``, ...). These are the names of the flags of
            ``autocompress search``.

    Returns:
        The finished run. Its files are in ``results/<name>``. ``summary["ended"]`` says why it
        ended; after Ctrl-C it is "interrupted", and the front is the one so far. If no model meets
        the constraints, ``best()`` raises UserError. If every trial failed, the front has only the
        baseline.

    Raises:
        UserError: if the job cannot be carried out, the run exists already, or this machine cannot
            run Ray.
        KeyboardInterrupt: on Ctrl-C before the first trial, or on a second Ctrl-C.
        SystemExit: on SIGTERM, with code 75. ``resume`` continues the search. In a program that
            handles SIGTERM itself, and in threads other than the main one, signals are not handled.
    """
    # Imported here because importing Ray, torch and timm takes seconds.
    from autocompress.job import check_names, load_job

    asked = load_job(job, settings)
    check_names(asked)
    if asked.run_url is None:
        from autocompress.searching.rundir import refuse_existing

        refuse_existing(asked.folder)
    from autocompress.searching import run
    from autocompress.searching.notebook import watched

    with watched(observer) as watching:
        return run.search(asked, observer=watching)


def resume(folder: Path | str, *, observer: Observer | None = None, **budget: Any) -> SearchResult:
    """Continue a search that was stopped, or extend one that has finished.

    Args:
        folder: folder of the run, ``results/<name>``.
        observer: notified of progress. None shows one line in a notebook, and nothing elsewhere.
        **budget: ``trials`` and ``minutes`` of the whole search; by default those of the job.

    Returns:
        The finished run.

    Raises:
        UserError: if ``folder`` is not a run, or it cannot be continued here.
    """
    from autocompress.searching import run
    from autocompress.searching.notebook import watched

    with watched(observer) as watching:
        return run.resume(folder, observer=watching, **budget)
