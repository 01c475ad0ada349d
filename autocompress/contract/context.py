"""Context: the objects that the engine passes to a method. TransferSet: images for a method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from autocompress.compute import Compute
from autocompress.contract.callback import Callback
from autocompress.data import Split
from autocompress.errors import InvalidRecipe
from autocompress.repair import Moments


@dataclass(frozen=True)
class TransferSet:
    """Images for scoring, calibration and training.

    Attributes:
        train: the images for recovery.
        calibration: the images for observing ranges (by default a subset of ``train``).
        soft_targets: logits or probabilities of the data source, float32 ``(images, classes)``;
            None where it gives none.
        temperature: the temperature of the soft targets.
        labelled: the labels of ``train`` come from the user, so cross-entropy may use them.
        synthetic: a data source made the images.
        demands: requirements on training with these images, for example ``{"freeze_batch_norm"}``.
        digest: content key of the images, part of every stage key.
    """

    train: Split
    calibration: Split
    digest: str
    soft_targets: torch.Tensor | None = None
    temperature: float = 1.0
    labelled: bool = True
    synthetic: bool = False
    demands: frozenset[str] = frozenset()


def _no_progress(_done: float, _text: str = "") -> None:
    """Default of ``Context.progress``: progress is not shown."""


def _no_pause() -> None:
    """Default of ``Context.pause``: there is no measurement to wait for."""


def _no_callbacks(_model: nn.Module) -> Sequence[Callback]:
    """Default of ``Context.callbacks``: no transform acted before."""
    return ()


def _no_moments(layers: Sequence[str]) -> Mapping[str, Moments]:
    """Default of ``Context.moments``: there are no images for moments."""
    raise InvalidRecipe(f"there are no moments of {', '.join(layers)}: a dry run has no images")


@dataclass(frozen=True)
class Context:
    """The objects that a method may use.

    Attributes:
        transfer: the images of the recipe's data source; None in a dry run, and for data sources.
        teacher: the baseline in eval mode, on ``device``; None in a dry run.
        input_size: (channels, height, width) of one image.
        compute: where and how torch computes; pass it on to ``training``.
        seed: random seed of this stage; use it for all random numbers.
        params: for ``prepare``: the result of ``shared``.
        state: the result of ``prepare``, else None.
        model: for ``Pruner.order``: the network that will lose channels, on ``device``; else None.
        moments: for ``Pruner.order``: second moments of the inputs of layers of ``model``, by name,
            as ``repair.Moments``. Layers without columns (``repair.has_columns``) are left out.
        images: for data sources: this number of images is enough; None: the parameters decide.
        progress: call it with the finished fraction (0 to 1) and a word.
        pause: call it between the batches of a training; it waits for measurements on this machine.
        callbacks: for ``Transform.apply``: callbacks of the transforms that acted before, for
            training the model.
        dry_run: there is no data and no training; the structure must be that of a full run.
    """

    input_size: tuple[int, int, int]
    transfer: TransferSet | None = None
    teacher: nn.Module | None = None
    compute: Compute = field(default_factory=Compute)
    seed: int = 0
    params: Mapping[str, Any] = field(default_factory=dict)
    state: Any = None
    model: nn.Module | None = None
    moments: Callable[[Sequence[str]], Mapping[str, Moments]] = _no_moments
    images: int | None = None
    progress: Callable[..., None] = _no_progress
    pause: Callable[[], None] = _no_pause
    callbacks: Callable[[nn.Module], Sequence[Callback]] = _no_callbacks
    dry_run: bool = False

    @property
    def device(self) -> torch.device:
        """Where tensors are: the device of ``compute``."""
        return self.compute.device
