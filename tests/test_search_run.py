"""A whole search on Ray with the toy job: its files, its front, its budget, and its refusals."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from patience import Patience
from rich.console import Console
from rich.live import Live
from toy_search import OpenedToy, ToyCandidate, ToyRecipe, offer_toy_device, open_toy, toy_job

from autocompress import results
from autocompress.cli.progress import Lines, Screen
from autocompress.errors import UserError
from autocompress.job import Job
from autocompress.searching import run
from autocompress.searching.progress import Steps
from autocompress.searching.study import Study

TESTS = Path(__file__).parent


@pytest.fixture(autouse=True)
def _toy_device() -> None:
    offer_toy_device()


class Watcher:
    """Records the events of a search."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.rows: list[dict[str, Any]] = []
        self.fronts: list[int] = []
        self.hypervolumes: list[float] = []
        self.steps: list[tuple[float, str]] = []
        self.total = 0

    def on_start(self, total: int) -> None:
        self.total = total

    def on_baseline(self, row: dict[str, Any]) -> None:
        self.baseline = row

    def on_trial(
        self,
        row: dict[str, Any],
        front_rows: Sequence[Any],
        hypervolume: float,
        trials_done: int,
        seconds_left: float | None,
    ) -> None:
        assert trials_done > len(self.rows), "a worker may have finished one that the driver does not know yet"
        assert seconds_left is None
        self.rows.append(row)
        self.fronts.append(len(front_rows))
        self.hypervolumes.append(hypervolume)

    def on_note(self, text: str) -> None:
        self.notes.append(text)

    def on_progress(self, fraction: float, text: str) -> None:
        self.steps.append((fraction, text))


EACH = 2
"""Trials of a worker that wait for those of the other one."""


class MeetingToy(OpenedToy):
    """The first trials of a worker last until another worker has begun as many."""

    def candidate(self, recipe: ToyRecipe, **more: Any) -> ToyCandidate:
        found = super().candidate(recipe, **more)
        counts, patience = self.trials_of(), Patience(120)
        own = counts[os.getpid()]
        while not more.get("dry_run") and own <= EACH and not patience.is_over:
            counts = self.trials_of()
            if any(count >= own for pid, count in counts.items() if pid != os.getpid()):
                break
            time.sleep(0.02)
        return found

    def trials_of(self) -> Counter[int]:
        """The number of trials that each process has begun."""
        file = self.folder / "runs.txt"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        return Counter(json.loads(line)["pid"] for line in lines if line.endswith("\n"))


def open_meeting(job: Job, progress: Any = None) -> MeetingToy:
    return MeetingToy(job, open_toy(job, progress).folder)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_search_uses_its_workers_and_leaves_a_front_and_every_file(tmp_path: Path) -> None:
    watcher = Watcher()
    limits = {"accuracy_drop": 8.0}
    job = toy_job(tmp_path, workers=2, budget={"trials": 20}, constraints=limits)
    found = run.search(job, observer=watcher, opener=open_meeting)
    assert found.folder == tmp_path / "toy"
    # A worker takes seconds to start. Earlier, it was given up if the first worker was free before.
    lines = (found.folder / "toy" / "runs.txt").read_text().splitlines()
    trials_of = Counter(json.loads(line)["pid"] for line in lines)
    assert len(trials_of) == 2
    assert min(trials_of.values()) >= EACH
    for name in ("job.yaml", "trials.csv", "front.csv", "summary.json", "study.journal", "log.txt", "report.html"):
        assert (found.folder / name).stat().st_size > 0, name
    assert watcher.steps == [(1.0, "opening the toy job")]
    assert not (found.folder / "ray" / "scratch").exists()
    assert list(found.sensitivity["bits"]) == [8, 4, 2]
    assert found.summary["float_layers"] == ["norm"]
    assert len(found.trials) == watcher.total == len(watcher.rows) == 20
    assert found.trials["trial"].is_monotonic_increasing
    assert {row["label"] for row in watcher.rows} == {"uncompressed", "8-bit alone", ""}
    assert watcher.hypervolumes == sorted(watcher.hypervolumes)

    front = found.models
    assert found.front.iloc[0]["status"] == results.BASELINE
    assert (front["accuracy_drop"] <= 8.0).all()
    for one in front.itertuples():
        better = (front["accuracy"] >= one.accuracy) & (front["latency_ratio"] <= one.latency_ratio)
        assert better.sum() == 1, "only the model itself"
        assert (found.artifact(one.trial) / "model.onnx").exists()
        metrics = json.loads((found.artifact(one.trial) / "metrics.json").read_text())
        assert metrics["test_accuracy"] == one.test_accuracy == one.accuracy - 1
    kept = {path.parent.name for path in found.folder.glob("artifacts/*/model.onnx")}
    assert kept == {str(number) for number in front["trial"]}, "models of dominated trials are deleted"
    assert sum(found.summary["trials"].values()) == 20
    assert found.summary["ended"] == "all trials are spent"

    with pytest.raises(UserError, match="exists already"):
        run.search(job, opener=open_toy)
    assert len(results.read(found.folder).trials) == 20


@pytest.mark.usefixtures("search_here")
def test_if_every_trial_misses_at_a_gate_the_front_has_the_nearest(tmp_path: Path) -> None:
    limits = {"latency": "0.01x"}
    found = run.search(toy_job(tmp_path, budget={"trials": 4}, constraints=limits), opener=open_toy)
    assert set(found.trials["status"]) == {"infeasible"}
    (model,) = found.models.to_dict("records")
    assert found.summary["nearest_miss"]["trial"] == model["trial"]
    assert model["latency_ratio"] == found.trials["latency_ratio"].min()
    assert (model["status"], model["reason"]) == ("infeasible", found.summary["nearest_miss"]["reason"])
    assert model["reason"].startswith("latency 0.")
    assert model["test_accuracy"] == model["accuracy"] - 1
    trial = found.trials.set_index("trial").loc[model["trial"]]
    assert trial["accuracy"] == model["accuracy"]
    assert (found.artifact(model["trial"]) / "model.onnx").exists()
    assert found.trials["accuracy"].notna().sum() == 1, "the others were not trained"

    again = run.resume(found.folder, opener=open_toy)
    assert list(again.models["trial"]) == [model["trial"]]


def test_a_deadline_before_the_first_trial_is_not_an_interruption(tmp_path: Path) -> None:
    job = toy_job(tmp_path, budget={"trials": 4, "minutes": 1e-6})
    found = run.search(job, opener=open_toy)
    assert len(found.trials) == 0
    assert found.summary["ended"] == "the time is up"


class EndlessTables(OpenedToy):
    """A job with tables that take longer than the search."""

    def proposals(self, progress: Any = None, pause: Any = None) -> None:
        gives_up = time.monotonic() + 20
        while time.monotonic() < gives_up:
            pause()


@pytest.mark.timing
def test_tables_that_take_longer_than_the_search_are_given_up(tmp_path: Path, search_here: None) -> None:
    job = toy_job(tmp_path, budget={"trials": 4, "minutes": 0.05})
    began = time.monotonic()
    found = run.search(job, opener=lambda job, progress=None: EndlessTables(job, job.folder / "toy"))
    assert time.monotonic() - began < 15
    assert found.summary["ended"] == "the time is up"
    assert "the time was up before tables" in (found.folder / "log.txt").read_text()


def test_a_step_is_named_once_and_its_fraction_a_few_times_per_second() -> None:
    watcher = Watcher()
    steps = Steps(watcher)
    for done in range(1000):
        steps(done / 1000, f"epoch {1 + done // 500}")
    steps(1.0, "epoch 2")
    steps(0.0, "profiling")
    assert watcher.notes == ["epoch 1", "profiling"]
    assert watcher.steps[0] == (0.0, "epoch 1")
    assert watcher.steps[-2:] == [(1.0, "epoch 2"), (0.0, "profiling")]
    assert len(watcher.steps) < 20


def test_a_terminal_shows_the_baseline_first_and_the_progress_of_steps() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    baseline = {"status": "baseline", "accuracy": 90.0, "accuracy_drop": 0.0, "latency_ratio": 1.0, "size_bytes": 4000}
    row = {**baseline, "status": "complete", "trial": 3, "latency_ratio": 0.5, "recipe": {}}
    with Live(console=console, auto_refresh=False) as live:
        screen = Screen(console, live)
        screen.on_progress(0.4, "epoch 3")
        console.print(live.get_renderable())
        screen.on_baseline(baseline)
        screen.on_start(10)
        screen.on_trial(row, [row], 0.5, 1, None)
        console.print(live.get_renderable())
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    training, front = shown.split("front so far", 1)
    assert re.search(r"epoch 3 .*40%", training)
    assert re.search(r"(?s)baseline .* 90.00 % .* uncompressed .* 3 .* 0.50×", front)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        run.search(toy_job(tmp_path / "file"), opener=open_toy)


def test_the_name_of_a_search_that_cannot_begin_can_be_used_again(tmp_path: Path) -> None:
    def broken(job: Any, progress: Any = None) -> Any:
        del job, progress
        raise UserError("the checkpoint is broken")

    for _ in range(2):
        with pytest.raises(UserError, match="the checkpoint is broken"):
            run.search(toy_job(tmp_path), opener=broken)


def start_toy_search(folder: Path, trials: int, seconds: float, **settings: Any) -> subprocess.Popen[bytes]:
    """A search in a process of its own, with its own Ray cluster.

    Each trial trains for ``seconds``.
    """
    # A shell ignores SIGINT in background processes, and their children inherit that.
    script = (
        "import json, signal, sys, toy_search\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "toy_search.main(sys.argv[1], **json.loads(sys.argv[2]))"
    )
    given = json.dumps({"trials": trials, "space": {"toy": {"seconds": seconds}}, **settings})
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
        "RAY_ADDRESS": "127.0.0.1:6379",  # the address of a cluster that does not exist
    }
    return subprocess.Popen([sys.executable, "-c", script, str(folder), given], env=environment)


def wait_for(condition: Any, file: Path, seconds: float = 300) -> None:
    """Returns when ``file`` exists and ``condition`` holds."""
    patience = Patience(seconds)
    while not (file.exists() and condition()):
        assert not patience.is_over, f"{file} is still not as wanted"
        time.sleep(0.05)


def test_minutes_count_from_the_start_without_the_training_of_the_baseline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening, training = 1000.0, 700.0  # seconds of a clock that the test advances
    clock, ahead = time.monotonic, [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock() + ahead[0])

    def slow(job: Job, progress: Any = None) -> OpenedToy:
        ahead[0] += opening
        opened = open_toy(job, progress)
        opened.training_seconds = training
        return opened

    watcher = Watcher()
    job = toy_job(tmp_path, budget={"trials": 4, "minutes": 5})
    found = run.search(job, opener=slow, observer=watcher, began=clock() - 10)
    assert opening - training + 10 <= found.summary["seconds"] < opening
    assert found.summary["ended"] == "the time is up"
    estimate = next(note for note in watcher.notes if "at most 4 trials or 5 minutes" in note)
    spent = re.search(r"5 minutes, (\d+) s of them spent", estimate)
    assert spent is not None
    assert 310 <= int(spent[1]) < 330, "opening, and 10 seconds before it; the process takes some seconds"
    before = Study(job.folder, job, {}).seconds
    again = run.resume(job.folder, opener=slow, minutes=6).summary["seconds"]
    rounding = 0.05  # the summary has tenths of seconds
    assert opening - training - rounding <= again - before < opening, "a resume prepares again"


def test_a_long_step_logs_its_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, ahead = time.monotonic, [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock() + ahead[0])
    console = Console(file=io.StringIO(), width=100)
    lines = Lines(console)
    for fraction, seconds in ((0.0, 0.0), (0.2, 4.0), (0.3, 2.0), (0.5, 4.0), (1.0, 40.0)):
        ahead[0] += seconds
        lines.on_progress(fraction, "training the baseline")
    assert console.file.getvalue() == "training the baseline: 30%, 14 s left\ntraining the baseline: 100%\n"
