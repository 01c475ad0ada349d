"""Small searches with other tasks than classification, from their data to their report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from autocompress import search
from autocompress.delivery import export_model, infer
from autocompress.errors import UserError
from autocompress.job import DataConfig, load_job
from autocompress.opened.job import OpenedJob
from autocompress.recipes.choosers import Replay
from autocompress.task import Multilabel

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples" / "segmentation"


@pytest.mark.slow
@pytest.mark.usefixtures("search_here")
def test_the_example_of_segmentation_is_compressed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES.parents[2])
    job = yaml.safe_load((EXAMPLES / "job.yaml").read_text())
    short = {"baseline": {**job["baseline"], "epochs": 6}, "budget": {"trials": 2, "epochs": 0}}
    off = dict.fromkeys(("tables", "proposals", "rungs", "placement", "explain"), False)
    found = search(**{**job, **short, "search": off, "results": tmp_path})
    base, models = found.baseline, found.models
    assert base["accuracy"] > 45
    kept = models[models["accuracy_drop"] < 20]
    assert len(kept)
    assert kept["size_bytes"].min() < 0.5 * base["size_bytes"]
    summary = json.loads((found.folder / "summary.json").read_text())
    assert summary["metric"] == "mean IoU"
    assert "validation mean IoU" in (found.folder / "report.html").read_text().lower().replace("iou", "IoU")
    resolved = yaml.safe_load((found.folder / "job.yaml").read_text())
    assert resolved["task"] == f"{EXAMPLES / 'shapes.py'}:Segmentation"
    plan = json.loads((found.artifact(int(models["trial"].iloc[0])) / "plan.json").read_text())
    assert "task" in json.dumps(plan)
    with pytest.raises(UserError, match=r"infer\.py"):
        export_model(found.folder, tmp_path / "out")


def _pictures(folder: Path) -> Path:
    """Squares: a bright one, a large one, both, or none."""
    draw, lines = np.random.default_rng(0), ["image,split,bright,large"]
    for part, count in (("train", 96), ("val", 48), ("test", 16)):
        for number in range(count):
            bright, large = draw.integers(0, 2, 2)
            pixels = draw.normal(60, 20, (16, 16))
            side = 11 if large else 5
            y, x = draw.integers(0, 16 - side, 2)
            pixels[y : y + side, x : x + side] += 120 if bright else 50
            name = f"{part}-{number}.png"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name)
            lines.append(f"{name},{part},{bright},{large}")
    (folder / "labels.csv").write_text("\n".join(lines))
    return folder / "labels.csv"


@pytest.mark.slow
def test_a_multilabel_network_is_compressed_by_its_mean_average_precision(tmp_path: Path) -> None:
    job = load_job(
        model="test_resnet",
        data=f"labels:{_pictures(tmp_path)}",
        task="multilabel",
        baseline={"epochs": 6, "batch_size": 16},
        methods=["obs", "quantize"],
        device="cost-model:bitops",
        name="labels",
    )
    opened = OpenedJob.open(job)
    assert opened.baseline.accuracy > 80
    assert opened.baseline.correct.shape == (48, 4)
    values = dict(opened.starting_points())["obs and 8-bit"]
    candidate = opened.candidate(opened.compose(Replay(values | {"recover.epochs": 1})))
    file = opened.export(candidate, tmp_path / "model.onnx")
    assert opened.agreement(candidate, file).labels > 0.9
    accuracy, marks = opened.accuracy(file, "val")
    assert accuracy > 70
    found = Multilabel().interval(marks, opened.baseline.correct)
    assert found.low < accuracy - opened.baseline.accuracy < found.high
    assert opened.model_accuracy(candidate)[0] == pytest.approx(accuracy, abs=5)
    session, told = infer.open_model(file.file)
    outputs = torch.from_numpy(opened.scorer.predict(file, next(iter(opened.splits.val.loader(8)))[0].numpy()))
    wanted = [own.nonzero().flatten().tolist() for own in Multilabel().prediction(outputs)]
    assert [infer.labels(session, told, tmp_path / f"val-{number}.png") for number in range(8)] == wanted
    save_file(opened.model.state_dict(), tmp_path / "weights.safetensors")
    known = {"checkpoint": tmp_path / "weights.safetensors", "data": DataConfig(val=job.data.val), "methods": None}
    free = job.model_copy(update=known)
    assert "not for the task 'multilabel'" in OpenedJob.dry(free).refused["zskd"][0]
