"""A small model, images and a context for trying a method, without a download."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from autocompress import models
from autocompress.contract import Context, TransferSet
from autocompress.data import DataInfo, TensorSplit
from autocompress.graph.kinds import NORM_TYPES
from autocompress.job import Job, load_job

CLASSES = 10
IMAGES = 64


def example_model(
    name: str = "test_resnet", input_size: tuple[int, int, int] = (3, 32, 32), args: Mapping[str, Any] | None = None
) -> nn.Module:
    """A timm model with 10 classes and fixed random weights.

    Its batch norms have the statistics of the example images. Scales and shifts of norms are
    random: timm initialises the last norm of a residual branch with zeros, and a branch that
    returns zeros would hide changes inside the branch.

    Args:
        name: name of the model, in timm.
        input_size: ``(C, H, W)``.
        args: more arguments of ``timm.create_model``.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = models.from_architecture(
            {
                "name": name,
                "args": {**(args or {}), "num_classes": CLASSES, "in_chans": input_size[0]},
                "input_size": list(input_size),
                "mean": [0.5] * input_size[0],
                "std": [0.5] * input_size[0],
                "num_classes": CLASSES,
                "class_names": [str(number) for number in range(CLASSES)],
                "reparameterized": False,
            }
        )
    _wake(model)
    if not any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        return model.eval()
    model.train()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(10):
            model(_images(input_size, seed=1))
    return model.eval()


def _wake(model: nn.Module) -> None:
    """Gives all norms scales around 1 and shifts around 0."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
            if isinstance(module, NORM_TYPES) and weight is not None and bias is not None:
                weight.copy_(0.7 + 0.6 * torch.rand(weight.shape, generator=generator))
                bias.copy_(0.2 * torch.randn(bias.shape, generator=generator))


def example_job(model: str = "test_resnet") -> Job:
    """A job that names the example model."""
    return load_job(settings={"model": model, "data": "digits", "name": "conformance"})


def example_context(
    model: nn.Module, *, dry_run: bool = False, seed: int = 0, teacher: nn.Module | None = None, images: int = 0
) -> Context:
    """A context like those of the engine: random images in ``transfer``, None in a dry run.

    Args:
        model: the model that gives the input size.
        teacher: the baseline; None for a dry run.
        images: seed of the images; another seed also gives another mean and another scale.
    """
    size = models.input_size(model)
    if dry_run:
        return Context(input_size=size, seed=seed, dry_run=True)
    info = DataInfo(
        num_classes=CLASSES,
        channels=size[0],
        size=(size[1], size[2]),
        mean=(0.5,) * size[0],
        std=(0.5,) * size[0],
        class_names=tuple(str(number) for number in range(CLASSES)),
    )
    pixels = _images(size, seed=images)
    split = TensorSplit(4 * pixels + 6 if images else pixels, torch.arange(IMAGES) % CLASSES, info)
    transfer = TransferSet(train=split, calibration=split, digest=split.digest)
    return Context(input_size=size, transfer=transfer, teacher=teacher, seed=seed)


def _images(size: tuple[int, int, int], seed: int) -> torch.Tensor:
    """Smooth noise, float32 ``(64, C, H, W)``, approximately normalised."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(IMAGES, size[0], 8, 8, generator=generator)
    smooth = nn.functional.interpolate(coarse, size[1:], mode="bilinear")
    return smooth + 0.3 * torch.randn(IMAGES, *size, generator=generator)
