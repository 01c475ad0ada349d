"""Batches that cannot work are refused before training.

Batches of one image if batch norm needs more, and batches that do not fit into memory.
"""

from __future__ import annotations

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from autocompress import models
from autocompress.contract import manager
from autocompress.data import DataInfo, Splits, TensorSplit
from autocompress.errors import UserError
from autocompress.job import load_job
from autocompress.opened.batches import check_batches
from autocompress.opened.job import OpenedJob
from autocompress.opened.outline import outline


def splits_of(images: int, size: int = 32) -> Splits:
    info = DataInfo(2, 3, (size, size), (0.5,) * 3, (0.5,) * 3, ("a", "b"))

    def some(count: int) -> TensorSplit:
        return TensorSplit(torch.zeros(count, 3, size, size, dtype=torch.uint8), torch.arange(count) % 2, info)

    return Splits(some(images), some(4), some(4), info)


@pytest.mark.parametrize(
    ("name", "size", "images", "batch", "message"),
    [
        ("test_resnet", 32, 1, 128, "1 image is left for training"),
        ("test_resnet", 32, 8, 1, "'baseline.batch_size' cannot be 1"),
        ("test_resnet", 32, 2, 2, ""),
        ("test_resnet", 96, 8, 1, ""),  # the last feature map has more than one pixel
        ("test_vit", 160, 1, 128, ""),  # layer norm needs one image only
        ("test_vit", 160, 8, 1, ""),
    ],
)
def test_batches_of_one_image_are_refused_if_batch_norm_needs_more(
    name: str, size: int, images: int, batch: int, message: str
) -> None:
    splits = splits_of(images, size)
    job = load_job(model=name, data="digits", **{"baseline.batch_size": batch})
    model = models.create(job, splits.info)
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    if message:
        with pytest.raises(UserError, match=message):
            check_batches(job, model, splits)
    else:
        check_batches(job, model, splits)
    assert not model.training
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("batch", [10**8, 10**12])
def test_batches_that_do_not_fit_into_memory_are_refused_before_the_baseline_trains(batch: int) -> None:
    steps: list[object] = []
    handle = register_optimizer_step_post_hook(lambda *_: steps.append(1))
    try:
        with pytest.raises(UserError, match=f"not enough memory for batches of {batch}: one layer .* GB are free"):
            OpenedJob.open(load_job(model="test_resnet", data="digits", methods=["quantize"], device={"batch": batch}))
    finally:
        handle.remove()
    assert not steps


def test_batches_that_fit_pass() -> None:
    for device in ({"batch": 64}, {"name": "cost-model:bitops", "batch": 10**12}):
        job = load_job(model="test_resnet", data="digits", methods=["quantize"], device=device)
        outline(job, manager(), preview=True)
