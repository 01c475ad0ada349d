"""Low-bit artifacts in a standard onnxruntime, without autocompress and torch in the process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from patience import patient

from autocompress.data import TensorSplit
from autocompress.opened.job import OpenedJob
from autocompress.recipes.choosers import Replay

STOCK = """
import sys


class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("autocompress", "torch", "timm") or name.startswith("autocompress"):
            raise ImportError(f"{name} is not installed here")


sys.meta_path.insert(0, Guard())
try:
    import autocompress
except ImportError:
    pass
else:
    raise SystemExit("the guard does not guard")

import json

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
said = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
options = onnxruntime.SessionOptions()
for name, value in said["session_config"].items():
    options.add_session_config_entry(name, value)
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
pixels, labels = np.load(sys.argv[2]), np.load(sys.argv[3])
assert list(pixels.shape[1:]) == said["input_size"], said
mean, std = (np.array(said[name], np.float32).reshape(1, -1, 1, 1) for name in ("mean", "std"))
images = (pixels.astype(np.float32) / np.float32(255) - mean) / std
logits = session.run(None, {session.get_inputs()[0].name: images})[0]
found = logits.argmax(1)
assert not [name for name in sys.modules if name.split(".")[0] in ("autocompress", "torch")]
print(json.dumps({"labels": found.tolist(), "accuracy": 100 * float((found == labels).mean()),
                  "names": [said["class_names"][label] for label in found[:3]]}))
"""


def recipe_values(opened: OpenedJob, bits: int) -> dict[str, Any]:
    """The recipe with 8 bits everywhere, and ``bits`` for the weights."""
    values = dict(dict(opened.starting_points())["8-bit alone"])
    return values | {name: f"quantize:{bits}" for name in values if name.startswith("bits.weight.")}


@pytest.fixture(scope="module", params=[4, 2])
def artifact(request: pytest.FixtureRequest, opened: OpenedJob, tmp_path_factory: pytest.TempPathFactory) -> tuple:
    """(bits, the file of the artifact, its accuracy on the test split, its labels here)."""
    folder = tmp_path_factory.mktemp("stock")
    candidate = opened.candidate(opened.compose(Replay(recipe_values(opened, request.param))))
    deployable = opened.export(candidate, folder / "scratch.onnx")
    opened.save_artifact(candidate, deployable, folder / "7", {})
    assert (folder / "7" / "model.onnx").stat().st_size == deployable.file.stat().st_size, "the size in the column"
    accuracy, _ = opened.accuracy(deployable, "test")
    images, _ = next(iter(opened.splits.test.loader(len(opened.splits.test))))
    labels = opened.scorer.predict(deployable, images.numpy()).argmax(1)
    return request.param, folder / "7" / "model.onnx", accuracy, labels.tolist()


def test_a_standard_runtime_gives_the_scored_accuracy(
    artifact: tuple[int, Path, float, list[int]], opened: OpenedJob, tmp_path: Path
) -> None:
    _, file, accuracy, labels = artifact
    split = opened.splits.test
    assert isinstance(split, TensorSplit)
    np.save(tmp_path / "images.npy", split.images.numpy())
    np.save(tmp_path / "labels.npy", split.labels().numpy())
    command = [
        sys.executable,
        "-I",
        "-c",
        STOCK,
        str(file),
        *(str(tmp_path / f"{n}.npy") for n in ("images", "labels")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=patient(120), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["labels"] == labels
    assert said["accuracy"] == pytest.approx(accuracy, abs=1e-9)
    assert len(set(said["labels"])) > 1, "the file predicts several classes, so equal labels are significant"


def test_the_artifact_has_packed_weights(artifact: tuple[int, Path, float, list[int]]) -> None:
    bits, file, _, _ = artifact
    tensors = {tensor.name: tensor for tensor in onnx.load(str(file)).graph.initializer}
    packed = [tensor for name, tensor in tensors.items() if "_packed" in name]
    assert {tensor.data_type for tensor in packed} == {TensorProto.INT4 if bits == 4 else TensorProto.UINT8}
    whole = sum(len(tensor.raw_data) for tensor in tensors.values() if tensor.data_type == TensorProto.INT8)
    assert 8 / bits * sum(len(tensor.raw_data) for tensor in packed) > 10 * whole


def test_the_file_records_the_option_and_when_it_is_needed(artifact: tuple[int, Path, float, list[int]]) -> None:
    """A file may be deployed on another processor than the one on which it was made."""
    said = {entry.key: json.loads(entry.value) for entry in onnx.load(str(artifact[1])).metadata_props}
    assert said["session_config"] == {"session.x64quantprecision": "1"}
    assert "without VNNI" in said["session_config_when"]
