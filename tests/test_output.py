"""Printing errors never end a command.

Closed terminals and pipes, full disks, and terminals with few characters.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from example_run import write_run
from patience import patient
from rich.console import Console
from rich.table import Table
from toy_search import offer_toy_device, open_toy
from typer.testing import CliRunner

from autocompress.cli import output
from autocompress.cli.app import app
from autocompress.cli.ending import exit_code
from autocompress.cli.progress import Lines
from autocompress.errors import ExitCode
from autocompress.report import view
from autocompress.results import SearchResult, read, write_front, write_trials
from autocompress.searching import run
from autocompress.searching.progress import Unbreakable

PRINTS_MUCH = """
import sys
from autocompress.cli import output
output.protect()
from rich.console import Console
from rich.table import Table
console = Console()
for line in range(2_000):
    console.print(f"{line}: 0.41\u00d7, \u22120.30, 212 \u00b5J \u2013 Gr\u00fc\u00dfe \u2713 \\udcff", markup=False)
print("an error", file=sys.stderr)
open(sys.argv[1], "w").write("the end")
"""


def shell(line: str, folder: Path, **environment: str) -> tuple[subprocess.CompletedProcess[bytes], bool]:
    """Runs the script in a shell command, as ``$RUN``. Returns whether it finished."""
    (folder / "script.py").write_text(PRINTS_MUCH, encoding="utf-8")
    end = folder / "end.txt"
    given = {"RUN": f"{sys.executable} {folder / 'script.py'} {end}", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    done = subprocess.run(
        ["bash", "-c", line],
        env={**os.environ, **given, **environment},
        capture_output=True,
        check=False,
        timeout=patient(120),
    )
    return done, end.exists() and end.read_text() == "the end"


@pytest.mark.parametrize(
    "line",
    [
        "$RUN | head -1; exit ${PIPESTATUS[0]}",
        "$RUN 2>&1 | head -1; exit ${PIPESTATUS[0]}",
        "$RUN >&-",
        "$RUN >&- 2>&-",
        "$RUN <&- >&- 2>&-",
        "$RUN > /dev/full",
        "$RUN > /dev/full 2>&1",
    ],
)
def test_a_closed_or_full_output_ends_no_command(tmp_path: Path, line: str) -> None:
    done, ended = shell(line, tmp_path)
    assert ended, done.stderr
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "ascii:strict"},
        {"LC_ALL": "C"},
    ],
)
def test_a_terminal_with_few_characters_gets_those_that_it_can_show(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    done, ended = shell("$RUN", tmp_path, **environment)
    assert ended, done.stderr
    assert done.returncode == 0
    first = done.stdout.splitlines()[0].decode("latin-1" if "latin-1" in environment.values() else "utf-8")
    plain = "0: 0.41x, -0.30, 212 uJ - Gruesse ? ?"
    assert first.startswith("0: 0.41")
    if environment.get("PYTHONIOENCODING", "").startswith("ascii"):
        assert first == plain.replace("Gruesse", "Gru?e")


class Broken(io.StringIO):
    """A stream of the user that can no longer be written."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error


@pytest.mark.parametrize(
    "error", [BrokenPipeError(32, "Broken pipe"), UnicodeEncodeError("ascii", "×", 0, 1, "no"), OSError(5, "I/O error")]
)
def test_an_observer_that_cannot_print_ends_no_search(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    observer = Unbreakable(Lines(Console(file=Broken(error))))
    row = {"trial": 0, "status": "complete", "accuracy": 90.0, "latency_ratio": 0.5, "recipe": {}}
    observer.on_baseline(row)
    observer.on_start(3)
    observer.on_trial(row, [row], 0.5, 1, None)
    observer.on_note("closing")
    observer.on_progress(0.5, "epoch 1")
    assert caplog.text.count("the search continues") == 1


def test_other_errors_of_an_observer_are_raised() -> None:
    observer = Unbreakable(Lines(Console(file=Broken(AssertionError("a test's own")))))
    with pytest.raises(AssertionError, match="a test's own"):
        observer.on_note("closing")


# --- how a finished search ends -------------------------------------------------------------------


def changed(folder: Path, **columns: Any) -> SearchResult:
    """The run in ``folder`` with other values in all its trials.

    Its front has the baseline and complete trials.
    """
    found = read(folder)
    rows = [{**row, **columns} for row in found.trials.to_dict("records")]
    write_trials(folder, rows)
    front = [{**row, **columns} for row in found.models.to_dict("records") if columns["status"] != "failed"]
    write_front(folder, [dict(found.baseline), *front])
    return read(folder)


def test_a_suitable_model_is_success(tmp_path: Path) -> None:
    assert exit_code(read(write_run(tmp_path / "run", trials=30))) == ExitCode.DONE


def test_without_a_suitable_model_the_exit_code_says_so(tmp_path: Path) -> None:
    found = changed(write_run(tmp_path / "run", trials=30), status="infeasible", accuracy_drop=7.0)
    assert exit_code(found) == ExitCode.NO_MODEL_FITS
    assert view.headline(found).startswith("No model of the front meets")


def test_a_search_in_which_every_trial_failed_says_so(tmp_path: Path) -> None:
    reason = "save: there is no room left to write to results/run"
    found = changed(write_run(tmp_path / "run", trials=30), status="failed", reason=reason)
    assert exit_code(found) == ExitCode.EVERY_TRIAL_FAILED
    assert view.headline(found) == f"Every trial failed (30 of 30); each time: {reason}"


@pytest.mark.usefixtures("search_here")
@pytest.mark.parametrize(
    ("asked", "code", "words"),
    [
        ({"constraints": {"latency": "0.9x"}}, ExitCode.DONE, "0.9"),
        ({"constraints": {"latency": "0.0001x"}}, ExitCode.NO_MODEL_FITS, "No model"),
        ({"space": {"toy": {"fault": ["raise"]}}}, ExitCode.EVERY_TRIAL_FAILED, "Every trial failed"),
    ],
    ids=["a model fits", "no model fits", "all fail"],
)
def test_the_exit_code_of_a_search(
    asked: dict[str, Any], code: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "search", partial(run.search, opener=open_toy))
    offer_toy_device()
    job = {"model": "resnet10t", "data": "digits", "device": "toy", "workers": 1, "budget": {"trials": 6}, **asked}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({**job, "results": str(tmp_path), "name": "toy"}))
    done = CliRunner().invoke(app, ["search", str(tmp_path / "job.yaml")])
    assert done.exit_code == code, done.output
    assert words in done.output


def test_tables_on_a_pipe_do_not_break_names(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "blocks.0.0.se.conv_reduce." * 5
    table = Table("layer", "file")
    table.columns[0].overflow = "fold"
    table.add_row(name, name)
    monkeypatch.delenv("COLUMNS", raising=False)
    text = io.StringIO()
    output.print_table(Console(file=text), table)
    assert text.getvalue().count(name) == 2
    monkeypatch.setenv("COLUMNS", "60")
    text = io.StringIO()
    output.print_table(Console(file=text), table)
    assert max(map(len, text.getvalue().splitlines())) <= 60
