"""Images without labels, labelled with what the baseline says of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from autocompress.data import Split
from autocompress.files import digest
from autocompress.store import Store
from autocompress.training import computed_with, logits

VERSION = "1"
AnySplit = TypeVar("AnySplit", bound=Split)


def answered(
    model: nn.Module,
    model_key: str,
    split: AnySplit,
    store: Store,
    device: torch.device,
    pause: Callable[[], None] | None = None,
) -> AnySplit:
    """``split`` with the answers of ``model`` for labels; they are made once and kept.

    Args:
        model: the float baseline; not changed.
        model_key: content key of its weights and architecture.
        split: whose labels mean nothing.
        store: where the answers are kept.
        device: where torch computes.
        pause: called between batches.
    """
    key = digest("held out", VERSION, model_key, split.digest, computed_with(device))
    if (found := store.get(key) if store.has(key) else None) is None:
        answers = logits(copy.deepcopy(model), split, device, pause=pause).argmax(1)
        store.put(key, {"labels": answers}, {})
        found = {"labels": answers}, {}
    return split.relabelled(found[0]["labels"])
