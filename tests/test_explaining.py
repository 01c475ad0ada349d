"""The effect of each stage of a recipe and on each layer, measured after a search."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from example_run import write_run
from toy_search import OpenedToy, ToyRecipe, offer_toy_device, toy_job

from autocompress import results
from autocompress.contract import Deployable, Device, LayerTimes, manager
from autocompress.devices import layer_times
from autocompress.devices.lock import MachineLock
from autocompress.job import DeviceConfig
from autocompress.opened.job import OpenedJob
from autocompress.recipes import ablation
from autocompress.recipes.choosers import Replay
from autocompress.report.charts.layer_strip import strip
from autocompress.report.charts.recipe_steps import steps
from autocompress.report.page import render
from autocompress.searching.baselinerow import baseline_row
from autocompress.searching.closing import Closing
from autocompress.searching.explaining import Explainer
from autocompress.searching.gates import Trial
from autocompress.searching.measurer import Measurer
from autocompress.searching.run import search


def times_by_size(device: Device, files: Sequence[Deployable], *more: Any) -> list[LayerTimes]:
    """The layers that a profiler finds, with a microsecond for each kilobyte of the file.

    Whether 8 bits are faster depends on the processor.
    """
    found = layer_times(device, files, *more)
    assert found is not None
    assert all(times.layers["layer1.0.conv1"] > 0 for times in found)
    sizes = [file.file.stat().st_size for file in files]
    return [
        replace(times, layers=dict.fromkeys(times.layers, 1e-9 * size))
        for times, size in zip(found, sizes, strict=True)
    ]


@pytest.fixture(scope="module")
def explained(opened: OpenedJob, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of a pruned 8-bit model: costs by a cost model, times of layers by the size of the file."""
    folder = tmp_path_factory.mktemp("run")
    values = untrained(opened)
    candidate = opened.candidate(opened.compose(Replay(values)))
    file = opened.export(candidate, folder / "model.onnx")
    opened.save_artifact(candidate, file, folder / "artifacts" / "3", {})
    row = {"trial": 3, "rung": 0, "recipe": values, "artifact": "artifacts/3", "size_bytes": file.file.stat().st_size}
    row |= {"accuracy": 91.0, "accuracy_drop": 2.5, "latency_ratio": 0.2, "latency": {"ratio_low": 0.1}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("autocompress.opened.layers.layer_times", times_by_size)
        return explainer(opened, folder, 1e6).told(row)


def untrained(opened: OpenedJob) -> dict[str, Any]:
    return {**dict(opened.starting_points())["obs and 8-bit"], "recover.epochs": 0}


def explainer(opened: OpenedJob, folder: Path, seconds: float) -> Explainer:
    measurer = Measurer(manager().device("cost-model:bitops"), DeviceConfig(name="cost-model:bitops"))
    base = {"size_bytes": opened.baseline.size_bytes}
    return Explainer(opened, measurer, MachineLock(folder / "locks"), folder, base, seconds)


@pytest.mark.slow
def test_each_stage_is_a_shortened_recipe(opened: OpenedJob) -> None:
    whole = opened.compose(Replay(dict(opened.starting_points())["obs and 8-bit"]))
    found = dict(ablation.stages(whole))
    assert list(found) == ["channels", "repair", "training", "bits"]
    assert found["bits"] is whole
    assert (found["training"].recover, found["training"].bits) == (whole.recover, {})
    assert found["channels"].prune == found["repair"].prune == whole.prune
    assert (found["channels"].repair["fit"], found["repair"].repair) == ("none", whole.repair)
    assert not found["repair"].recover
    in_float = replace(whole, bits={})
    assert ablation.stages(in_float)[-1] == ("training", in_float)
    assert list(ablation.stages(replace(whole, prune=None, repair={}, recover={}, bits={}))) == []


def test_steps_are_measured_in_the_order_of_the_pipeline(explained: dict[str, Any], opened: OpenedJob) -> None:
    channels, repaired, last = explained["steps"]
    assert explained["missing"] == ""
    assert channels["latency_ratio"] == repaired["latency_ratio"] < 1, "the same structure costs the same"
    assert repaired["accuracy"] != channels["accuracy"], "weights are refitted for the channels that are left"
    assert repaired["accuracy_drop"] == opened.baseline.accuracy - repaired["accuracy"]
    assert (last["accuracy"], last["latency_ratio"], last["latency_ratio_low"]) == (91.0, 0.2, 0.1), (
        "the accuracy of the trial is used"
    )


def test_layers_have_their_changes(explained: dict[str, Any], opened: OpenedJob) -> None:
    layers = {row["layer"]: row for row in explained["layers"]}
    assert layers["conv1.0"]["operator"] == "conv"
    inner = layers["layer1.0.conv1"]
    assert inner["channels"][0] > inner["channels"][1] > 0
    assert inner["params"][0] > inner["params"][1] > 0
    assert (inner["weight_bits"], inner["computes"], inner["became"]) == (8, "integers", "")
    assert layers["layer1.0.conv2"]["channels"][0] == layers["layer1.0.conv2"]["channels"][1]
    assert layers["conv1.0"]["loss"] >= 0
    assert inner["loss"] > 0, "it lost channels"
    before, after = inner["us"]
    assert before > after > 0
    assert sum(row["params"][0] for row in layers.values()) <= opened.baseline.params


def test_no_step_begins_after_the_time_limit(opened: OpenedJob, tmp_path: Path) -> None:
    row = {"trial": 1, "rung": 0, "recipe": untrained(opened), "artifact": "artifacts/1"}
    told = explainer(opened, tmp_path, -1.0).told(row)
    assert (told["steps"], told["missing"]) == ([], "there were -1 s for all steps")
    assert told["layers"] == [], "a missing artifact does not change the run"


def test_the_page_shows_steps_and_layers(explained: dict[str, Any], tmp_path: Path) -> None:
    write_run(tmp_path)
    assert 'id="steps"' not in render(results.read(tmp_path)), "an older run"
    summary = json.loads((tmp_path / "summary.json").read_text())
    crop = {"layers": 2, "weights": 100, "macs": 100, "size_ratio": 0.9, "latency_ratio": 0.95}
    summary |= {"explained": explained, "tap_crop": crop | {"latency_ratio_low": 0.9, "latency_ratio_high": 1.0}}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    run = results.read(tmp_path)
    told = steps(run)
    assert told is not None
    assert [row.name for row in told.rows] == ["Tap crop", "Channels", "Repair", "Bits"]
    assert told.rows[0].change == "0.00"
    assert told.rows[2].factor == "", "repair costs no time"
    assert told.rows[3].change == "−2.50"
    for row in told.rows:
        assert row.cost_bar.left + row.cost_bar.width <= 100.6
    layers = strip(run)
    assert layers is not None
    assert str(layers.widths).count('class="kept int8"') == len(explained["layers"])
    assert layers.slowest.startswith("It takes the most time in ")
    page = render(run)
    assert len(re.findall(r"<tr><th scope=\"row\">layer1.0.conv1</th>", page)) == 1
    assert "after one more step of its recipe" in page


def test_layers_without_times_and_in_float_are_distinguished() -> None:
    layer = {"group": "stem", "operator": "conv", "became": "", "channels": [8, 8], "params": [9, 9], "macs": [1, 1]}
    rows = [
        {**layer, "layer": "<a>", "weight_bits": None, "activation_bits": None, "computes": "float", "us": None},
        {**layer, "layer": "b", "weight_bits": 2, "activation_bits": 8, "computes": "integers", "us": None},
        {**layer, "layer": "c", "weight_bits": 8, "activation_bits": 8, "computes": "float", "us": None},
    ]
    run = results.SearchResult.__new__(results.SearchResult)
    object.__setattr__(run, "summary", {"explained": {"trial": 1, "layers": rows}})
    found = strip(run)
    assert found is not None
    assert [row.bits for row in found.rows] == ["float", "W2A8", "float, int8 weights"]
    assert (str(found.times), found.slowest) == ("", "")
    assert "<a>" not in str(found.widths)
    assert str(found.widths).count("kept in-float") == 2


def test_a_replaced_layer_is_not_called_unchanged() -> None:
    layer = {"group": "g", "operator": "conv", "became": "", "channels": [8, 8], "params": [9, 9], "macs": [1, 1]}
    layer |= {"weight_bits": None, "activation_bits": None, "computes": "float", "us": [4.0, 1.0]}
    changed = [{"became": "Ghost", "channels": [8, 0]}, {"params": [9, 5]}, {"macs": [4, 1]}]
    rows = [{**layer, **other, "layer": str(number)} for number, other in enumerate(({}, *changed))]
    run = results.SearchResult.__new__(results.SearchResult)
    object.__setattr__(run, "summary", {"explained": {"trial": 1, "layers": rows}})
    found = strip(run)
    assert found is not None
    assert "25% of it is in layers that no step changed" in found.slowest


class StagedToy(OpenedToy):
    """A toy job whose recipes have stages."""

    def stages(self, values: Any, rung: int) -> list[tuple[str, Any]]:
        whole = dict(values)
        return [(ablation.CHANNELS, ToyRecipe({**whole, "toy.bits": 32})), (ablation.BITS, ToyRecipe(whole))]

    def layers(self, artifact: Path) -> list[dict[str, Any]]:
        raise RuntimeError("no profiler here")


def closed(folder: Path, seconds: float, **search: bool) -> dict[str, Any]:
    """The summary of a run with one toy recipe that took this many seconds."""
    offer_toy_device()
    job = toy_job(folder, search=search)
    opened = StagedToy(job, folder / "toy")
    measurer = Measurer.of(job, opened.device)
    base, lock = baseline_row(opened, measurer), MachineLock(folder / "locks")
    recipe = {"toy.width": 0.5, "toy.bits": 8, "toy.lr": 0.1, "toy.fault": "none"}
    row = Trial(opened, measurer, lock, 0, job.folder, base).run(recipe)
    (job.folder / "job.yaml").write_text(job.to_yaml())
    Closing(opened, measurer, job.folder, base, lock).close([row], seconds, "all trials are spent", manager())
    found: dict[str, Any] = json.loads((job.folder / "summary.json").read_text())
    return found


class InterruptedToy(StagedToy):
    """Raises KeyboardInterrupt while its layers are listed."""

    def layers(self, artifact: Path) -> list[dict[str, Any]]:
        raise KeyboardInterrupt


@pytest.mark.usefixtures("search_here")
def test_ctrl_c_while_steps_are_explained_leaves_a_finished_front(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autocompress.searching.explaining.SHARE", 1e3)
    offer_toy_device()
    job = toy_job(tmp_path, budget={"trials": 2}, search={"rungs": False, "tables": False})
    found = search(job, opener=lambda job, *_: InterruptedToy(job, job.folder / "toy"))
    assert not found.is_interrupted
    assert "explained" not in found.summary
    assert found.models["test_accuracy"].notna().all(), "it is measured again, and was scored on the test split"
    assert (found.folder / "report.html").exists()


def test_a_search_explains_the_model_that_it_recommends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autocompress.searching.explaining.SHARE", 0.1)
    told = closed(tmp_path / "a", 100.0)["explained"]
    assert (told["trial"], told["limit"], told["layers"]) == (0, 10.0, [])
    assert [(step["stage"], step["latency_ratio"]) for step in told["steps"]] == [("channels", 0.5), ("bits", 0.2)]
    assert "explained" not in closed(tmp_path / "b", 100.0, explain=False)
    assert "explained" not in closed(tmp_path / "c", 1.0), "a tenth of a second is not enough for a step"
