"""Where torchvision's data sets expect their files below the folder that a job names."""

from __future__ import annotations

from pathlib import Path

_IDX = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))

_QMNIST = tuple(
    f"qmnist-{part}-{kind}" for part in ("train", "test") for kind in ("images-idx3-ubyte", "labels-idx2-int")
)

_LAYOUTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "mnist": ("MNIST/raw", _IDX),
    "fashion_mnist": ("FashionMNIST/raw", _IDX),
    "kmnist": ("KMNIST/raw", _IDX),
    "qmnist": ("QMNIST/raw", _QMNIST),
    "cifar10": (
        "cifar-10-batches-py",
        (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"),
    ),
    "cifar100": ("cifar-100-python", ("train", "test", "meta")),
    "imagenet": (".", ("train", "val", "meta.bin")),
    "places365": (".", ("data_large_standard", "val_large", "categories_places365.txt")),
    "inaturalist": (".", ("2021_train", "2021_valid")),
    "inat": (".", ("2021_train", "2021_valid")),
}
"""By timm's name after ``torch/``: the folder, and its content."""


def _parts(name: str) -> tuple[str, tuple[str, ...]] | None:
    prefix, _, rest = name.partition("/")
    return _LAYOUTS.get(rest.lower()) if prefix.lower() == "torch" else None


def layout(name: str) -> str:
    """The layout of the data set ``torch/NAME`` as text; empty where it is not known."""
    if (parts := _parts(name)) is None:
        return ""
    folder, files = parts
    return ", ".join(file if folder == "." else f"{folder}/{file}" for file in files)


def lacking(name: str, root: Path) -> Path | None:
    """The first missing file or folder of ``torch/NAME`` in ``root``; None if none is known."""
    if (parts := _parts(name)) is None:
        return None
    folder, files = parts
    paths = [root / folder, *(root / folder / file for file in files)]
    return next((path for path in paths if not path.exists()), None)
