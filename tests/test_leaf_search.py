"""Trials whose files are slow in a standard runtime.

The torch model is scored, only files of the front are scored completely, and the results say so.
Energy is computed by a cost model that knows the operations of the plugin.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from patience import slowness
from small_networks import TWO_BLOCKS
from toy_leaf import SlowSubstitute, ToyPlugin

from autocompress import results
from autocompress.contract import Deployable, Manager
from autocompress.devices import OnnxRuntimeCpu, measure
from autocompress.devices.lock import MachineLock
from autocompress.devices.measuring import PATIENCE
from autocompress.job import DeviceConfig, Job, load_job
from autocompress.opened.job import OpenedJob
from autocompress.searching.baselinerow import baseline_row
from autocompress.searching.closing import Closing, save_trials
from autocompress.searching.gates import Trial
from autocompress.searching.measurer import Measurer

REASON = SlowSubstitute.layers[0].slow_in_file
QUICK = {"distance.layers": "all", "recover.epochs": 0}


@pytest.fixture(scope="module")
def job_and_plugins(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, OpenedJob, Manager]:
    del cache
    method = SlowSubstitute()
    method.most = 1
    plugins = Manager()
    plugins.register(ToyPlugin(method), "toy-leaf")
    job = load_job(
        model="test_resnet",
        model_args=TWO_BLOCKS,
        data="digits",
        baseline={"epochs": 2},
        budget={"epochs": 1},
        name="leaves",
        results=tmp_path_factory.mktemp("runs"),
        methods=["distance", "quantize"],
        objectives=["accuracy", "energy"],
        cost_model="45nm",
    )
    return job, OpenedJob.open(job, plugins=plugins), plugins


class Counting:
    """An opened job that notes which files are scored on which split."""

    def __init__(self, opened: OpenedJob) -> None:
        self.opened, self.scored = opened, []  # type: tuple[OpenedJob, list[tuple[str, str]]]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.opened, name)

    def accuracy(self, deployable: Deployable, split: Any, pause: Any = None) -> tuple[float, np.ndarray]:
        self.scored.append((deployable.file.parent.name, split))
        return self.opened.accuracy(deployable, split, pause)


@pytest.mark.slow
def test_a_slow_file_is_scored_by_torch_and_completely_only_on_the_front(
    job_and_plugins: tuple[Job, OpenedJob, Manager], tmp_path: Path
) -> None:
    job, inner, plugins = job_and_plugins
    opened = Counting(inner)
    measurer = Measurer.of(job, opened.device, plugins)
    baseline, lock = baseline_row(opened, measurer), MachineLock(tmp_path / "locks")
    points = dict(inner.starting_points())
    uncompressed = points["uncompressed"]
    slow = {**uncompressed, **QUICK}
    four = dict(points["8-bit alone"]) | QUICK
    rows = [
        Trial(opened, measurer, lock, number, job.folder, baseline).run(values)
        for number, values in enumerate((uncompressed, slow, four))
    ]
    assert [row["status"] for row in rows] == ["complete"] * 3, [row["reason"] for row in rows]
    assert [name for name, split in opened.scored if split == "val"] == [opened.scored[0][0]], (
        "only the file of the fast model"
    )
    assert [row["accuracy_of"] for row in rows] == ["file", "torch model", "torch model"]
    assert "note" not in rows[0]
    assert rows[1]["note"] == rows[2]["note"] == REASON
    assert all(row["file_agreement"] >= 0.8 for row in rows)
    metrics = json.loads((job.folder / "artifacts" / "1" / "metrics.json").read_text())
    assert (metrics["accuracy_of"], metrics["note"]) == ("torch model", REASON)
    # Energy: an addition replaces a multiplication with its addition, and no multiply-adds are
    # counted.
    assert rows[0]["energy_uj"] == baseline["energy_uj"]
    assert rows[1]["energy_uj"] < baseline["energy_uj"]
    assert rows[2]["energy_uj"] < rows[1]["energy_uj"] / 4
    assert rows[1]["macs"] < rows[0]["macs"] == baseline["macs"]
    assert rows[1]["latency"]["environment"]["energy"]["cost_model"] == "cost-model:45nm"

    (job.folder / "job.yaml").write_text(job.to_yaml())
    save_trials(job.folder, rows)
    opened.scored.clear()
    Closing(opened, measurer, job.folder, baseline).close(rows, 1.5, "all trials are spent", plugins)
    found = results.read(job.folder)
    on_front = {str(trial) for trial in found.models["trial"]}
    tested = {name for name, split in opened.scored if split == "test"}
    assert {name for name in tested if name in ("1", "2")} == on_front & {"1", "2"}
    assert not [name for name, split in opened.scored if split == "val"]
    assert found.models["test_accuracy"].notna().all()
    assert found.front.iloc[0]["energy_ratio"] == 1
    whole = found.models[found.models["trial"] == 0]
    assert whole.empty or whole.iloc[0]["energy_ratio"] == 1


def loop_file(path: Path, repeats: int) -> Deployable:
    """A model with this number of matrix products, one after another."""
    size = 512
    rng = np.random.default_rng(0)
    weights = (rng.standard_normal((size, size)) / 23).astype(np.float32)
    square = helper.make_tensor("square", TensorProto.FLOAT, (size, size), weights.tobytes(), raw=True)
    nodes = [helper.make_node("Reshape", ["image", "shape"], ["v0"])]
    nodes += [helper.make_node("MatMul", [f"v{i}", "square"], [f"v{i + 1}"]) for i in range(repeats)]
    shape = helper.make_tensor("shape", TensorProto.INT64, (2,), [size, size])
    graph = helper.make_graph(
        nodes,
        "loop",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 1, size, size))],
        [helper.make_tensor_value_info(f"v{repeats}", TensorProto.FLOAT, (size, size))],
        [square, shape],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save_model(model, str(path))
    return Deployable(path, (1, size, size))


@pytest.mark.timing
def test_a_measurement_ends_in_time_even_if_the_file_is_slow(tmp_path: Path) -> None:
    quick = loop_file(tmp_path / "quick.onnx", 1)
    device, config = OnnxRuntimeCpu(), DeviceConfig(name="onnxruntime-cpu", threads=1)
    slow = loop_file(
        tmp_path / "slow.onnx", round(1000 / measure(device, quick, quick, config, seconds=0.1).latency_ms)
    )
    started = time.perf_counter()
    found = measure(device, slow, quick, config, seconds=0.1)
    taken, one = time.perf_counter() - started, found.latency_ms / 1e3
    assert one > 0.5, "slow enough to tell"
    assert taken < PATIENCE + 3 * one + 2 * slowness()
    assert found.latency_ratio > 50
    assert found.noisy == (found.environment["pairs"] < 6)
