"""The end of a search: its front, its exit code, and how to continue it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from autocompress.cli.output import MOST_SAID, one_line, say
from autocompress.errors import ExitCode, Terminated

if TYPE_CHECKING:
    from autocompress.results import SearchResult

log = logging.getLogger("autocompress.cli")


@contextmanager
def told_if_stopped(run_folder: Path, url: str | None = None) -> Iterator[None]:
    """Prints how to continue a search that is stopped before it is closed."""
    try:
        yield
    except (KeyboardInterrupt, Terminated) as stopped:
        how = "interrupted" if isinstance(stopped, KeyboardInterrupt) else "stopped"
        _say_how_to_go_on(run_folder, how, url)
        raise


def _say_how_to_go_on(run_folder: Path, how: str, url: str | None) -> bool:
    if is_run := (run_folder / "job.yaml").is_file():
        print(f"{how}; 'autocompress resume {url or run_folder}' continues", file=sys.stderr, flush=True)
    return is_run


def last_words(run_folder: Path, url: str | None = None) -> None:
    """Prints and logs how to continue after SIGTERM, if the search is too busy to do it itself."""
    if _say_how_to_go_on(run_folder, "stopped", url):
        log.info("stopped by SIGTERM; 'autocompress resume %s' continues", url or run_folder)


def end(result: SearchResult, console: Console) -> None:
    """Prints the front of a closed search, and ends with its exit code."""
    show_result(result, console)
    raise typer.Exit(exit_code(result))


def exit_code(result: SearchResult) -> ExitCode:
    """The exit code of a closed search."""
    if result.is_interrupted:
        return ExitCode.INTERRUPTED
    if result.every_trial_failed:
        return ExitCode.EVERY_TRIAL_FAILED
    return ExitCode.NO_MODEL_FITS if result.recommended() is None else ExitCode.DONE


def show_result(result: SearchResult, console: Console) -> None:
    """Prints the front of a run, or the progress of a search that has none yet."""
    from autocompress.report import datafree, view
    from autocompress.report.markdown import plain
    from autocompress.report.table import front_table

    if result.front.empty and not result.every_trial_failed:
        _show_progress(result, console)
        return
    console.print(front_table(result, console.width))
    for sentence in (view.interruption(result), view.headline(result), view.fastest(result), view.tap_crop(result)):
        if sentence:
            console.print(plain(sentence, MOST_SAID), markup=False, highlight=False)
    if told := datafree.images_text(result):
        console.print(told, markup=False, highlight=False)
    page = result.folder / "report.html"
    if page.exists():
        say(console, f"report: {one_line(page)}")


def _show_progress(result: SearchResult, console: Console) -> None:
    """Prints the number of trials and the current front of a search that is not over."""
    from autocompress.cli.following import Watched

    say(console, f"{one_line(result.folder)}:")
    console.print(Watched(result.folder).picture(console.width))
