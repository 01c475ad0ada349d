"""Runs the job and all commands of the section "Your own data" of docs/data.md.

The folder and the network are small.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from cli_here import Commands
from PIL import Image
from safetensors.torch import save_file
from small_networks import TWO_BLOCKS

from autocompress import data
from autocompress.job import DataConfig
from autocompress.training import TrainSettings, train

PAGE = (Path(__file__).parent.parent / "docs" / "data.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## Your own data")[2].partition("\n## ")[0]
SMALLER = {
    "model": "test_resnet",
    "methods": ["magnitude", "quantize"],
    "device": "cost-model:bitops",
    "budget": {"trials": 2, "epochs": 0.25},
    "search": {"tables": False, "rungs": False},
    "constraints": {"accuracy_drop": 60.0, "latency": "0.9x"},
    "workers": 1,
}
"""Keys of the job that the test changes."""


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Photographs of cats and dogs, one of them broken, and weights that were trained on them."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(60):
            size = (int(draw.integers(40, 60)), int(draw.integers(40, 60)), 3)
            pixels = np.clip(draw.normal(90 + 80 * label, 40, size), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.jpg")
    split = data.load(DataConfig(train=f"folder:{tmp_path / 'photos'}"), input_size=32).train
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=2, **TWO_BLOCKS)
    train(model, split, TrainSettings(epochs=6, batch_size=16))
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    (tmp_path / "photos" / "dog" / "7.jpg").write_bytes(b"no picture")
    return tmp_path / "photos"


@pytest.mark.slow
@pytest.mark.usefixtures("search_here")
def test_every_command_of_the_section(photos: Path, commands: Commands) -> None:
    (text,) = re.findall(r"```yaml\n(# photos\.yaml\n.*?)```", SECTION, flags=re.DOTALL)
    job = yaml.safe_load(text) | SMALLER
    job["data"] |= {"val_images": 8, "skip_unreadable": 0.2}
    job["model_args"] = {"img_size": 32, **TWO_BLOCKS}
    Path("photos.yaml").write_text(yaml.safe_dump(job))
    lines = re.findall(r"^    ((?:autocompress|python) .*)$", SECTION, flags=re.MULTILINE)
    assert len(lines) == 5
    for line in lines:
        program, *arguments = shlex.split(line)
        if program == "autocompress":
            commands(*arguments)
        else:
            done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            assert re.search(r"cat|dog", done.stdout)
    assert (Path("model") / "model.onnx").is_file()
    assert "dog/7.jpg cannot be read" in (Path("results") / "photos" / "report.md").read_text()
