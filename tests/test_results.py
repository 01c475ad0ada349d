"""results/<name>/: written values are read back, and other folders are refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import onnx
import pandas as pd
import pytest
import torch
from example_run import BASELINE, example_rows, write_run
from hypothesis import given, settings
from hypothesis import strategies as st

import autocompress
from autocompress.errors import UserError
from autocompress.results import (
    COLUMNS,
    FRONT_COLUMNS,
    SENSITIVITY_COLUMNS,
    frame,
    read,
    read_trials,
    write_front,
    write_sensitivity,
    write_trials,
)

calm = settings(deadline=None, max_examples=60)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00\r"), max_size=40)
numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False)
trials = st.fixed_dictionaries(
    {
        "trial": st.integers(0, 10**6),
        "status": st.sampled_from(["complete", "infeasible", "failed"]),
        "reason": texts,
        "accuracy": numbers,
        "size_bytes": st.none() | st.integers(0, 2**53),
        "recipe": st.dictionaries(texts, texts | st.integers(-5, 5) | st.booleans() | st.floats(0, 1), max_size=4),
    }
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("results") / "run")


def test_columns_are_an_interface() -> None:
    assert ",".join(COLUMNS) == (
        "trial,status,reason,accuracy,accuracy_drop,agreement,latency_ms,latency_ratio,size_bytes,params,macs,energy_uj,"
        "seconds,rung,recipe,artifact,accuracy_rung0"
    )
    assert FRONT_COLUMNS[: len(COLUMNS)] == COLUMNS
    assert ",".join(FRONT_COLUMNS[len(COLUMNS) :]) == (
        "test_accuracy,test_accuracy_drop,latency_ratio_low,latency_ratio_high,size_ratio,energy_ratio"
    )


def test_a_sensitivity_table_is_read_as_written(tmp_path: Path) -> None:
    write_run(tmp_path)
    assert ",".join(SENSITIVITY_COLUMNS) == "group,role,quantizer,bits,loss,agreement"
    assert tuple(read(tmp_path).sensitivity.columns) == SENSITIVITY_COLUMNS
    assert read(tmp_path).sensitivity.empty
    rows = [
        {"group": "layer1", "role": "weight", "quantizer": "q", "bits": 2, "loss": 0.1 + 0.2, "agreement": 97.65625},
        {"group": "None", "role": "activation", "quantizer": "q", "bits": 8, "loss": 0.0, "agreement": 100.0},
    ]
    write_sensitivity(tmp_path, rows)
    assert read(tmp_path).sensitivity.to_dict("records") == rows
    assert len((tmp_path / "sensitivity.csv").read_text().splitlines()) == 3
    (tmp_path / "sensitivity.csv").write_text("group,role\nlayer1,weight\n")
    with pytest.raises(UserError, match=r"sensitivity\.csv cannot be read"):
        read(tmp_path)


@calm
@given(st.lists(trials, max_size=5))
def test_a_written_run_is_read(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> None:
    folder = tmp_path_factory.mktemp("run")
    write_trials(folder, rows)
    found = read_trials(folder)
    assert tuple(found.columns) == COLUMNS
    assert list(found["trial"]) == [row["trial"] for row in rows]
    assert list(found["recipe"]) == [row["recipe"] for row in rows]
    assert list(found["reason"]) == [row["reason"] for row in rows]
    for accuracy, size, row in zip(found["accuracy"], found["size_bytes"], rows, strict=True):
        assert accuracy == row["accuracy"] or (math.isnan(accuracy) and row["accuracy"] is None)
        assert size is pd.NA if row["size_bytes"] is None else size == row["size_bytes"]


def test_any_reason_can_be_written(tmp_path: Path) -> None:
    reason = 'step 1\rstep 2\r\nEOF\x00 \ud800 "quoted", nan'
    write_trials(tmp_path, [{"trial": 0, "reason": reason}, {"trial": 1, "reason": "nan"}])
    assert list(read_trials(tmp_path)["reason"]) == ['step 1\nstep 2\nEOF ? "quoted", nan', "nan"]


def test_other_users_can_read_the_files(run: Path) -> None:
    table = pd.read_csv(run / "trials.csv")
    assert tuple(table.columns) == COLUMNS
    assert json.loads(table["recipe"][0])["recover.epochs"] in (1, 2)
    assert pd.read_csv(run / "front.csv")["status"][0] == "baseline"


def test_frames_are_typed(run: Path) -> None:
    result = read(run)
    for table in (result.trials, result.front):
        assert str(table["trial"].dtype) == str(table["macs"].dtype) == "Int64"
        assert table["accuracy"].dtype == "float64"
        assert isinstance(table["recipe"].iloc[-1], dict)
    assert pd.isna(result.front["trial"].iloc[0])


def test_a_recipe_keeps_its_order(tmp_path: Path) -> None:
    write_trials(tmp_path, [{"trial": 0, "recipe": {"z.stem": 1, "a.layer1": 2}}])
    assert list(read_trials(tmp_path)["recipe"][0]) == ["z.stem", "a.layer1"]


def test_an_unknown_column_is_refused() -> None:
    with pytest.raises(ValueError, match="latncy"):
        frame([{"trial": 1, "latncy": 2.0}])


def test_the_front_starts_with_the_baseline(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="baseline"):
        write_front(tmp_path, example_rows()[1][1:])
    assert not (tmp_path / "front.csv").exists()


def test_read_gives_the_whole_run(run: Path) -> None:
    result = autocompress.read(run)
    assert result.job["model"] == "resnet18"
    assert len(result.trials) == 60
    assert len(result.models) == len(result.front) - 1 > 2
    assert result.baseline["accuracy"] == BASELINE["accuracy"]
    assert result.summary["cache"] == {"hits": 41, "misses": 73}
    assert "60 trials" in repr(result)


def test_a_running_search_is_read_too(run: Path, tmp_path: Path) -> None:
    for name in ("job.yaml", "trials.csv"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    result = read(tmp_path)
    assert result.front.empty
    assert result.models.empty
    assert result.summary == {}
    assert pd.isna(result.baseline["accuracy"])
    assert "0 models" in repr(result)
    (tmp_path / "trials.csv").unlink()
    assert read(tmp_path).trials.empty


def test_the_artifact_of_a_trial(run: Path) -> None:
    result = read(run)
    trial = int(result.models["trial"].iloc[0])
    assert (result.artifact(trial) / "model.onnx").exists()
    with pytest.raises(UserError, match="trial 999 has no artifact"):
        result.artifact(999)


def test_best_is_the_cheapest_model_within_the_limits(run: Path) -> None:
    result = read(run)
    for limit in (0.0, 0.5, 1.0):
        fitting = result.models[result.models["accuracy_drop"] <= limit]
        assert result.best(accuracy_drop=limit)["latency_ratio"] == fitting["latency_ratio"].min()
    fitting = result.models[result.models["latency_ratio"] <= 0.3]
    assert result.best(latency_ratio=0.3)["accuracy"] == fitting["accuracy"].max()
    assert result.best("size_bytes", accuracy=0)["size_bytes"] == result.models["size_bytes"].min()
    assert result.best()["trial"] == result.best(accuracy_drop=1.0, latency_ratio=0.5)["trial"]


def test_best_accepts_bounds_spelled_as_in_a_job(run: Path) -> None:
    result = read(run)
    asked = result.best(latency="0.2x", accuracy_drop=1.0)
    assert asked["trial"] == result.best(latency_ratio=0.2, accuracy_drop=1.0)["trial"]
    small = result.best(size="20 MB")
    assert small["trial"] == result.best(size_bytes=20e6)["trial"]
    with pytest.raises(UserError, match="latency has no unit: 4"):
        result.best(latency="4")
    with pytest.raises(UserError, match=r"'latensy' cannot be bounded by '0.5x' \(did you mean 'latency'"):
        result.best(latensy="0.5x")


def test_best_names_wrong_limits(run: Path) -> None:
    result = read(run)
    with pytest.raises(UserError, match=r"no model of the front has latency_ratio <= 0\.001 \(the closest value"):
        result.best(latency_ratio=0.001)
    with pytest.raises(UserError, match="did you mean 'latency_ratio'"):
        result.best(latency_ration=0.5)
    with pytest.raises(UserError, match="no column 'recipe' of numbers"):
        result.best(recipe=1)


@pytest.mark.parametrize(
    ("constraints", "wanted"),
    [
        ({"accuracy_drop": 1.5, "latency": "0.5x"}, {"accuracy_drop": 1.5, "latency_ratio": 0.5}),
        ({"latency": "4 ms", "size": "2 MB"}, {"latency_ms": 4.0, "size_bytes": 2e6}),
        ({"size": "0.25x", "macs": {"value": 0.5, "relative": True}}, {"size_bytes": 11_190_528, "macs": 18_670_080}),
        ({"params": {"value": 5e6, "relative": False}, "energy": None}, {"params": 5e6}),
        ({}, {}),
    ],
)
def test_constraints_become_bounds_on_columns(
    tmp_path: Path, constraints: dict[str, Any], wanted: dict[str, float]
) -> None:
    assert read(write_run(tmp_path, constraints=constraints)).limits == pytest.approx(wanted)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, run: Path) -> None:
    with pytest.raises(UserError, match="is not a run: there is no such folder"):
        read(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"is not a run: it has no job.yaml \(give the folder"):
        read(tmp_path)
    with pytest.raises(UserError, match=rf"runs there: .*{run.name}"):
        read(run.parent)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("trials.csv", "trial,status\n1,complete\n", r"trials.csv cannot be read: column 'reason' is missing"),
        ("trials.csv", ",".join(COLUMNS) + "\nx" + "," * (len(COLUMNS) - 1), "trials.csv cannot be read"),
        ("trials.csv", "", "trials.csv cannot be read"),
        ("job.yaml", "a: [", "cannot be read"),
        ("job.yaml", "- a", "must hold keys and values"),
        ("summary.json", "{", "cannot be read"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, file: str, text: str, message: str) -> None:
    write_run(tmp_path)
    (tmp_path / file).write_text(text)
    with pytest.raises(UserError, match=message):
        read(tmp_path)


@pytest.mark.slow
def test_a_run_gives_its_model_and_its_picture(small_run: Path, tmp_path: Path) -> None:
    run = read(small_run)
    best = run.recommended()
    assert best is not None
    shape = onnx.load(run.artifact(0) / "model.onnx").graph.input[0].type.tensor_type.shape
    images = torch.rand(2, *(size.dim_value for size in shape.dim[1:]))
    own = autocompress.load(run.artifact(int(best["trial"])))
    assert torch.equal(run.load()(images), own(images))
    assert run.load(0)(images).shape == own(images).shape
    with pytest.raises(UserError, match="trial 999 has no artifact"):
        run.load(999)
    assert run.plot()._repr_png_().startswith(b"\x89PNG")
    (tmp_path / "job.yaml").write_text("name: empty")
    with pytest.raises(UserError, match="is not over"):
        read(tmp_path).load()
