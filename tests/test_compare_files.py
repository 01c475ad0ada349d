"""Comparing ONNX files: any file with one input of images is accepted, all others are errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli_here import Commands
from onnx import TensorProto, helper, numpy_helper

import autocompress
from autocompress.errors import UserError

SIZES: list[int | str] = ["n", 3, 16, 16]


def write_model(
    file: Path,
    shape: list[int | str] = SIZES,
    *,
    channels: int = 8,
    kind: int = TensorProto.FLOAT,
    inputs: int = 1,
    domain: str = "",
    metadata: dict[str, str] | None = None,
) -> Path:
    """A file of another tool: a convolution (for other types: no layer) and a mean."""
    names = [f"x{number}" for number in range(inputs)]
    weight = numpy_helper.from_array(np.ones((channels, 3, 3, 3), np.float32), "w")
    if kind == TensorProto.FLOAT and len(shape) == 4:
        nodes = [helper.make_node("Conv", ["x0", "w"], ["y"]), helper.make_node("GlobalAveragePool", ["y"], ["z"])]
        nodes[1].domain = domain
    else:
        nodes, weight = [helper.make_node("Identity", ["x0"], ["z"])], None
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, kind, shape) for name in names],
        [helper.make_tensor_value_info("z", kind, None)],
        [] if weight is None else [weight],
    )
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    helper.set_model_props(model, metadata or {})
    onnx.save(model, file)
    return file


def test_files_of_other_tools_are_compared(tmp_path: Path) -> None:
    small = write_model(tmp_path / "small.onnx", channels=2)
    large = write_model(tmp_path / "large.onnx", channels=128)
    found = autocompress.compare_files(large, small, large, seconds=0.2)
    assert [one.file for one in found] == [small, large]
    ratios = [one.measurement.latency_ratio for one in found]
    assert ratios[0] < ratios[1], "a 64th of the work is less than all of it"
    assert found[0].measurement.ratio_low < ratios[0] < found[0].measurement.ratio_high


def test_missing_properties_are_read_from_the_metadata_or_requested(tmp_path: Path) -> None:
    free = write_model(tmp_path / "free.onnx", ["n", 3, "h", "w"])
    with pytest.raises(UserError, match=r"takes images of any size \(give --input-size PIXELS\)"):
        autocompress.compare_files(free, free)
    assert autocompress.compare_files(free, free, input_size=16, seconds=0.1)
    told = write_model(tmp_path / "told.onnx", ["n", 3, "h", "w"], metadata={"input_size": "[3, 24, 24]"})
    assert autocompress.compare_files(told, told, seconds=0.1)
    odd = write_model(tmp_path / "odd.onnx", ["n", 3, "h", "w"], metadata={"input_size": "not JSON"})
    with pytest.raises(UserError, match="takes images of any size"):
        autocompress.compare_files(odd, odd)


def test_unsuitable_files_are_refused_in_one_sentence(tmp_path: Path, commands: Commands) -> None:
    good = write_model(tmp_path / "good.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    cases = {
        tmp_path / "missing.onnx": "there is no file",
        tmp_path: "there is no file",
        tmp_path / "text.onnx": "cannot load",
        write_model(tmp_path / "ids.onnx", ["n", 12], kind=TensorProto.INT64): "takes no images: its input is x0",
        write_model(tmp_path / "half.onnx", kind=TensorProto.FLOAT16): "takes no images",
        write_model(tmp_path / "two.onnx", inputs=2): "x1 tensor(float)",
        write_model(tmp_path / "own.onnx", domain="acme.kernels"): "cannot load",
        write_model(tmp_path / "colours.onnx", ["n", "c", 16, 16]): "does not say how many channels",
        write_model(tmp_path / "eight.onnx", [8, 3, 16, 16]): "runs 8 images at a time (give --batch 8)",
    }
    for file, said in cases.items():
        assert said in commands("measure", good, file, code=2), file
        assert said in commands("measure", file, good, code=2), file
    assert "pixels only" in commands("measure", good, good, "--input-size", "32", code=2)


def test_devices_that_cannot_run_files_are_refused(tmp_path: Path, commands: Commands) -> None:
    good = write_model(tmp_path / "good.onnx")
    for device in ("torch-eager", "cost-model:bitops"):
        assert "runs no ONNX files" in commands("measure", good, good, "--device", device, code=2)
    assert "onnxruntime-cpu" in commands("measure", good, good, "--device", "onnxruntime-gpu", code=2)
    with pytest.raises(UserError, match="one file alone"):
        autocompress.compare_files(good)
    assert "processors" in commands("measure", good, good, "--threads", "4096", code=2)


def test_the_command_prints_a_table_or_json(tmp_path: Path, commands: Commands) -> None:
    one, other = write_model(tmp_path / "one.onnx"), write_model(tmp_path / "other.onnx", channels=64)
    out = commands("measure", one, other, "--seconds", "0.1")
    assert str(one) in out
    assert str(other) in out
    assert "95 % interval" in out
    told = json.loads(commands("measure", one, other, "--seconds", "0.1", "--json"))
    assert told["reference"] == str(one)
    (row,) = told["files"]
    assert row["latency_ratio_low"] <= row["latency_ratio"] <= row["latency_ratio_high"]
    assert row["environment"]["runtime"].startswith("onnxruntime")
