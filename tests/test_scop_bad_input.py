"""Channels without SCOP scores are an error and are not ordered by chance.

Channels that no pruner can remove are tested in ``test_prune_input``.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from pruning_stage import kept, pruned
from torch import nn

from autocompress.contract import Context, TransferSet
from autocompress.errors import InvalidRecipe
from autocompress.testing import example_context, example_model
from autocompress_scop import knockoffs
from autocompress_scop.control import ScaleSettings
from autocompress_scop.method import Scop
from autocompress_scop.scoring import ScoreSettings

QUICK = ScoreSettings(scales=ScaleSettings(epochs=1))


def context_with(model: nn.Module, images: int) -> Context:
    found = example_context(model, teacher=copy.deepcopy(model))
    assert found.transfer is not None
    some = found.transfer.train.take(torch.arange(images))
    return replace(found, transfer=TransferSet(some, some, f"{images} images"))


@pytest.mark.parametrize(("teacher", "state"), [(False, None), (True, {"layers": {}})])
def test_a_real_run_without_scores_is_an_error(teacher: bool, state: Any) -> None:
    """It must not remove the first channels instead."""
    model = example_model()
    context = replace(example_context(model, teacher=model if teacher else None), state=state)
    with pytest.raises(InvalidRecipe, match="no scores"):
        pruned(model, Scop(QUICK), context)


def test_nan_scores_are_refused() -> None:
    model, scop = example_model(), Scop(QUICK)
    context = example_context(model, teacher=copy.deepcopy(model))
    state = scop.prepare(copy.deepcopy(model), context)
    state["layers"]["layer1.0.conv1"][3] = torch.nan
    with pytest.raises(InvalidRecipe, match=r"scores of layer1\.0\.conv1 are not finite"):
        pruned(model, scop, replace(context, state=state))


@pytest.mark.parametrize("images", [2, 3, 33])
def test_odd_batches_and_a_last_batch_of_one(images: int) -> None:
    """33 images are a batch of 32 and a batch of one image."""
    model, scop = example_model(), Scop(QUICK)
    context = context_with(model, images)
    state = scop.prepare(copy.deepcopy(model), context)
    assert all(bool(scores.isfinite().all()) for scores in state["layers"].values())
    assert any(bool((beta != 0.5).any()) for beta in state["beta"].values())
    network, steps = pruned(model, scop, replace(context, state=state))
    assert kept(steps)
    assert bool(network(torch.randn(1, *context.input_size)).isfinite().all())


@pytest.mark.parametrize("kind", knockoffs.KINDS)
@pytest.mark.parametrize("images", [0, 1])
def test_too_few_images_for_a_control_group_are_refused(images: int, kind: str) -> None:
    """One image would be its own control.

    All scores would be 0, and the numbering of channels would decide.
    """
    model = example_model()
    scop = Scop(replace(QUICK, knockoffs=kind))
    with pytest.raises(ValueError, match="there are none" if images == 0 else "at least two"):
        scop.prepare(copy.deepcopy(model), context_with(model, images))


@pytest.mark.parametrize("kind", ["gaussian", "gan_cond"])
def test_equal_images_are_refused(kind: str) -> None:
    split = example_context(example_model()).transfer.train  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="all images are the same"):
        knockoffs.make(kind, split.take(torch.zeros(8, dtype=torch.int64)))
