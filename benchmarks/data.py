"""Images per second of the loader, and seconds to open a large folder.

``loader``: photographs of 500 x 375 pixels as JPEG, prepared at 224 pixels, against timm's
``create_loader`` with the same transforms and numbers of processes; epochs alternate.
``kept``: 2,000 pictures of 32 pixels, against a DataLoader that opens and prepares each picture
whenever it is read, as before decoded pictures were kept.
``listing``: a folder of empty files in 1,000 class folders, opened twice, each in a process of its
own; memory is what opening adds to a process that has imported all it needs.

``lite0``: whether input tensors and logits of EfficientNet-Lite0 equal those of timm.

Ratios are medians over alternating rounds, with the lowest and the highest value.

    python benchmarks/data.py [--parts loader kept listing lite0] [--weights FILE.pth] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_dataset, create_loader
from torch.utils.data import DataLoader, Dataset

from autocompress.data import processes
from autocompress.data.listing import Listing
from autocompress.data.pictures import DatasetSplit
from autocompress.data.preprocessing import evaluation
from autocompress.data.processes import Readers
from autocompress.data.randomness import random_kept, seeded
from autocompress.data.split import DataInfo
from autocompress.files import write_json
from int8 import environment
from parts.lite_inputs import compared

TARGETS = {"loader": 0.95, "kept": 5.0, "first_s": 60.0, "second_s": 3.0, "megabytes": 200.0}
CLASSES = 1000
OPENING = Path(__file__).parent / "parts" / "opening.py"
BATCH = 32
OLD = 1_600_000_000
Pass = Callable[[int], Iterable[Any]]
"""Iterates over the batches of an epoch, given its number."""


def photographs(folder: Path, count: int, size: tuple[int, int], ending: str) -> Path:
    """``count`` pictures in two classes: smooth colours with a little noise."""
    draw = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(draw.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(
            size, Image.Resampling.BICUBIC
        )
        noise = draw.normal(0, 6, (size[1], size[0], 3))
        pixels = np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8)
        place = folder / "ab"[number % 2] / f"{number}.{ending}"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place)
    return folder


def in_turn(ours: Pass, theirs: Pass, rounds: int) -> dict[str, Any]:
    """Images per second of both loaders, and the ratio of ours to the other."""
    rates: dict[str, list[float]] = {"ours": [], "theirs": []}
    for number in range(rounds + 1):
        for name, read in (("ours", ours), ("theirs", theirs)):
            began = time.perf_counter()
            images = sum(len(batch[0]) for batch in read(number))
            rates[name].append(images / (time.perf_counter() - began))
    found = {name: statistics.median(all_of[1:]) for name, all_of in rates.items()}  # the first epoch starts processes
    ratios = sorted(one / other for one, other in zip(rates["ours"][1:], rates["theirs"][1:], strict=True))
    return {**found, "ratio": statistics.median(ratios), "low": ratios[0], "high": ratios[-1]}


def whole(folder: Path, workers: int, size: tuple[int, int]) -> DatasetSplit:
    """All pictures of a folder, prepared as for ImageNet."""
    listing = Listing.read(folder)
    info = DataInfo(2, 3, size, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), listing.classes, crop_pct=0.875)
    return listing.split(info).read_by(Readers(workers))


def loader_rows(asked: argparse.Namespace, home: Path) -> list[dict[str, Any]]:
    """Our loader compared with timm's."""
    folder = photographs(home / "photographs", asked.pictures, (500, 375), "jpg")
    os.environ["AUTOCOMPRESS_PICTURES_GB"] = "0"  # as for pictures that do not fit into memory
    rows = []
    for workers in asked.workers:
        for augment in (False, True):
            split = whole(folder, workers, (224, 224))

            def ours(epoch: int, split: DatasetSplit = split, augment: bool = augment) -> Iterable[Any]:
                return split.loader(BATCH, shuffle=augment, seed=epoch, augment=augment, drop_last=augment)

            theirs = timms(folder, split.info, workers, augment)
            rows.append({"workers": workers, "augment": augment, **in_turn(ours, theirs, asked.rounds)})
            processes._pools.clear()
            print(rows[-1], flush=True)
    del os.environ["AUTOCOMPRESS_PICTURES_GB"]
    return rows


def timms(folder: Path, info: DataInfo, workers: int, augment: bool) -> Pass:
    """timm's loader, with persistent processes."""
    how = {"scale": (0.5, 1.0), "color_jitter": 0.2} if augment else {"crop_pct": info.crop_pct}
    loader = create_loader(
        create_dataset("folder", root=str(folder)), info.input_size, BATCH, is_training=augment, use_prefetcher=False,
        num_workers=workers, mean=info.mean, std=info.std, interpolation=info.interpolation,
        device=torch.device("cpu"), **how,
    )  # fmt: skip
    return lambda _epoch: loader


class Before(Dataset[Any]):
    """Opens and prepares a picture whenever it is read."""

    def __init__(self, split: DatasetSplit, augment: bool, seed: int) -> None:
        self.split, self.augment, self.seed = split, augment, seed
        self.change = trained(split.info) if augment else evaluation(split.info)

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
        image = self.split.pictures.picture(int(self.split.indices[position])).convert("RGB")
        with random_kept():
            seeded((self.seed * 1_000_003 + position) % 2**32)
            return self.change(image), int(self.split.labels()[position])


def trained(info: DataInfo) -> Any:
    """The training transform before pictures were stored."""
    from timm.data import create_transform

    how = {"mean": info.mean, "std": info.std, "interpolation": info.interpolation}
    return create_transform(info.input_size, is_training=True, scale=(0.5, 1.0), color_jitter=0.2, **how)


def kept_rows(asked: argparse.Namespace, home: Path) -> list[dict[str, Any]]:
    """Stored pictures compared with pictures that are opened each time."""
    folder = photographs(home / "small", 2 * asked.pictures, (32, 32), "png")
    rows = []
    for augment in (False, True):
        split = whole(folder, 0, (32, 32))

        def ours(epoch: int, split: DatasetSplit = split, augment: bool = augment) -> Iterable[Any]:
            return split.loader(128, shuffle=augment, seed=epoch, augment=augment)

        def before(epoch: int, split: DatasetSplit = split, augment: bool = augment) -> Iterable[Any]:
            generator = torch.Generator().manual_seed(epoch)
            return DataLoader(Before(split, augment, epoch), 128, shuffle=augment, generator=generator)

        same = all(torch.equal(one[0], other[0]) for one, other in zip(ours(1), before(1), strict=True))
        rows.append({"augment": augment, "same_batches": same, **in_turn(ours, before, asked.rounds)})
        print(rows[-1], flush=True)
    return rows


def listing_rows(asked: argparse.Namespace, home: Path) -> dict[str, Any]:
    """The first and the second opening."""
    root = home / "many"
    for number in range(CLASSES):
        place = root / f"n{number:08d}"
        place.mkdir(parents=True)
        handle = os.open(place, os.O_RDONLY)
        for picture in range(asked.entries // CLASSES):
            os.close(os.open(f"n{number:08d}_{picture}.JPEG", os.O_CREAT | os.O_WRONLY, dir_fd=handle))
        os.close(handle)
        os.utime(place, (OLD, OLD))
    os.utime(root, (OLD, OLD))
    found = {}
    for name in ("first", "second"):
        command = [sys.executable, str(OPENING), str(root), str(home / f"{name}.json")]
        subprocess.run(command, check=True)
        found[name] = json.loads((home / f"{name}.json").read_text())
        print(name, found[name], flush=True)
    assert found["first"].pop("digests") == found["second"].pop("digests")
    return {"entries": asked.entries, **found}


def lite0_rows(asked: argparse.Namespace, home: Path) -> dict[str, Any]:
    """The numbers of equal input tensors and logits."""
    found = compared(home / "lite0", asked.weights, count=min(60, max(40, asked.pictures)))
    print(found, flush=True)
    return found


def table(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = ["| processes | pass | images a second | timm's | ratio |", "|---|---|---|---|---|"]
    for row in found.get("loader", ()):
        kind = "training" if row["augment"] else "evaluation"
        spread = f"{row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
        lines.append(f"| {row['workers']} | {kind} | {row['ours']:.0f} | {row['theirs']:.0f} | {spread} |")
    lines += ["", "| kept pictures of 32 pixels | images a second | opened each time | ratio |", "|---|---|---|---|"]
    for row in found.get("kept", ()):
        kind = "training" if row["augment"] else "evaluation"
        lines.append(f"| {kind} | {row['ours']:.0f} | {row['theirs']:.0f} | {row['ratio']:.1f} |")
    if listing := found.get("listing"):
        lines += ["", f"| a folder of {listing['entries']:,} entries | seconds | MB |", "|---|---|---|"]
        lines += [
            f"| {name} | {listing[name]['seconds']} | {listing[name]['megabytes']} |" for name in ("first", "second")
        ]
    if lite := found.get("lite0"):
        what = f"EfficientNet-Lite0, {lite['weights']} weights, {lite['pictures']} pictures"
        lines += ["", f"| {what} | equal to timm's |", "|---|---|"]
        lines += [f"| inputs | {lite['equal_inputs']} |", f"| logits | {lite['equal_logits']} |"]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="*", default=["loader", "kept", "listing", "lite0"])
    parser.add_argument("--weights", type=Path, help="weights of EfficientNet-Lite0; random by default")
    parser.add_argument("--workers", nargs="*", type=int, default=[1, 2, 4])
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=Path("results/data/data.json"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = {"loader": loader_rows, "kept": kept_rows, "listing": listing_rows, "lite0": lite0_rows}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["AUTOCOMPRESS_CACHE"] = str(Path(folder) / "cache")
        found: dict[str, Any] = {part: rows[part](asked, Path(folder)) for part in asked.parts}
    write_json(asked.out, {**found, "targets": TARGETS, "environment": environment()})
    asked.out.with_suffix(".md").write_text(table(found))
    print(table(found))


if __name__ == "__main__":
    main()
