"""Exporting a model: the content of the folder, its script without this package, and refusals."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from cli_here import Commands
from patience import patient
from PIL import Image

import autocompress
from autocompress import data, models
from autocompress.data import TensorSplit
from autocompress.delivery import export_model
from autocompress.errors import UserError
from autocompress.job import load_job
from autocompress.report.markdown import escaped, fenced, plain, table
from autocompress.results import write_trials

FILES = ("README.md", "infer.py", "model.onnx", "preprocessing.json")
ALONE = """
import runpy, sys
for name in ("autocompress", "torch", "timm", "onnx", "pandas", "sklearn"):
    sys.modules[name] = None  # importing it fails
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def alone(script: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs the script in an environment with little more than onnxruntime, numpy and Pillow."""
    command = [sys.executable, "-I", "-c", ALONE, str(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=patient(120))


@pytest.fixture(scope="module")
def exported(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    assert export_model(small_run, folder, images=24).check.equal == 24
    return folder


@pytest.fixture
def copied(small_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(small_run, tmp_path / "run")
    return tmp_path / "run"


def edit_job(run: Path, **changes: Any) -> None:
    job = yaml.safe_load((run / "job.yaml").read_text()) | changes
    (run / "job.yaml").write_text(yaml.safe_dump(job))


def write_pictures(run: Path, folder: Path) -> int:
    """Writes the validation images into class folders; returns their number."""
    job = load_job(run / "job.yaml")
    split = data.load(job.data, **models.preprocessing(job), has_weights=True).val
    assert isinstance(split, TensorSplit)
    for number, (image, label) in enumerate(zip(split.images, split.labels(), strict=True)):
        place = folder / split.info.class_names[int(label)]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(place / f"{number}.png")
    return len(split)


def test_the_recommended_model_is_written(exported: Path, small_run: Path) -> None:
    assert tuple(sorted(path.name for path in exported.iterdir())) == FILES
    best = autocompress.read(small_run).recommended()
    assert best is not None
    assert best["trial"] == 1
    assert (exported / "model.onnx").read_bytes() == (small_run / best["artifact"] / "model.onnx").read_bytes()
    told = json.loads((exported / "preprocessing.json").read_text())
    assert told["input_size"] == [1, 32, 32]
    assert len(told["preprocessing"]) > 3


def test_the_script_alone_reproduces_the_reported_accuracy(exported: Path, small_run: Path, tmp_path: Path) -> None:
    count = write_pictures(small_run, tmp_path / "pictures")
    done = alone(exported / "infer.py", "--json", "--accuracy", tmp_path / "pictures")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    row = autocompress.read(small_run).models.set_index("trial").loc[1]
    assert told["pictures"] == count
    assert told["accuracy"] == pytest.approx(row["accuracy"], abs=100 / count + 1e-9)


def test_the_script_names_the_class_of_a_picture(exported: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "black.png")
    done = alone(exported / "infer.py", tmp_path / "black.png")
    name, _, label = done.stdout.strip().rpartition(": ")
    assert name == str(tmp_path / "black.png")
    assert label in json.loads((exported / "preprocessing.json").read_text())["class_names"]


def test_the_script_gives_one_sentence_for_unreadable_files(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "folder" / "no class").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    for arguments, said in (
        ([tmp_path / "text.png"], "cannot identify image file"),
        ([tmp_path / "missing.png"], f"error: there is no file {tmp_path / 'missing.png'}"),
        ([tmp_path / "empty"], f"error: {tmp_path / 'empty'} is no file"),
        (["--accuracy", tmp_path / "text.png"], f"error: {tmp_path / 'text.png'} is no folder"),
        (["--accuracy", tmp_path / "folder"], "'no class' in"),
        (["--accuracy", tmp_path / "empty"], "holds no folders with pictures"),
    ):
        done = alone(exported / "infer.py", *arguments)
        assert done.returncode == 2
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_the_card_has_the_figures(exported: Path, small_run: Path) -> None:
    card = (exported / "README.md").read_text()
    row = autocompress.read(small_run).models.set_index("trial").loc[1]
    for text in (
        "0.50×",
        "0.47× to 0.53×",
        f"{row['accuracy']:.2f} %",
        "24 of 24 validation images",
        "crop the centre",
    ):
        assert text in card
    assert '"prune.method": "obs"' in card, "the whole recipe"
    assert "model: test_resnet" in card, "the job"


def test_weights_and_program_are_written_on_request(small_run: Path, tmp_path: Path) -> None:
    delivered = export_model(small_run, tmp_path / "all", 0, pt2=True, safetensors=True, images=0)
    assert delivered.trial == 0
    assert set(delivered.files) == {*FILES, "model.pt2", "model.safetensors", "plan.json", "recipe.json"}
    image = torch.rand(1, 1, 32, 32)
    program = torch.export.load(tmp_path / "all" / "model.pt2").module()
    with torch.no_grad():
        expected = autocompress.load(tmp_path / "all")(image)
        assert torch.allclose(program(image), expected, atol=1e-5)
    assert "The script was not tried" in (tmp_path / "all" / "README.md").read_text()


def test_without_the_data_the_model_is_tried_on_noise(copied: Path, tmp_path: Path) -> None:
    edit_job(copied, data=f"folder:{tmp_path / 'gone'}")
    found = export_model(copied, tmp_path / "model").check
    assert found is not None
    assert (found.of, found.pictures, found.equal, found.accuracy) == ("pictures of noise", 16, 16, None)


def test_a_script_with_other_labels_is_not_written(copied: Path, tmp_path: Path) -> None:
    file = copied / "artifacts" / "1" / "model.onnx"
    model = onnx.load(file)
    for entry in model.metadata_props:
        if entry.key == "mean":
            entry.value = "[-3.0]"  # another file than the one of the search
    onnx.save(model, file)
    with pytest.raises(UserError, match="differently from the search"):
        export_model(copied, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_models_that_cannot_be_exported_give_one_sentence(copied: Path, tmp_path: Path, commands: Commands) -> None:
    to = tmp_path / "model"
    assert "trial 7 has no model in" in (said := commands("export", copied, "--trial", "7", "--to", to, code=2))
    assert "trials with a model: 0, 1" in said
    assert "is not a run" in commands("export", tmp_path, "--to", to, code=2)
    assert "is there already" in commands("export", copied, "--to", copied, code=2)
    (copied / "artifacts" / "1" / "model.onnx").write_bytes(b"no model")
    assert "cannot be loaded" in commands("export", copied, "--to", to, code=2)
    (copied / "artifacts" / "1" / "model.onnx").unlink()
    assert "it has no model.onnx" in commands("export", copied, "--to", to, code=2)
    edit_job(copied, constraints={"latency": "0.1x"})
    assert "choose one with --trial: 0, 1" in commands("export", copied, "--to", to, code=2)
    assert "meets the constraints" in commands("export", copied, "--to", to, code=2)
    (copied / "front.csv").unlink()
    said = commands("export", copied, "--to", to, code=2)
    assert "is not over, so no model is recommended yet" in said
    assert "choose one with --trial: 0, 1" in said
    (copied / "trials.csv").unlink()
    assert "is not over" in commands("export", copied, "--to", to, code=2), "an empty run"
    write_trials(copied, [{"trial": 0, "status": "failed", "reason": "no"}])
    assert "every trial of" in commands("export", copied, "--to", to, code=2)
    assert not to.exists()


def test_a_model_of_a_running_search_can_be_exported(copied: Path, tmp_path: Path, commands: Commands) -> None:
    for name in ("front.csv", "summary.json"):
        (copied / name).unlink()
    out = commands("export", copied, "--trial", "0", "--to", tmp_path / "model", "--check-images", "8")
    assert "infer.py labels 8 of 8 validation images as the search did" in out
    assert "trial 0 of" in (tmp_path / "model" / "README.md").read_text()


HOSTILE = "<script>alert(1)</script>\n\n# heading | `x` \u202e" + 10_000 * "a"


def test_special_characters_in_names_stay_text(copied: Path, tmp_path: Path) -> None:
    edit_job(copied, name=HOSTILE)
    export_model(copied, tmp_path / "model", images=0)
    card = (tmp_path / "model" / "README.md").read_text().partition("## The job")[0]
    assert "<script>" not in card
    assert "&lt;script&gt;" in card
    assert "\u202e" not in card
    assert max(map(len, card.splitlines())) < 1000
    assert [line for line in card.splitlines() if line.startswith("# ")] == [card.splitlines()[0]]


def test_markdown_shows_any_text_unchanged() -> None:
    assert escaped("a|b\n<i>*c*</i>") == r"a\|b &lt;i&gt;\*c\*&lt;/i&gt;"
    assert plain("\x1b[31mred\u202e\r\n", 200) == "[31mred"
    assert len(plain("x" * 1000)) == 200
    assert table(["a", "b"], [["x|y", 1]]) == "| a | b |\n| :-- | --: |\n| x\\|y | 1 |\n"
    assert fenced("```\nx").splitlines()[0] == "````"
