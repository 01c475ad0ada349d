"""Resume after SIGKILL: finished stays finished, nothing runs twice but what was cut short, and the budget is kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_search_run import wait_for
from toy_bench import ToyBench, offer_toy_device, open_toy, toy_job

from autocompress import results
from autocompress.errors import UserError
from autocompress.job import Job
from autocompress.searching import run, rundir

TESTS = Path(__file__).parent
TRIALS = 10


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What workers inherit; gives the file in which they note each whole run."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("TOY_RUNS", str(tmp_path / "runs.txt"))
    monkeypatch.setenv("TOY_SECONDS", "0.4")
    offer_toy_device()
    return tmp_path / "runs.txt"


@pytest.mark.slow
def test_a_killed_search_goes_on(tmp_path: Path, environment: Path) -> None:
    script = f"import toy_bench; toy_bench.main({str(tmp_path)!r}, {TRIALS}, workers=2)"
    process = subprocess.Popen([sys.executable, "-c", script])
    trials = tmp_path / "toy" / "trials.csv"
    wait_for(lambda: len(trials.read_text().splitlines()) >= 5, trials)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = results.read(tmp_path / "toy").trials
    ran_before = len(environment.read_text().splitlines())
    assert 4 <= len(before) < TRIALS

    found = run.resume(tmp_path / "toy", open_bench=open_toy)
    assert len(found.trials) == TRIALS
    assert found.summary["ended"] == "all trials are spent"
    same = found.trials[found.trials["trial"].isin(before["trial"])].reset_index(drop=True)
    columns = ["trial", "status", "accuracy", "latency_ratio", "recipe"]
    assert same[columns].equals(before[columns]), "what was finished stays as it was"

    runs = [json.loads(line) for line in environment.read_text().splitlines()]
    ran_again = {json.dumps(one["values"], sort_keys=True) for one in runs[ran_before:]}
    assert ran_again
    assert not ran_again & {json.dumps(recipe, sort_keys=True) for recipe in before["recipe"]}
    noted = [one["key"] for one in runs]
    twice = [key for key, count in Counter(noted).items() if count > 1]
    assert len(twice) <= 2, "only what the two workers had under way may run again"
    rows = [json.dumps(recipe, sort_keys=True) for recipe in found.trials["recipe"]]
    assert len(set(rows)) == TRIALS

    once_more = run.resume(tmp_path / "toy", open_bench=open_toy)
    assert len(once_more.trials) == TRIALS
    assert len(environment.read_text().splitlines()) == len(noted), "nothing was left to run"


def test_resume_refuses_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run"):
        run.resume(tmp_path)


@pytest.mark.parametrize("budget", [{"trials": 0}, {"trials": -3}, {"minutes": -1.0}, {"minutes": 0.0}])
def test_resume_refuses_a_budget_that_is_none(tmp_path: Path, budget: dict[str, Any]) -> None:
    offer_toy_device()
    folder = rundir.create(toy_job(tmp_path), {"python": "3.11"})
    with pytest.raises(UserError, match=next(iter(budget))) as error:
        run.resume(folder, open_bench=open_toy, **budget)
    assert "\n" not in str(error.value)


def test_resume_refuses_a_job_that_names_what_is_gone(tmp_path: Path) -> None:
    offer_toy_device()
    folder = rundir.create(toy_job(tmp_path), {"python": "3.11"})
    file = folder / "job.yaml"
    file.write_text(file.read_text().replace("model: resnet10t", "model: gone"))
    with pytest.raises(UserError, match="gone"):
        run.resume(folder, open_bench=open_toy)


def test_resume_refuses_another_baseline(tmp_path: Path) -> None:
    def retrained(job: Job, progress: Any = None) -> ToyBench:
        bench = open_toy(job, progress)
        bench.baseline = replace(bench.baseline, key="another")
        return bench

    offer_toy_device()
    job = toy_job(tmp_path, budget={"trials": 4, "minutes": 1e-6})
    run.search(job, open_bench=open_toy)
    with pytest.raises(UserError, match="the baseline is not the one that this run began with"):
        run.resume(job.folder, open_bench=retrained)
    assert run.resume(job.folder, open_bench=open_toy).summary["ended"] == "the time is up"


def test_files_that_a_killed_search_left_are_removed(tmp_path: Path) -> None:
    folder = rundir.create(toy_job(tmp_path), {"python": "3.11"})
    (rundir.scratch_folder(folder) / "model.onnx").touch()
    with rundir.driver(folder):
        assert not list(rundir.scratch_folder(folder).iterdir())
    assert not (folder / "ray" / "scratch").exists()


def test_only_one_process_drives_a_run(tmp_path: Path) -> None:
    offer_toy_device()
    folder = rundir.create(toy_job(tmp_path), {"python": "3.11"})
    script = (
        "import sys, pathlib; from autocompress.searching import rundir\n"
        f"with rundir.driver(pathlib.Path({str(folder)!r})): print('driving', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "driving\n"
    with pytest.raises(UserError, match="another process is running the search"), rundir.driver(folder):
        pass
    other.kill()
    other.communicate()
    with rundir.driver(folder):
        pass
