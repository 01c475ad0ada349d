"""Measures training steps, repair and scoring on a GPU, and whether the loader keeps it busy.

Runs on a bare machine with torch, timm and onnxruntime, without Ray, in a few minutes. Weights are
random; images are coloured noise, written as JPEG files for the loader.

- ``training``: milliseconds of a training step, by precision and memory format.
- ``repair``: seconds for removing half of the channels and refitting what is left, for the first
  candidate (which computes moments and orders) and for a later one.
- ``scoring``: images a second of the torch model, and the share of labels on which its ONNX file
agrees.
- ``loading``: images a second of trainings from files, and the share of the time that the GPU is
  busy: the time of the same steps on one batch that is already there.

    python benchmarks/gpu.py [--device cuda] [--model resnet50] [--size 224] [--workers 8]
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from autocompress import data, models
from autocompress.compression.pipeline import Pipeline
from autocompress.compute import Compute, compute_of
from autocompress.contract import Deployable, TransferSet, manager
from autocompress.data import DataInfo, TensorSplit
from autocompress.devices.machine import machine
from autocompress.export import export
from autocompress.files import write_json
from autocompress.job import ComputeConfig, DataConfig, Limits
from autocompress.recipes.choosers import Replay
from autocompress.recipes.jobspace import JobSpace
from autocompress.scoring import Scorer
from autocompress.store import Store
from autocompress.testing import example_model
from autocompress.training import predictions, versions
from autocompress.training.layout import FORMATS, training_step

TARGETS = {"repair_seconds": 5.0, "busy": 0.8}
CLASSES = 10


def noise(count: int, size: int) -> TensorSplit:
    """Noise images with labels, uint8."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    half = (0.5, 0.5, 0.5)
    info = DataInfo(CLASSES, 3, (size, size), half, half, tuple(map(str, range(CLASSES))))
    return TensorSplit(images, torch.arange(count) % CLASSES, info)


def seconds_of(step: Callable[[], None], rounds: int) -> float:
    """The median of ``rounds`` calls, after one call that does not count."""
    found = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        step()
        found.append(time.perf_counter() - started)
    return float(np.median(found[1:]))


def training(model: nn.Module, compute: Compute, rounds: int) -> dict[str, Any]:
    """Milliseconds of a training step by precision and memory format."""
    halves = [None, *([torch.bfloat16, torch.float16] if compute.is_cuda else [])]
    found = {}
    for half in halves:
        for form in FORMATS:
            own = replace(compute, half=half)
            name = f"{half or torch.float32}, {form}".replace("torch.", "")
            found[name] = round(1000 * seconds_of(training_step(model, own, form), rounds), 2)
    return found


def repair(model: nn.Module, compute: Compute, split: TensorSplit, folder: Path) -> dict[str, float]:
    """Seconds of the first and of a later candidate with half of the channels, repaired."""
    methods = [method for method in manager().methods() if method.name == "obs"]
    transfer = TransferSet(train=split, calibration=split, digest=split.digest)
    pipeline = Pipeline(model, "gpu", methods, transfer, "stage", 0, compute, Store(folder))
    found = {}
    for name, keep in (("first", 0.5), ("later", 0.625)):
        space = JobSpace(model, methods, Limits(values={"prune.keep": keep, "prune.multiple": 1}), "stage", 0, 1, True)
        recipe = space.compose(Replay(space.policy({"prune": "default"}) or {}))
        started = time.perf_counter()
        pipeline.run(recipe)
        found[name] = round(time.perf_counter() - started, 2)
    return found


def scoring(model: nn.Module, compute: Compute, split: TensorSplit, batch: int, folder: Path) -> dict[str, float]:
    """Images per second of the torch model, and the share of labels on which its file agrees."""
    size = models.input_size(model)
    predictions(model, split.subset(batch), compute.device, batch)  # warm-up
    started = time.perf_counter()
    found = predictions(model, split, compute.device, batch)
    seconds = time.perf_counter() - started
    model.cpu()
    file = folder / "model.onnx"
    export(model, file, size)
    sample = split.relabelled(found).subset(64)
    agrees = Scorer(torch.get_num_threads()).score(Deployable(file, size), sample)
    return {"images_per_second": round(len(split) / seconds, 1), "labels_of_the_file": float(agrees.mean())}


def loading(model: nn.Module, compute: Compute, asked: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Images per second of a training from JPEG files, and the share of its time in steps."""
    write_pictures(folder, asked.images, asked.size)
    splits = data.load(
        DataConfig(train=f"folder:{folder}", workers=asked.workers), manager().datasets(), input_size=(asked.size,) * 2
    )
    twin = model.to(compute.device).train()

    def step(images: torch.Tensor) -> None:
        with compute.autocast():
            loss = twin(images).float().square().mean()
        loss.backward()
        twin.zero_grad(set_to_none=True)

    def epoch() -> int:
        count = 0
        for images, _ in splits.train.loader(asked.batch, shuffle=True, augment=True, drop_last=True).on(
            compute.device
        ):
            step(images)
            count += len(images)
        finish(compute)
        return count

    batch = torch.randn(asked.batch, *splits.info.input_size, device=compute.device)
    epoch()  # warm-up: worker processes start
    started = time.perf_counter()
    count = epoch()
    whole = time.perf_counter() - started
    started = time.perf_counter()
    for _ in range(count // asked.batch):
        step(batch)
    finish(compute)
    alone = time.perf_counter() - started
    return {"images_per_second": round(count / whole, 1), "busy": round(min(1.0, alone / whole), 3)}


def finish(compute: Compute) -> None:
    """Waits until the GPU has finished."""
    if compute.is_cuda:
        torch.cuda.synchronize(compute.device)


def write_pictures(folder: Path, count: int, size: int) -> None:
    """Noise of varying size, as JPEG files in folders of classes."""
    draws = np.random.default_rng(0)
    for number in range(count):
        home = folder / f"class{number % CLASSES}"
        home.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(draws.integers(0, 255, (9, 9, 3), dtype=np.uint8))
        wide = int(size * (1.2 + draws.random()))
        coarse.resize((wide, int(size * 1.3))).save(home / f"{number}.jpg", quality=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("results/compute/gpu.json"))
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    compute = compute_of(ComputeConfig(device=asked.device))
    model, split = example_model(asked.model, (3, asked.size, asked.size)), noise(min(asked.images, 512), asked.size)
    parts: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs: dict[str, Callable[[], dict[str, Any]]] = {
            "training": lambda: training(model, compute, asked.rounds),
            "repair": lambda: repair(model, compute, split, folder / "store"),
            "scoring": lambda: scoring(model, compute, split, asked.batch, folder),
            "loading": lambda: loading(model, compute, asked, folder / "pictures"),
        }
        for part, run in runs.items():
            started = time.perf_counter()
            parts[part] = run()
            print(f"{part}: {parts[part]} ({time.perf_counter() - started:.0f} s)", flush=True)
    met = {
        "repair_seconds": parts["repair"]["later"] <= TARGETS["repair_seconds"],
        "busy": parts["loading"]["busy"] >= TARGETS["busy"],
    }
    device = torch.cuda.get_device_name(compute.device) if compute.is_cuda else machine()["processor"]
    about = {"device": device, "versions": versions(), "targets": TARGETS, "met": met}
    write_json(asked.out, {**about, "model": asked.model, "size": asked.size, "batch": asked.batch, **parts})
    print(", ".join(f"{target}: {'met' if ok else 'NOT met'}" for target, ok in met.items()))


if __name__ == "__main__":
    main()
