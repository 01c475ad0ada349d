"""Crops of natural photographs that Python packages contain, split by picture."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.functional import to_tensor

from autocompress.data.decoding import open_picture

BY_PACKAGE = {
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
    "matplotlib": ("mpl-data/sample_data/grace_hopper.jpg",),
    "skimage": tuple(
        f"data/{name}"
        for name in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "grass.png")
    ),
}
"""Photographs by package. scikit-image is optional, and has more."""
HELD_OUT = ("flower.jpg", "coffee.png", "grace_hopper.jpg")
SCALE = (0.1, 0.8)


def photographs(folder: Path | None = None) -> list[Path]:
    """The files of installed packages, or all files of ``folder``."""
    if folder is not None:
        return sorted(file for file in folder.iterdir() if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
    found = []
    for package, names in BY_PACKAGE.items():
        spec = find_spec(package)
        for place in (spec.submodule_search_locations or []) if spec is not None else []:
            found += [file for name in names if (file := Path(place) / name).exists()]
    return found


def parted(files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Pictures for fitting and for judging.

    Those of known packages are fixed; of others, every fourth one judges.
    """
    held_out = [file for file in files if file.name in HELD_OUT] or list(files[::4])
    return [file for file in files if file not in held_out], held_out


def crops(files: Sequence[Path], count: int, size: int, seed: int) -> torch.Tensor:
    """Crops, equally many of each picture, float32 ``[count, 3, size, size]`` in 0 to 1."""
    pictures = [open_picture(file, file.name).convert("RGB") for file in files]
    draw = RandomResizedCrop(size, SCALE)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.stack([_mirrored(to_tensor(draw(pictures[i % len(pictures)]))) for i in range(count)])


def _mirrored(image: torch.Tensor) -> torch.Tensor:
    return image.flip(-1) if torch.rand(()) < 0.5 else image
