"""Following a running search: status.json, log.txt, ``show`` and ``watch``."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cli_here import Commands
from example_run import BASELINE, write_run
from patience import Patience, patient, slowness
from test_delivery import HOSTILE
from toy_search import offer_toy_device, open_toy, toy_job

from autocompress.cli import following
from autocompress.errors import Terminated, UserError
from autocompress.results import read, write_trials
from autocompress.results.status import OVER, STATUS_FILE, STOPPED, Status, read_status, write_status
from autocompress.searching import recorded, run
from autocompress.searching.progress import Silent

LIVING = Status(phase="searching", total=30, trials=3, front=2, workers=2, hypervolume=0.25, seconds_left=75.0)


@pytest.fixture(autouse=True)
def _toy_device() -> None:
    offer_toy_device()


class Looking(Silent):
    """Reads the folder of the run after each trial, as another process would."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.seen: list[tuple[Status, str]] = []

    def on_trial(
        self, row: Any, front_rows: Sequence[Any], hypervolume: float, trials_done: int, seconds_left: float | None
    ) -> None:
        status = read_status(self._folder)
        assert status is not None
        self.seen.append((status, (self._folder / "log.txt").read_text()))


@pytest.mark.usefixtures("search_here")
def test_a_search_writes_its_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded, "EVERY_S", 0.0)
    job = toy_job(tmp_path, budget={"trials": 6})
    looking = Looking(job.folder)
    run.search(job, observer=looking, opener=open_toy)
    assert [status.trials for status, _ in looking.seen] == [1, 2, 3, 4, 5, 6]
    for number, (status, log) in enumerate(looking.seen, 1):
        assert status.phase == "searching"
        assert status.is_running
        assert status.total == 6
        assert status.baseline is not None
        assert f"[{number}/6] trial " in log, "the log has a line for each trial as soon as it is over"
        assert "baseline: " in log
    last = read_status(job.folder)
    assert last is not None
    assert (last.phase, last.step, last.is_running) == (OVER, "all trials are spent", False)


@pytest.mark.usefixtures("search_here")
def test_an_interrupted_search_says_so(tmp_path: Path) -> None:
    class Ending(Silent):
        def on_trial(self, *arguments: Any) -> None:
            raise Terminated

    job = toy_job(tmp_path, budget={"trials": 6})
    with pytest.raises(SystemExit):
        run.search(job, observer=Ending(), opener=open_toy)
    status = read_status(job.folder)
    assert status is not None
    assert status.phase == STOPPED


def test_a_dead_process_is_recognised(tmp_path: Path) -> None:
    write_status(tmp_path, LIVING)
    assert read_status(tmp_path).is_running is True
    assert replace(LIVING, process_began=LIVING.process_began - 100).is_running is False, (
        "another process has its number"
    )
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert replace(LIVING, pid=child.pid).is_running is False
    assert replace(LIVING, host="elsewhere").is_running is None


def test_a_damaged_status_is_an_error_and_a_missing_one_is_none(tmp_path: Path) -> None:
    assert read_status(tmp_path) is None
    damaged = ['{"standing": null}', '{"standing": [1]}', '{"under_way": [1]}', '{"baseline": 3}', '{"fraction": "a"}']
    for text in ("[", "[]", "3", '{"trials": null}', *damaged):
        (tmp_path / STATUS_FILE).write_text(text)
        with pytest.raises(UserError, match="cannot be read"):
            read_status(tmp_path)
    (tmp_path / STATUS_FILE).write_text('{"phase": "closing", "from_a_later_version": 1}')
    assert read_status(tmp_path).phase == "closing"


@pytest.fixture
def running(tmp_path: Path) -> Path:
    """A run whose search is running in this process."""
    folder = write_run(tmp_path / "running", trials=30)
    for name in ("front.csv", "summary.json"):
        (folder / name).unlink()
    write_status(folder, replace(LIVING, baseline=BASELINE, under_way=({"trial": 30, "label": "obs alone"},)))
    return folder


def test_show_counts_while_a_search_runs(running: Path, commands: Commands) -> None:
    out = commands("show", running)
    counts = read(running).trials["status"].value_counts()
    assert f"30 of 30 trials ({counts['complete']} complete" in out
    assert "front so far, by validation" in out
    assert "about 1 min 15 s left" in out
    assert "being tried: trial 30 (obs alone)" in out
    assert "uncompressed" in out, "the baseline is the first row of the front"


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_watch_reads_runs_in_every_state_once(running: Path, tmp_path: Path, commands: Commands, columns: int) -> None:
    commands.columns = columns
    assert "searching: 30 of 30" in commands("watch", running, "--once").replace("\n", " ")
    write_status(running, replace(LIVING, pid=2**22 + 1, note=HOSTILE))
    out = commands("watch", running).replace("\n", " ")
    assert "the search stopped" in out
    assert "resume" in out
    (running / "trials.csv").unlink()
    (running / STATUS_FILE).unlink()
    assert "the search is not over: 0 of 60 trials" in commands("watch", running).replace("\n", " "), (
        "an earlier version's"
    )
    over = write_run(tmp_path / "over", trials=20)
    out = commands("watch", over).replace("\n", " ")
    assert "the search is over" in out
    assert "so far" not in out
    (over / "summary.json").write_text('{"ended": "interrupted"}')
    assert "the search was interrupted" in commands("watch", over).replace("\n", " ")
    write_trials(over, [{"trial": 0, "status": "failed", "reason": "no"}])
    assert "1 failed" in commands("watch", over).replace("\n", " ")
    assert "is not a run" in commands("watch", tmp_path, code=2)


def test_figures_and_decisions_are_not_truncated_at_forty_columns(running: Path, commands: Commands) -> None:
    commands.columns = 40
    out = commands("show", running)
    assert max(map(len, out.splitlines()[1:])) <= 40
    best = read(running).trials.query("status == 'complete'").sort_values("accuracy").iloc[-1]
    assert f"{best['latency_ratio']:.2f}×" in out


def test_the_front_of_a_run_is_not_truncated_at_forty_columns(tmp_path: Path, commands: Commands) -> None:
    run = write_run(tmp_path / "run")
    commands.columns = 40
    out = commands("show", run)
    assert "…" not in out
    for _, row in read(run).models.iterrows():
        assert f"{row['latency_ratio']:.2f}×" in out
        assert f"{abs(row['test_accuracy_drop']):.2f}" in out


def test_control_characters_in_names_of_finished_runs_reach_no_terminal(tmp_path: Path, commands: Commands) -> None:
    run = write_run(tmp_path / "run", name=f"\x1b[2J{HOSTILE}")
    out = commands("show", run)
    assert "the front" in out
    rows = [{"trial": number, "status": "failed", "reason": f"\x1b]0;title\x07{HOSTILE}"} for number in range(2)]
    write_trials(run, rows)
    failed = commands("show", run)
    assert "Every trial failed" in failed
    for text in (out, failed):
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert len(text) < 30_000


def test_control_characters_in_folders_reach_no_terminal(tmp_path: Path, commands: Commands) -> None:
    folder = tmp_path / "two\nlines \u202e<b>"
    assert "is not a run: there is no such folder" in commands("show", folder, code=2)
    run = write_run(folder, name=10_000 * "a" + "!")
    said = commands("debug", run, code=2)
    assert "it names a folder" in said
    assert len(said) < 500
    (run / "report.html").touch()
    out = commands("show", run) + said
    assert "report: " in out
    assert "\u202e" not in out
    assert "two\n" not in out


def test_watch_shows_standing_notes_and_whether_any_trial_fits(running: Path, commands: Commands) -> None:
    write_status(running, replace(LIVING, standing={"latency": "no recipe can meet latency 0.1x"}, note="later"))
    assert read(running).trials["status"].eq("complete").any()
    out = commands("watch", running, "--once").replace("\n", " ")
    assert "no recipe can meet latency 0.1x" in out
    assert "later" in out
    assert "no trial meets the constraints" not in out
    write_trials(running, [{"trial": 0, "status": "infeasible", "reason": "latency 0.9x"}])
    assert "no trial meets the constraints so far" in commands("watch", running, "--once").replace("\n", " ")


def test_control_characters_in_notes_reach_no_terminal(running: Path, commands: Commands) -> None:
    write_status(running, replace(LIVING, note=f"\x1b[2J{HOSTILE}", under_way=({"trial": 1, "label": HOSTILE},)))
    out = commands("show", running)
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert len(out) < 20_000


def test_watch_prints_a_line_for_each_change_and_ends_with_the_search(
    running: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = [
        replace(LIVING, trials=31, note="one"),
        replace(LIVING, trials=31, note="one"),
        replace(LIVING, phase=OVER),
    ]
    monkeypatch.setattr(following.time, "sleep", lambda seconds: write_status(running, states.pop(0)))
    out = commands("watch", running)
    lines = [line for line in out.splitlines() if line]
    assert len(lines) == 3, "no line is printed twice"
    assert "31 of 30 trials" in lines[1]
    assert states == []


def test_watch_prints_few_lines_while_a_step_goes_on(
    running: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    preparing = replace(LIVING, phase="preparing", trials=0)
    states = [replace(preparing, step=f"training, epoch {n}", fraction=n / 300) for n in range(300)]
    states.append(replace(LIVING, phase=OVER))

    def sleep(seconds: float) -> None:
        now[0] += seconds
        write_status(running, states.pop(0))

    monkeypatch.setattr(following, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: now[0]))
    lines = [line for line in commands("watch", running).splitlines() if "epoch" in line]
    assert 10 <= len(lines) <= 11
    assert "epoch 0" in lines[0]


@pytest.mark.slow
def test_watch_draws_on_a_terminal_and_survives_its_closing(running: Path) -> None:
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "autocompress.cli", "watch", str(running), "--every", "0.1"]
    environment = {**os.environ, "COLUMNS": "40", "NO_COLOR": "1", "TERM": "xterm"}
    watching = subprocess.Popen(
        command, stdout=follower, stderr=subprocess.PIPE, env=environment, start_new_session=True
    )
    os.close(follower)
    text, patience = "", Patience(60)
    while "hypervolume" not in text and not patience.is_over:
        text += os.read(leader, 65536).decode(errors="replace")
    assert "hypervolume 0.250" in text
    os.close(leader)  # the terminal is closed half-way
    write_status(running, replace(LIVING, phase=OVER))
    try:
        _, errors = watching.communicate(timeout=patient(60))
    finally:
        watching.kill()
    assert b"Traceback" not in errors
    assert watching.returncode in (0, -signal.SIGHUP, 128 + signal.SIGHUP)


@pytest.mark.slow
def test_watch_ends_when_its_pipe_is_closed(running: Path) -> None:
    command = [sys.executable, "-m", "autocompress.cli", "watch", str(running), "--every", "0.1"]
    watching = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert watching.stdout is not None
        assert b"searching" in watching.stdout.readline()
        watching.stdout.close()  # like `watch | head -1`
        for number in range(600):
            write_status(running, replace(LIVING, trials=number))  # another line to print
            if watching.poll() is not None:
                break
            time.sleep(0.1)
        assert watching.poll() == 0
    finally:
        watching.kill()


@pytest.mark.slow
def test_show_imports_no_more_than_it_needs(tmp_path: Path) -> None:
    """scipy alone would take half a second."""
    run = write_run(tmp_path / "run")
    code = (
        "import sys\n"
        "from autocompress.cli import main\n"
        f"sys.argv = ['autocompress', 'show', {str(run)!r}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=patient(120)
    )
    loaded = done.stdout.splitlines()[-1].split()
    assert "pandas" in loaded
    assert not {"scipy.stats", "torch", "ray", "matplotlib", "onnxruntime"} & set(loaded)


@pytest.mark.timing
def test_show_of_a_running_search_takes_less_than_a_second(running: Path, commands: Commands) -> None:
    commands("show", running)
    began = time.process_time()
    commands("show", running)
    assert time.process_time() - began < 0.8 * slowness()


def test_show_of_a_finished_search_ignores_an_old_status(running: Path, commands: Commands, tmp_path: Path) -> None:
    """The front is shown, although status.json says that the search is running."""
    done = write_run(tmp_path / "done", trials=20)
    shutil.copyfile(running / STATUS_FILE, done / STATUS_FILE)
    assert "the front" in commands("show", done)
    assert json.loads((done / STATUS_FILE).read_text())["phase"] == "searching"
