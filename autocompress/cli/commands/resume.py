"""``autocompress resume``: continues a search."""

from __future__ import annotations

from functools import partial

from rich.console import Console

from autocompress.cli import options, supervising
from autocompress.cli.ending import end, last_words, told_if_stopped
from autocompress.cli.options import Run
from autocompress.memory import out_of_memory_told


def resume(run_folder: Run, trials: options.Trials = None, minutes: options.Minutes = None) -> None:
    """Continue a stopped search, or extend the budget of a finished one; its trials are kept."""
    from autocompress.remote import url_of
    from autocompress.results.run import require_run
    from autocompress.searching.mirror import stored_url

    if url_of(run_folder) is None and stored_url(run_folder) is None:
        require_run(run_folder)
    supervising.end_with_parent()
    supervising.resume_supervised(run_folder)
    from autocompress.cli.progress import watching
    from autocompress.searching import run, stopping
    from autocompress.searching.clock import process_began

    console = Console()
    signals = stopping.caught(ends_process=True, last_words=partial(last_words, run_folder))
    with signals, told_if_stopped(run_folder), out_of_memory_told(), watching(console) as observer:
        result = run.resume(run_folder, trials=trials, minutes=minutes, observer=observer, began=process_began())
    end(result, console)
