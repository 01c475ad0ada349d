"""Artifacts: five files that load without autocompress and rebuild the same torch module."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch

import autocompress
from autocompress.errors import UserError
from autocompress.opened.job import OpenedJob
from autocompress.recipes.choosers import Policy


@pytest.fixture(scope="module", params=["float", "ghost", "joint"])
def artifact(request: pytest.FixtureRequest, opened: OpenedJob, tmp_path_factory: pytest.TempPathFactory) -> tuple:
    rules = {
        "float": {},
        "ghost": {"ghost": "default", "recover": "default"},
        "joint": {"ghost": "default", "recover": "default", "bits": "default"},
    }[request.param]
    folder = tmp_path_factory.mktemp("artifact")
    candidate = opened.candidate(opened.compose(Policy(rules)))
    deployable = opened.export(candidate, folder / "scratch.onnx")
    opened.save_artifact(candidate, deployable, folder / "7", {"accuracy": 1.0})
    return candidate, folder / "7"


def test_the_module_is_rebuilt(artifact: tuple) -> None:
    candidate, folder = artifact
    loaded = autocompress.load(folder)
    image = torch.randn(8, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(image), candidate.model(image))
    assert not loaded.training


def test_five_files_and_nothing_else(artifact: tuple) -> None:
    _, folder = artifact
    names = {file.name for file in folder.iterdir()}
    assert names == {"model.onnx", "model.safetensors", "recipe.json", "plan.json", "metrics.json"}
    assert json.loads((folder / "metrics.json").read_text()) == {"accuracy": 1.0}


def test_the_file_says_what_it_expects(artifact: tuple) -> None:
    _, folder = artifact
    model = onnx.load(folder / "model.onnx")
    said = {entry.key: json.loads(entry.value) for entry in model.metadata_props if entry.key in ("mean", "input_size")}
    assert said["input_size"] == [1, 32, 32]
    assert len(said["mean"]) == 1
    assert {opset.domain for opset in model.opset_import} <= {""}, "a stock runtime needs no custom operator"


def test_a_folder_that_is_no_artifact_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not an artifact"):
        autocompress.load(tmp_path)


def test_a_file_is_no_artifact(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    file.write_bytes(b"x")
    with pytest.raises(UserError, match=r"weights\.pth is not an artifact: it is not a folder"):
        autocompress.load(file)


def test_a_missing_method_is_named(artifact: tuple, tmp_path: Path) -> None:
    _, folder = artifact
    plan = json.loads((folder / "plan.json").read_text())
    plan["transforms"] = [{"method": "vanished", "version": "1", "plan": {}}]
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(UserError, match="'vanished', which is not installed"):
        autocompress.load(tmp_path)
