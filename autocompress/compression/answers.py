"""Outputs of the baseline for images, computed once and kept: labels, or logits to learn from."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch
from torch import nn

from autocompress.compute import Compute
from autocompress.contract import TransferSet
from autocompress.data import Split
from autocompress.files import digest
from autocompress.store import Store
from autocompress.training import computed_with, logits, predictions

VERSION = "1"
MOST_BYTES = 256_000_000
"""Maximum bytes of logits to keep. If there are more, the baseline runs on each batch."""
AnySplit = TypeVar("AnySplit", bound=Split)


def answered(
    model: nn.Module,
    model_key: str,
    split: AnySplit,
    store: Store,
    compute: Compute,
    pause: Callable[[], None] | None = None,
) -> AnySplit:
    """``split`` with the labels that ``model`` predicts; they are computed once and kept.

    Args:
        model: the float baseline; not changed.
        model_key: content key of its weights and architecture.
        split: images; their labels are not used.
        store: where the labels are kept.
        compute: where and how torch computes.
        pause: called between batches.
    """
    key = digest("held out", VERSION, model_key, split.digest, computed_with(compute))
    if (found := store.get(key) if store.has(key) else None) is None:
        answers = predictions(copy.deepcopy(model), split, compute.device, pause=pause)
        store.put(key, {"labels": answers}, {})
        found = {"labels": answers}, {}
    return split.relabelled(found[0]["labels"])


def with_logits(
    model: nn.Module,
    model_key: str,
    transfer: TransferSet,
    images: int,
    store: Store,
    compute: Compute,
    seed: int,
    pause: Callable[[], None] | None = None,
) -> TransferSet:
    """``transfer`` with at most ``images`` images to train on and the logits of ``model`` on each.

    The logits suit only a training without augmentation. If a data source gives its own targets, or
    the logits take more than ``MOST_BYTES``, ``transfer`` is returned unchanged.

    Args:
        model: the float baseline; not changed.
        model_key: content key of its weights and architecture.
        transfer: transfer set of the recipe.
        images: number of images that the training will use.
        store: where logits are kept.
        compute: where and how torch computes.
        seed: random seed of the draw.
        pause: called between batches.
    """
    count = min(images, len(transfer.train))
    shape = transfer.train.task.output_shape(transfer.train.num_classes)
    if transfer.soft_targets is not None or shape is None or 4 * count * math.prod(shape) > MOST_BYTES:
        return transfer
    train = transfer.train.subset(count, seed)
    key = digest("logits", VERSION, model_key, train.digest, computed_with(compute))

    def make() -> torch.Tensor:
        return logits(copy.deepcopy(model), train, compute.device, pause=pause)

    return replace(transfer, train=train, soft_targets=store.made(key, make, pause))
