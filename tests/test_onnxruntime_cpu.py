"""The device: interleaved latency of real files, and predictions in the runtime."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autocompress.contract import Deployable, Device
from autocompress.devices import OnnxRuntimeCpu, measure, sessions
from autocompress.devices.lock import MachineLock
from autocompress.devices.timing import Pairs, median_interval, time_pairs
from autocompress.errors import TrialFailed
from autocompress.job import DeviceConfig
from autocompress.processors import usable_processors
from autocompress.scoring import Scorer

SIZE = (3, 16, 16)


def save_network(path: Path, width: int = 16, layers: int = 3, batch: int | str = "batch") -> Deployable:
    """Convolutions with ``width`` channels, pooling, and ten logits."""
    random = np.random.default_rng(0)
    nodes, weights, last, channels = [], [], "image", SIZE[0]
    for i in range(layers):
        weight = random.normal(0, 0.2, (width, channels, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{i}"))
        nodes.append(helper.make_node("Conv", [last, f"w{i}"], [f"c{i}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
        last, channels = f"r{i}", width
    weights.append(numpy_helper.from_array(random.normal(0, 0.2, (width, 10)).astype(np.float32), "head"))
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
    nodes.append(helper.make_node("MatMul", ["flat", "head"], ["logits"]))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, *SIZE])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 10])
    graph = helper.make_graph(nodes, "network", [image], [logits], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return Deployable(path, SIZE)


@pytest.fixture(scope="module")
def device() -> Device:
    return OnnxRuntimeCpu()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Deployable:
    return save_network(tmp_path_factory.mktemp("small") / "model.onnx", width=24)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Deployable:
    return save_network(tmp_path_factory.mktemp("large") / "model.onnx", width=48)


@pytest.mark.timing
def test_a_file_costs_as_much_as_its_copy(device: Device, small: Deployable, tmp_path: Path) -> None:
    copy = save_network(tmp_path / "copy.onnx", width=24)
    result = measure(device, copy, small, DeviceConfig(), seconds=1.0)
    assert 0.8 < result.latency_ratio < 1.25
    assert result.ratio_low <= result.latency_ratio <= result.ratio_high
    assert result.latency_ms > 0
    assert result.energy_uj is None


@pytest.mark.timing
def test_four_times_the_work_costs_more(device: Device, small: Deployable, large: Deployable) -> None:
    up = measure(device, large, small, DeviceConfig(), seconds=1.0)
    down = measure(device, small, large, DeviceConfig(), seconds=1.0)
    assert up.latency_ratio > 1.5
    assert up.latency_ms > up.baseline_ms
    assert down.latency_ratio < 1 / 1.5
    assert up.ratio_low > 1.2


@pytest.mark.timing
def test_a_batch_costs_more_than_an_image(device: Device, small: Deployable) -> None:
    one = measure(device, small, small, DeviceConfig(), seconds=0.4)
    eight = measure(device, small, small, DeviceConfig(batch=8), seconds=0.4)
    assert eight.latency_ms > 2.5 * one.latency_ms


def test_a_measurement_records_how_it_was_made(device: Device, small: Deployable) -> None:
    result = measure(device, small, small, DeviceConfig(), seconds=0.1)
    facts = result.environment
    assert facts["threads"] == 1
    assert facts["batch"] == 1
    assert facts["runtime"].startswith("onnxruntime ")
    assert facts["processor"]
    assert facts["pairs"] >= 6  # an interval has its pairs even if the time is short
    assert facts["session_options"]["provider"] == "CPUExecutionProvider"
    json.dumps(asdict(result))


def test_a_measurement_waits_for_its_turn(device: Device, small: Deployable) -> None:
    """A lock excludes threads of one process too, so the measurement waits for the other thread."""
    import threading

    held, free = threading.Event(), threading.Event()

    def hold() -> None:
        with MachineLock().shared():
            held.set()
            free.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    began = time.perf_counter()
    threading.Timer(0.5, free.set).start()
    measure(device, small, small, DeviceConfig(), seconds=0.1)
    assert time.perf_counter() - began > 0.45
    thread.join()


@pytest.mark.parametrize("batch", ["batch", 1, 50])
def test_predictions_do_not_depend_on_the_batches(tmp_path: Path, batch: int | str) -> None:
    file = save_network(tmp_path / "model.onnx", batch=batch)
    images = np.random.default_rng(1).standard_normal((130, *SIZE), dtype=np.float32)
    logits = Scorer().predict(file, images)
    assert logits.shape == (130, 10)
    assert logits.dtype == np.float32
    one = Scorer().predict(file, images[77:78])
    np.testing.assert_allclose(one[0], logits[77], rtol=1e-4, atol=1e-5)
    assert Scorer().predict(file, images[:0]).shape == (0, 10)


def test_a_changed_file_is_loaded_again(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    images = np.ones((2, *SIZE), np.float32)
    before = Scorer().predict(save_network(path, width=8), images)
    after = Scorer().predict(save_network(path, width=12), images)
    assert not np.allclose(before, after)


def test_the_number_of_stored_sessions_is_limited(small: Deployable, tmp_path: Path) -> None:
    first = sessions.session(small.file, 1)
    assert sessions.session(small.file, 1) is first
    for i in range(sessions.KEPT):
        sessions.session(save_network(tmp_path / f"{i}.onnx", width=4).file, 1)
    assert sessions.session(small.file, 1) is not first


def test_a_file_that_cannot_be_loaded_is_named(device: Device, small: Deployable, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    with pytest.raises(TrialFailed, match=r"broken\.onnx"):
        measure(device, Deployable(broken, SIZE), small, DeviceConfig())
    broken.write_bytes(b"not a model")
    with pytest.raises(TrialFailed, match=r"broken\.onnx"):
        Scorer().predict(Deployable(broken, SIZE), np.zeros((1, *SIZE), np.float32))


def test_more_threads_than_processors_are_refused(device: Device) -> None:
    assert device.check(DeviceConfig()) == []
    assert "processors" in device.check(DeviceConfig(threads=usable_processors() + 1))[0]


def test_one_slow_block_does_not_change_the_median() -> None:
    values = [0.5] * 39 + [7.0]
    assert median_interval(values) == (0.5, 0.5, 0.5)


def test_the_interval_of_a_median_has_its_coverage() -> None:
    random = np.random.default_rng(0)
    for count in (6, 7, 20, 41):
        samples = np.exp(random.standard_normal((2000, count)))  # skewed; its median is 1
        hits = sum(low <= 1.0 <= high for _, low, high in map(median_interval, samples))
        assert 0.94 < hits / 2000 <= 1.0
    assert median_interval([1.0, 2.0, 3.0]) == (2.0, 1.0, 3.0)


@pytest.mark.timing
def test_blocks_alternate_and_end_in_time() -> None:
    order: list[str] = []

    def work(name: str, seconds: float) -> None:
        order.append(name)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass

    pairs = Pairs()
    began = time.perf_counter()
    time_pairs(lambda: work("a", 0.002), lambda: work("b", 0.004), pairs, 0.5)
    assert time.perf_counter() - began < 3.0  # 0.5 s was requested
    assert len(pairs.first) == len(pairs.second) >= 3
    assert np.median(pairs.ratios) < 0.85
    turns = [name for name, before in zip(order, ["", *order], strict=False) if name != before]
    assert set(turns) == {"a", "b"}
    assert turns[:4] == ["a", "b", "a", "b"]  # a b, b a, a b: the first of each pair alternates


def test_options_reach_the_session_and_a_missing_provider_is_named(tmp_path: Path) -> None:
    model = save_network(tmp_path / "model.onnx")
    plain = DeviceConfig(options={"graph": "none", "provider_options": {}})
    OnnxRuntimeCpu().open(model, np.zeros((1, *SIZE), np.float32), plain)()
    told = OnnxRuntimeCpu().environment(plain)["session_options"]
    assert (told["graph_optimization"], told["provider"]) == ("none", "CPUExecutionProvider")
    assert "provider_options" not in OnnxRuntimeCpu().environment(DeviceConfig())["session_options"]
    assert OnnxRuntimeCpu().layer_times([model], ["head"], plain) is None
    missing = DeviceConfig(options={"provider": "NoSuchProvider"})
    (reason,) = OnnxRuntimeCpu().check(missing)
    assert reason.startswith("ONNX Runtime has no provider 'NoSuchProvider' here; it has ")
    assert not OnnxRuntimeCpu().is_in_thread(missing)
