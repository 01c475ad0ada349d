"""Closing a search.

There is always a front, the nearest miss if nothing meets the constraints, and consistent figures.
"""

from __future__ import annotations

import html
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from toy_search import OpenedToy, ToyDevice, offer_toy_device, open_toy, toy_job

from autocompress import data, results
from autocompress.contract import Deployable, Measurement, manager
from autocompress.devices.lock import MachineLock
from autocompress.errors import UserError
from autocompress.job import DataConfig
from autocompress.report import view, write_report
from autocompress.results import Row
from autocompress.searching import run
from autocompress.searching.baselinerow import baseline_row
from autocompress.searching.closing import Closing, save_trials
from autocompress.searching.gates import Trial
from autocompress.searching.measurer import Measurer

WHOLE = {"toy.width": 1.0, "toy.bits": 32, "toy.lr": 0.1, "toy.fault": "none"}
EIGHT_BIT = WHOLE | {"toy.bits": 8}
HALF = WHOLE | {"toy.width": 0.5}
BROKEN = WHOLE | {"toy.fault": "raise"}


def close(folder: Path, recipes: list[dict[str, Any]], **job: Any) -> tuple[results.SearchResult, list[Row]]:
    """Runs ``recipes`` one after another, closes the search, and reads the run."""
    offer_toy_device()
    chosen = toy_job(folder, space={"toy": {"fault": ["none", "raise"]}}, **job)
    opened: OpenedToy = open_toy(chosen)
    measurer = Measurer.of(chosen, opened.device)
    baseline, lock = baseline_row(opened, measurer), MachineLock(folder / "locks")
    rows = [
        Trial(opened, measurer, lock, number, chosen.folder, baseline).run(recipe)
        for number, recipe in enumerate(recipes)
    ]
    (chosen.folder / "job.yaml").write_text(chosen.to_yaml())
    save_trials(chosen.folder, rows)
    Closing(opened, measurer, chosen.folder, baseline).close(rows, 1.5, "all trials are spent", manager())
    return results.read(chosen.folder), rows


def test_the_front_has_the_non_dominated_models_and_their_files(tmp_path: Path) -> None:
    found, _ = close(tmp_path, [WHOLE, EIGHT_BIT, HALF, BROKEN], constraints={"accuracy_drop": 5.0})
    assert list(found.models["trial"]) == [0, 1], "half the width is slower than 8 bits and less accurate"
    assert found.summary["trials"] == {"complete": 3, "infeasible": 0, "failed": 1}
    assert found.summary["nearest_miss"] is None
    assert not (found.folder / "artifacts" / "2" / "model.onnx").exists()
    assert (found.folder / "artifacts" / "2" / "recipe.json").exists()
    assert list(found.trials["artifact"]) == ["artifacts/0", "artifacts/1", "", ""]


def test_the_front_is_scored_on_images_that_the_search_did_not_use(tmp_path: Path) -> None:
    found, _ = close(tmp_path, [EIGHT_BIT])
    model, baseline = found.models.iloc[0], found.front.iloc[0]
    assert (baseline["test_accuracy"], baseline["accuracy"]) == (89.0, 90.0)
    assert model["test_accuracy"] == model["accuracy"] - 1
    assert model["test_accuracy_drop"] == baseline["test_accuracy"] - model["test_accuracy"]
    assert (model["latency_ratio_low"], model["latency_ratio_high"]) == pytest.approx((0.36, 0.44))
    assert model["size_ratio"] == model["size_bytes"] / baseline["size_bytes"]
    assert model["energy_ratio"] == 0.25
    metrics = json.loads((found.artifact(0) / "metrics.json").read_text())
    low, high = metrics["test_accuracy_drop_interval"]
    assert low <= model["test_accuracy_drop"] <= high


def test_a_report_needs_no_models(tmp_path: Path) -> None:
    found, _ = close(tmp_path, [EIGHT_BIT])
    before = view.front_models(found)[1]
    shutil.rmtree(found.folder / "artifacts")
    after = view.front_models(results.read(found.folder))[1]
    assert (after.test_change_interval, after.noisy) == (before.test_change_interval, before.noisy)
    assert " to " in after.test_change_interval


def test_if_nothing_meets_the_constraints_there_are_a_front_and_the_nearest_miss(tmp_path: Path) -> None:
    limits = {"accuracy_drop": 0.5, "latency": "0.45x"}
    found, rows = close(tmp_path, [WHOLE, EIGHT_BIT, HALF], constraints=limits)
    assert [row["status"] for row in rows] == ["infeasible"] * 3
    assert list(found.models["trial"]) == [1], "only among trials with an accuracy"
    assert found.summary["nearest_miss"]["trial"] == 1
    assert found.summary["nearest_miss"]["reason"] == "accuracy drop 2.00 points, at most 0.5"


def test_if_every_trial_fails_the_front_is_the_baseline(tmp_path: Path) -> None:
    found, _ = close(tmp_path, [BROKEN])
    assert len(found.models) == 0
    assert found.baseline["latency_ms"] == 10.0
    assert found.summary["nearest_miss"] is None


class Broken(ToyDevice):
    """Cannot measure any more."""

    def compare(self, candidate: Deployable, baseline: Deployable, config: object) -> Measurement:
        raise KeyError("clock")


def test_a_device_that_fails_in_the_closing_is_named_in_the_report(tmp_path: Path) -> None:
    offer_toy_device()
    job = toy_job(tmp_path, space={"toy": {"fault": ["none", "raise"]}})
    opened = open_toy(job)
    measurer, told = Measurer.of(job, opened.device), list[str]()
    baseline = baseline_row(opened, measurer)
    row = Trial(opened, replace(measurer, device=Broken()), MachineLock(tmp_path / "locks"), 0, job.folder, baseline)
    rows = [row.run(HALF)]
    assert rows[0]["reason"].startswith("measure: the device 'toy' raised KeyError: 'clock' (test_closing.py:")
    (job.folder / "job.yaml").write_text(job.to_yaml())
    closing = Closing(opened, replace(measurer, device=Broken()), job.folder, baseline, tell=told.append)
    closing.close(rows, 1.5, "all trials are spent", manager())
    found = results.read(job.folder)
    assert found.every_trial_failed
    (note,) = told
    assert note.startswith("the device 'toy' raised KeyError: 'clock'")
    assert note.endswith("the latency of the baseline is not known")
    assert found.summary["notes"] == [note]
    assert note[1:] in html.unescape(write_report(job.folder).read_text())


class Gone(ToyDevice):
    """Runs models, and cannot run any now."""

    deterministic = False

    def open(self, deployable: Deployable, images: Any, config: object) -> Any:
        raise KeyError("board")


def test_a_device_that_fails_for_several_models_gives_one_note(tmp_path: Path) -> None:
    offer_toy_device()
    job = toy_job(tmp_path)
    opened = open_toy(job)
    measurer, told = Measurer.of(job, opened.device), list[str]()
    baseline, lock = baseline_row(opened, measurer), MachineLock(tmp_path / "locks")
    rows = [Trial(opened, measurer, lock, n, job.folder, baseline).run(one) for n, one in enumerate((WHOLE, EIGHT_BIT))]
    (job.folder / "job.yaml").write_text(job.to_yaml())
    closing = Closing(opened, replace(measurer, device=Gone()), job.folder, baseline, tell=told.append)
    closing.close(rows, 1.5, "all trials are spent", manager())
    (note,) = told
    assert note.startswith("the device 'toy' raised KeyError: 'board' (test_closing.py:")
    assert note.endswith("; the models of trials 0 and 1 keep their first latency")
    found = results.read(job.folder)
    assert found.summary["notes"] == [note]
    assert list(found.models["latency_ratio"]) == [row["latency_ratio"] for row in rows]


class Failing(ToyDevice):
    """Fails with one error for the first model, and with another one for all others."""

    deterministic = False

    def __init__(self) -> None:
        super().__init__()
        self.opened = 0

    def open(self, deployable: Deployable, images: Any, config: object) -> Any:
        self.opened += 1
        raise KeyError("board" if self.opened == 1 else "clock")


def test_each_error_of_a_device_in_the_closing_is_told(tmp_path: Path) -> None:
    offer_toy_device()
    job = toy_job(tmp_path)
    opened = open_toy(job)
    measurer, told = Measurer.of(job, opened.device), list[str]()
    baseline, lock = baseline_row(opened, measurer), MachineLock(tmp_path / "locks")
    recipes = [WHOLE, EIGHT_BIT, WHOLE | {"toy.bits": 4}, HALF | {"toy.bits": 8}, HALF | {"toy.bits": 4}]
    rows = [Trial(opened, measurer, lock, n, job.folder, baseline).run(one) for n, one in enumerate(recipes)]
    (job.folder / "job.yaml").write_text(job.to_yaml())
    closing = Closing(opened, replace(measurer, device=Failing()), job.folder, baseline, tell=told.append)
    closing.close(rows, 1.5, "all trials are spent", manager())
    assert len(told) == 2
    assert "KeyError: 'board'" in told[0]
    assert re.search("; the model of trial . keeps its first latency$", told[0])
    assert "KeyError: 'clock'" in told[1]
    assert re.search("; 4 of 5 models keep their first latency$", told[1])


@pytest.mark.usefixtures("search_here")
@pytest.mark.parametrize("kind", [Broken, Gone])
def test_a_device_that_never_works_ends_a_search_before_the_first_trial(
    kind: type[ToyDevice], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer_toy_device()
    monkeypatch.setattr(ToyDevice, "named", lambda self, name: kind() if name == "toy" else None)
    job = toy_job(tmp_path)
    with pytest.raises(UserError, match="the device 'toy' raised KeyError") as told:
        run.search(job, opener=open_toy)
    assert "check-plugin" in told.value.hint
    assert not (job.folder / "trials.csv").exists()


@pytest.mark.parametrize("objectives", [("accuracy", "size"), ("accuracy", "energy"), ("accuracy", "latency", "macs")])
def test_a_front_over_any_objectives(tmp_path: Path, objectives: tuple[str, ...]) -> None:
    found, _ = close(tmp_path, [WHOLE, EIGHT_BIT, HALF], objectives=objectives)
    expected = {"size": [0, 1], "energy": [0, 1], "macs": [0, 1, 2]}[objectives[-1]]
    assert sorted(found.models["trial"]) == expected


def test_the_table_shows_the_last_measurement(tmp_path: Path) -> None:
    offer_toy_device()
    job = toy_job(tmp_path)
    opened = open_toy(job)
    measurer = Measurer.of(job, opened.device)
    baseline = baseline_row(opened, measurer)
    row = Trial(opened, measurer, MachineLock(tmp_path / "locks"), 0, job.folder, baseline).run(EIGHT_BIT)
    measured, lucky = row["latency_ratio"], {**row, "latency_ratio": 0.01}
    (job.folder / "job.yaml").write_text(job.to_yaml())
    Closing(opened, measurer, job.folder, baseline).close([lucky], 1.5, "all trials are spent", manager())
    found = results.read(job.folder)
    assert list(found.models["latency_ratio"]) == [measured]
    assert list(found.trials["latency_ratio"]) == [measured]


def test_the_summary_and_the_page_say_which_images_were_used(tmp_path: Path) -> None:
    offer_toy_device()
    job = toy_job(tmp_path)
    opened = open_toy(job)
    opened.splits = replace(data.load(DataConfig(train="digits")), notes=("'test' is half of something",))
    measurer = Measurer.of(job, opened.device)
    (job.folder / "job.yaml").parent.mkdir(parents=True, exist_ok=True)
    (job.folder / "job.yaml").write_text(job.to_yaml())
    closing = Closing(opened, measurer, job.folder, baseline_row(opened, measurer))
    assert closing.close([], 1.5, "the time is up", manager())["notes"] == ["'test' is half of something"]
    save_trials(job.folder, [])
    assert "'test' is half of something." in html.unescape(write_report(job.folder).read_text())
