"""A job with the objective energy.

Adder layers are trained, hardened to integers, and reach the front.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from small_networks import TWO_BLOCKS

from autocompress.contract import Value
from autocompress.devices.lock import MachineLock
from autocompress.job import Job, load_job
from autocompress.opened.job import OpenedJob
from autocompress.recipes.choosers import Replay
from autocompress.results import SearchResult
from autocompress.searching import run
from autocompress.searching.baselinerow import baseline_row
from autocompress.searching.gates import Trial
from autocompress.searching.measurer import Measurer
from autocompress_adder.integers import HardenedAdder2d
from autocompress_adder.layer import AdderConv2d


def energy_job(results: Path, **settings: object) -> Job:
    return load_job(
        settings={
            "model": "test_resnet",
            "model_args": TWO_BLOCKS,
            "data": "digits",
            "baseline": {"epochs": 4},
            "budget": {"epochs": 1, "trials": 3},
            "methods": ["adder", "quantize"],
            "objectives": ["accuracy", "energy"],
            "cost_model": "45nm",
            "device": "cost-model:bitops",  # measuring files of adder layers takes long
            "name": "energy",
            "results": str(results),
            **settings,
        }
    )


@pytest.mark.slow
@pytest.mark.usefixtures("search_here")
def test_the_front_of_an_energy_job_has_adder_layers(cache: Path, tmp_path: Path) -> None:
    del cache
    space = {"bits": {"weight": ["none", "quantize:8"]}, "quantize": {"calibration_images": 64}, "qat": {"epochs": 0}}
    found: SearchResult = run.search(energy_job(tmp_path, space=space, constraints={"accuracy_drop": 100}, workers=1))
    assert set(found.trials["status"]) == {"complete"}, found.trials["reason"].tolist()
    on_front = found.trials[found.trials["trial"].isin(found.models["trial"])]
    with_adders = on_front[[_has_adders(recipe) for recipe in on_front["recipe"]]]
    assert len(with_adders), "no trial of the front has them"
    assert (with_adders["energy_uj"] < found.front.iloc[0]["energy_uj"]).all()


def _has_adders(recipe: dict[str, object]) -> bool:
    return any(name.startswith("adder.operator.") and value == "adder" for name, value in recipe.items())


@pytest.mark.slow
@pytest.mark.parametrize("float_adders", [False, True])
def test_training_in_integers(cache: Path, tmp_path: Path, float_adders: bool) -> None:
    """After a finished schedule, files agree at 4 bits, and with some adder layers in float."""
    del cache
    job = energy_job(tmp_path, name=f"qat{float_adders}")
    opened = OpenedJob.open(job)
    measurer = Measurer.of(job, opened.device)
    names = list(opened.parameters())
    groups = [name.removeprefix("adder.operator.") for name in names if name.startswith("adder.operator.")]
    adders = groups[-1:] if float_adders else groups
    values: dict[str, Value] = {f"adder.operator.{group}": "adder" if group in adders else "none" for group in groups}
    for name in names:
        if name.startswith("bits.weight."):
            in_float = float_adders and name.removeprefix("bits.weight.") in adders
            values[name] = "none" if in_float else "quantize:4"
        elif name.startswith("bits.activation."):
            values[name] = 4
    values |= {"adder.schedule": "l2-to-l1", "recover.epochs": 1, "qat.epochs": 1, "quantize.calibration_images": 64}
    baseline = baseline_row(opened, measurer)
    row = Trial(opened, measurer, MachineLock(tmp_path / "locks"), 0, job.folder, baseline).run(values)
    assert row["status"] == "complete", row["reason"]
    assert row["file_agreement"] >= 0.9
    assert row["accuracy"] > 30, "chance is 10"
    assert row["energy_uj"] < baseline["energy_uj"]
    model = opened.candidate(opened.compose(Replay(values))).model
    layers = [layer for layer in model.modules() if isinstance(layer, AdderConv2d)]
    assert layers
    assert {isinstance(layer, HardenedAdder2d) for layer in layers} == {not float_adders}
