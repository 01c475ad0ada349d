"""The gates: a trial ends at the first failed gate, before more expensive ones, with a reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_search import OpenedToy, ToyCandidate, open_toy, toy_job

from autocompress.contract import Deployable, Measurement
from autocompress.devices.lock import MachineLock
from autocompress.objectives.bounds import misses
from autocompress.opened.job import OpenedJob
from autocompress.results import COLUMNS
from autocompress.searching.baselinerow import baseline_row
from autocompress.searching.gates import Trial
from autocompress.searching.measurer import Measurer


class Recorder:
    """A toy job that records the calls to it."""

    def __init__(self, opened: OpenedToy) -> None:
        self.opened, self.did = opened, []  # type: tuple[OpenedToy, list[str]]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.opened, name)

    def candidate(self, recipe: Any, *, dry_run: bool = False, **more: Any) -> ToyCandidate:
        self.did.append("dry run" if dry_run else "train")
        return self.opened.candidate(recipe, dry_run=dry_run, **more)

    def export(self, candidate: ToyCandidate, file: Path) -> Deployable:
        self.did.append("export")
        return self.opened.export(candidate, file)


class RecordingMeasurer(Measurer):
    """Counts measurements."""

    measured = 0

    def measure(self, candidate: Deployable, baseline: Deployable, **how: Any) -> Measurement:
        RecordingMeasurer.measured += 1
        return super().measure(candidate, baseline, **how)


Run = Callable[..., dict[str, Any]]
WHOLE = {"toy.width": 1.0, "toy.bits": 32, "toy.lr": 0.1, "toy.fault": "none"}
HALF = WHOLE | {"toy.width": 0.5}


def trial_of(folder: Path, number: int = 0, **job: Any) -> tuple[Trial, Recorder]:
    """A trial of a toy job in ``folder``, and the opened job."""
    chosen = toy_job(folder, space={"toy": {"fault": ["none", "raise", "nan", "memory"]}}, **job)
    opened = Recorder(open_toy(chosen))
    measurer = RecordingMeasurer.of(chosen, opened.device)
    lock = MachineLock(folder / "locks")
    return Trial(opened, measurer, lock, number, chosen.folder, baseline_row(opened, measurer)), opened


def test_a_trial_that_meets_everything_is_complete(tmp_path: Path) -> None:
    trial, opened = trial_of(tmp_path, number=7, constraints={"accuracy_drop": 4.0, "latency": "0.5x"})
    row = trial.run(HALF, "a label")
    assert row["status"] == "complete"
    assert row["reason"] == ""
    assert opened.did == ["dry run", "export", "train", "export"]
    assert set(COLUMNS) <= set(row)
    assert row["accuracy"] == 87.0
    assert row["accuracy_drop"] == 3.0
    low, high = row["accuracy_drop_interval"]
    assert low < 3.0 < high
    assert row["latency_ratio"] == 0.5
    assert row["artifact"] == "artifacts/7"
    metrics = json.loads((tmp_path / "toy" / "artifacts" / "7" / "metrics.json").read_text())
    assert metrics["accuracy"] == 87.0
    stages = {"compose", "candidate", "export", "measure", "train", "agreement", "accuracy"}
    assert set(metrics["seconds_by_stage"]) == stages
    assert json.loads(json.dumps(row)) == row, "a row in the study must be JSON"


@pytest.mark.parametrize(
    ("constraints", "did", "reason"),
    [
        ({"macs": "0.2x"}, ["dry run"], "macs 0.25x, at most 0.2x"),
        ({"params": "400"}, ["dry run"], "params 500, at most 400"),
        ({"size": "0.3x"}, ["dry run", "export"], "size 0.50"),
        ({"latency": "0.4x"}, ["dry run", "export"], "latency 0.5x, at most 0.4x"),
        ({"latency": "4 ms"}, ["dry run", "export"], "latency 5 ms, at most 4 ms"),
        ({"accuracy_drop": 1.0}, ["dry run", "export", "train", "export"], "accuracy drop 3.00 points, at most 1"),
    ],
)
def test_a_trial_ends_at_the_first_failed_gate(
    tmp_path: Path, constraints: dict[str, Any], did: list[str], reason: str
) -> None:
    trial, opened = trial_of(tmp_path, constraints=constraints)
    row = trial.run(HALF)
    assert row["status"] == "infeasible"
    assert row["reason"].startswith(reason)
    assert opened.did == did
    assert (row.get("accuracy") is not None) == ("train" in did)
    assert misses(row["excess"]) == list(constraints)


def test_latency_is_a_miss_only_if_the_whole_interval_misses(tmp_path: Path) -> None:
    trial, opened = trial_of(tmp_path, constraints={"latency": "0.47x"})  # the interval is 0.45 to 0.55
    row = trial.run(HALF)
    assert "train" in opened.did
    assert row["status"] == "infeasible", "at the end, the middle of the interval decides"
    assert row["accuracy"] is not None


def test_recipes_with_equal_structure_are_measured_once(tmp_path: Path) -> None:
    RecordingMeasurer.measured = 0
    first, _ = trial_of(tmp_path, number=0)
    other, opened = trial_of(tmp_path, number=1)
    one, two = first.run(HALF), other.run(HALF | {"toy.lr": 0.2})
    assert RecordingMeasurer.measured == 1
    assert opened.did == ["train", "export"]
    assert one["latency_ratio"] == two["latency_ratio"]
    assert one["recipe_key"] != two["recipe_key"]


def test_a_structure_is_measured_again_with_another_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Latencies in structures/ are for one runtime and one processor (see opened.keys)."""
    RecordingMeasurer.measured = 0
    trial_of(tmp_path, number=0)[0].run(HALF)
    monkeypatch.setattr(onnxruntime, "__version__", "9.9.9")
    trial_of(tmp_path, number=1)[0].run(HALF | {"toy.lr": 0.2})
    assert RecordingMeasurer.measured == 2


def test_a_method_whose_dry_run_has_another_structure_is_measured_again(tmp_path: Path) -> None:
    class Liar(Recorder):
        def candidate(self, recipe: Any, *, dry_run: bool = False, **more: Any) -> ToyCandidate:
            return self.opened.candidate(self.narrow(recipe) if dry_run else recipe, dry_run=dry_run, **more)

        def narrow(self, recipe: Any) -> Any:
            return type(recipe)({**recipe.values, "toy.width": 0.25})

    trial, opened = trial_of(tmp_path)
    trial.opened = Liar(opened.opened)
    row = trial.run(HALF)
    assert row["latency_ratio"] == 0.5
    assert row["params"] == 500


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("raise", "train: ValueError: a plugin's fault"),
        ("nan", "train: the loss is not a number"),
        ("memory", "train: out of memory: asked for 1 TB"),
    ],
)
def test_an_exception_is_a_failed_row_with_its_reason(tmp_path: Path, fault: str, reason: str) -> None:
    trial, _ = trial_of(tmp_path)
    row = trial.run(HALF | {"toy.fault": fault})
    assert row["status"] == "failed"
    assert row["reason"] == reason
    assert row.get("accuracy") is None


class Poisoned:
    """A real job whose finished models give NaN."""

    def __init__(self, opened: OpenedJob) -> None:
        self.opened = opened

    def __getattr__(self, name: str) -> Any:
        return getattr(self.opened, name)

    def candidate(self, recipe: Any, *, dry_run: bool = False, **more: Any) -> Any:
        found = self.opened.candidate(recipe, dry_run=dry_run, **more)
        if not dry_run:
            for parameter in found.model.parameters():
                torch.nn.init.constant_(parameter, float("nan"))
        return found


def test_a_model_that_gives_nan_is_a_failed_row(tmp_path: Path, opened: OpenedJob) -> None:
    measurer = Measurer.of(opened.job, opened.device)
    lock = MachineLock(tmp_path / "locks")
    trial = Trial(Poisoned(opened), measurer, lock, 0, tmp_path, baseline_row(opened, measurer))
    row = trial.run(dict(opened.starting_points())["uncompressed"])
    assert row["status"] == "failed"
    assert row["reason"] == "agreement: the model's outputs are not finite numbers"


def test_a_trial_that_is_not_judged_ends_at_no_gate(tmp_path: Path) -> None:
    trial, opened = trial_of(tmp_path, constraints={"macs": "0.1x", "latency": "0.1x"})
    trial.judge = False
    row = trial.run(HALF)
    assert opened.did == ["dry run", "export", "train", "export"]
    assert row["accuracy"] == 87.0
    assert row["status"] == "infeasible"
    assert row["reason"] == "latency 0.5x, at most 0.1x; macs 0.25x, at most 0.1x"


def test_files_of_a_running_trial_are_in_its_run_and_removed_afterwards(tmp_path: Path) -> None:
    trial, opened = trial_of(tmp_path)
    written: list[Path] = []
    export = opened.export
    opened.export = lambda candidate, file: (written.append(file), export(candidate, file))[1]  # type: ignore[method-assign]
    trial.run(HALF)
    assert len(written) == 2
    assert all(file.is_relative_to(tmp_path / "toy" / "ray" / "scratch") for file in written)
    assert not any(file.exists() for file in written)


def test_an_invalid_recipe_ends_at_gate_0(tmp_path: Path) -> None:
    trial, opened = trial_of(tmp_path)
    row = trial.run(WHOLE | {"toy.width": 0.125, "toy.bits": 2})
    assert row["status"] == "infeasible"
    assert "cannot go with 2 bits" in row["reason"]
    assert opened.did == []


@settings(max_examples=40, deadline=None)
@given(
    width=st.sampled_from([1.0, 0.5, 0.25]),
    bits=st.sampled_from([32, 8, 4]),
    drop=st.none() | st.floats(0, 12),
    latency=st.none() | st.floats(0.02, 1.2),
    macs=st.none() | st.floats(0.02, 1.2),
)
def test_a_trial_is_complete_exactly_if_it_meets_every_constraint(
    tmp_path_factory: pytest.TempPathFactory,
    width: float,
    bits: int,
    drop: float | None,
    latency: float | None,
    macs: float | None,
) -> None:
    ratios = {"latency": latency, "macs": macs}
    constraints: dict[str, Any] = {name: f"{value:.6f}x" for name, value in ratios.items() if value is not None}
    trial, _ = trial_of(tmp_path_factory.mktemp("run"), constraints=constraints | {"accuracy_drop": drop})
    row = trial.run(WHOLE | {"toy.width": width, "toy.bits": bits})
    meets = latency is None or width * (0.2 + 0.8 * bits / 32) <= round(latency, 6)
    meets &= macs is None or width**2 <= round(macs, 6)
    meets &= drop is None or (row.get("accuracy_drop") is not None and row["accuracy_drop"] <= drop)
    assert (row["status"] == "complete") == meets
    assert bool(row["reason"]) != meets
