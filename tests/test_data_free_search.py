"""Whole searches without training data.

Their files and messages, and test images that stay sealed until the end.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from noise_source import IMAGES, free_job, notes, offer, open_free, withdraw
from rich.console import Console

from autocompress import results
from autocompress.cli.progress import Lines
from autocompress.contract import manager
from autocompress.data import Sealed, SealedError
from autocompress.devices.lock import MachineLock
from autocompress.job import Job
from autocompress.report import datafree, view, words
from autocompress.report.page import render
from autocompress.report.table import front_table
from autocompress.searching import run
from autocompress.searching.baselinerow import baseline_row
from autocompress.searching.closing import Closing, save_trials
from autocompress.searching.gates import Trial
from autocompress.searching.measurer import Measurer
from autocompress.searching.searchable import SearchableJob


@pytest.fixture(autouse=True)
def _sources() -> Iterator[None]:
    offer()
    yield
    withdraw()


def searched(job: Job, console: Console | None = None) -> tuple[results.SearchResult, Any, list[str]]:
    """The result, the driver's opened job, and the times at which its test images were opened."""
    kept: dict[str, Any] = {}

    def opener(job: Job, progress: Callable[[float, str], None] | None = None) -> SearchableJob:
        kept["opened"] = open_free(job, progress)
        return kept["opened"]

    found = run.search(job, observer=Lines(console or Console(quiet=True)), opener=_Opener(opener))
    return found, kept["opened"], notes()


class _Opener:
    """Remembers the opened job of the driver.

    In a worker, to which it is sent, it only opens one.
    """

    def __init__(self, opener: Callable[..., SearchableJob]) -> None:
        self._opener = opener

    def __call__(self, job: Job, progress: Callable[[float, str], None] | None = None) -> SearchableJob:
        return self._opener(job, progress)

    def __reduce__(self) -> Any:
        return partial, (_open_in_worker, os.environ["NOISE_CALLS"])


def _open_in_worker(calls: str, job: Job, progress: Callable[[float, str], None] | None = None) -> SearchableJob:
    """Sets what the worker needs: it has the environment of the cluster, not that of the test."""
    os.environ["NOISE_CALLS"] = calls
    return open_free(job, progress)


SPACE = {"bits.weight": ["none", "quantize:8"], "peeks.on": "none", "recover.epochs": {"high": 1}}


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_search_with_test_images_opens_them_at_its_end(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    close = Closing.close

    def watched(self: Closing, *arguments: Any) -> Any:
        test = self.opened.splits.test  # type: ignore[attr-defined]
        seen.append((test.refused, test.openings))
        return close(self, *arguments)

    monkeypatch.setattr(Closing, "close", watched)
    monkeypatch.setenv("NOISE_CALLS", str(tmp_path / "calls"))
    console = Console(record=True, width=200, file=io.StringIO())
    settings = {"device": "cost-model:bitops", "model_args": {"in_chans": 1, "img_size": 32}}  # no latency is measured
    methods = ["ghost", "quantize", "blobs", "specks"]
    job = free_job(teacher, tmp_path, methods=methods, space=SPACE, seed=13, **settings)
    found, opened, calls = searched(job, console)
    assert seen == [(0, 0)], "nothing read them before the search was closed"
    test = opened.splits.test
    assert isinstance(test, Sealed)
    assert (test.refused, test.openings) == (0, 1)
    with pytest.raises(SealedError):
        test.labels()

    assert set(found.trials["status"]) == {"complete"}, found.trials["reason"].tolist()
    assert (found.trials["agreement"] == found.trials["accuracy"]).all()
    assert (found.trials["accuracy_drop"] == 100 - found.trials["agreement"]).all()
    baseline = found.front.iloc[0]
    assert (baseline["accuracy"], baseline["agreement"]) == (100.0, 100.0)
    assert 0 < baseline["test_accuracy"] < 100, "real labels"
    assert found.models["test_accuracy"].notna().all()
    assert (found.models["test_accuracy_drop"] == baseline["test_accuracy"] - found.models["test_accuracy"]).all()
    assert all(recipe["source"] in ("blobs", "specks") for recipe in found.trials["recipe"])
    synthetic = found.summary["synthetic"]
    assert synthetic["train"] == {"blobs": IMAGES, "specks": IMAGES}
    assert synthetic["held_out"] == len(opened.splits.val)
    assert synthetic["classes"] == 10
    metrics = json.loads((found.artifact(int(found.models["trial"].iloc[0])) / "metrics.json").read_text())
    assert metrics["agreement"] == metrics["accuracy"]
    assert metrics["file_agreement"] >= 0.8
    assert "test_accuracy_drop_interval" in metrics
    # The driver made two sets for each source, and workers and trials used them. No other test uses
    # the seed of this job.
    assert [call for call in calls if " soft " in call].count("blobs soft alone") <= 2

    told = view.headline(found)
    assert "which is agreement and not accuracy; test accuracy changes by" in told
    page = render(found)
    for text in ("There was no training data", "Agreement with the baseline", "48 synthetic images by blobs"):
        assert text in page
    assert "data none, tested on digits" in page
    assert "Validation accuracy" not in page
    said = console.export_text()
    assert "making images: blobs" in said
    assert "data: 10 classes, 32x32, 1 channel; no training data, but synthetic images: 48 by blobs" in said
    assert "% agreement" in said


@pytest.mark.slow
def test_without_any_data_there_is_no_test_accuracy(teacher: Path, tmp_path: Path) -> None:
    args = {"in_chans": 1, "img_size": 32}
    job = free_job(teacher, tmp_path, data="none", model_args=args, device="cost-model:bitops")
    opened: Any = open_free(job)
    measurer = Measurer.of(job, opened.device)
    baseline, lock = baseline_row(opened, measurer), MachineLock(tmp_path / "locks")
    recipes = [{"bits.weight.model": weight, "bits.activation.model": 8} for weight in ("none", "quantize:8")]
    rows = [Trial(opened, measurer, lock, n, job.folder, baseline).run(recipe) for n, recipe in enumerate(recipes)]
    (job.folder / "job.yaml").write_text(job.to_yaml())
    save_trials(job.folder, rows)
    Closing(opened, measurer, job.folder, baseline).close(rows, 1.0, "all trials are spent", manager())
    found = results.read(job.folder)
    assert len(opened.splits.test) == 0
    assert found.front["test_accuracy"].isna().all()
    assert found.front["test_accuracy_drop"].isna().all()
    assert len(found.models) > 0
    metrics = json.loads((found.artifact(int(found.models["trial"].iloc[0])) / "metrics.json").read_text())
    assert "test_accuracy_drop_interval" not in metrics
    assert found.summary["images"] == {"train": 0, "val": len(opened.splits.val), "test": 0}
    assert "test accuracy" not in view.headline(found)
    page = render(found)
    assert "scored on the test split" not in page
    assert "Test accuracy" not in page.split("<script")[0]
    console = Console(record=True, width=80, file=io.StringIO())
    console.print(front_table(found))
    assert "agree %" in console.export_text()


def test_a_run_with_labels_does_not_mention_agreement(tmp_path: Path) -> None:
    row = {"trial": 0, "status": "complete", "accuracy": 90.0, "accuracy_drop": 1.0}
    (tmp_path / "job.yaml").write_text("model: resnet18\ndata: digits\n")
    results.write_trials(tmp_path, [row])
    results.write_front(tmp_path, [{"status": "baseline", "accuracy": 91.0}])
    found = results.read(tmp_path)
    assert not datafree.is_by_agreement(found)
    assert datafree.images_text(found) == ""
    assert "agreement" not in render(found).split("<script")[0].lower()


def test_a_table_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    results.write_trials(tmp_path, [{"trial": 0, "status": "complete", "accuracy": 90.0}])
    table = pd.read_csv(tmp_path / "trials.csv").drop(columns="agreement")
    table.to_csv(tmp_path / "trials.csv", index=False)
    found = results.read_trials(tmp_path)
    assert tuple(found.columns) == results.COLUMNS
    assert found["agreement"].isna().all()
    assert found["accuracy"].tolist() == [90.0]


def test_few_classes_among_the_held_out_images_give_a_note(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("model: resnet18\ndata: null\n")
    synthetic = {"train": {"a": 100}, "held_out": 64, "classes_seen": 2, "classes": 10}
    (tmp_path / "summary.json").write_text(json.dumps({"synthetic": synthetic}))
    results.write_trials(tmp_path, [{"trial": 0, "status": "complete", "accuracy": 99.0, "agreement": 99.0}])
    found = results.read(tmp_path)
    assert "predicts only 2 of its 10 classes" in " ".join(view.warnings(found))
    assert "agreement with the baseline on 64 held-out synthetic images" in datafree.images_text(found)
    assert datafree.data_name(found) == "none"


def test_the_text_of_a_recipe_names_its_source_and_not_its_settings() -> None:
    values = {"source": "blobs", "blobs.kind": "soft", "blobs.images": 48, "bits.weight.model": "quantize:8"}
    assert words.recipe({**values, "bits.activation.model": 8}) == "int8 everywhere; images by blobs"
    assert words.recipe({"source": "blobs", "blobs.kind": "soft"}) == "uncompressed"
