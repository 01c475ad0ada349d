"""Rules for data sources."""

from __future__ import annotations

import copy

import torch
from torch import nn

from autocompress import models
from autocompress.contract import DataSource, Params, TransferSet
from autocompress.data import Split
from autocompress.testing.example import example_context, example_model
from autocompress.testing.networks import check_untouched
from autocompress.testing.rules import fingerprint, other_draws, require, same_tensors
from autocompress.testing.spaces import ask, by_rule


def check_source(method: DataSource, model: nn.Module | None = None, params: Params | None = None) -> None:
    """Makes the images of the source twice, and checks them.

    Args:
        method: the source.
        model: the teacher; the example model by default. It is not changed.
        params: one point of its space; the defaults by default.

    Raises:
        ContractViolation: naming the rule that is broken.
    """
    model = model if model is not None else example_model()
    params = params if params is not None else ask(method, model, by_rule("default"))[0]
    teacher = copy.deepcopy(model)
    made = []
    for seed in (1, 2):
        with other_draws(seed):  # every draw must come from context.seed, not from here
            made.append(method.apply(teacher, params, example_context(model, teacher=teacher)))
    first, second = made
    rule = "apply must leave the teacher as it is"
    require(same_tensors(fingerprint(teacher), fingerprint(model)), rule)
    check_untouched(teacher, model, rule)
    require(isinstance(first, TransferSet), "apply must return a TransferSet")
    require(bool(first.digest) and first.digest == second.digest, "equal context.seed must give equal digests")
    _check_without_student(method, model, params, first)
    for name, split in (("train", first.train), ("calibration", first.calibration)):
        require(isinstance(split, Split) and len(split) > 0, f"{name} must be a Split with images")
        images, labels = next(iter(split.loader(4)))
        require(
            images.dtype == torch.float32 and tuple(images.shape[1:]) == models.input_size(model),
            f"{name} must give float32 images with the input size of the model",
        )
        require(labels.dtype == torch.int64 and len(labels) == len(images), f"{name} must give int64 labels")
    if first.soft_targets is not None:
        require(
            len(first.soft_targets) == len(first.train) and first.soft_targets.dtype == torch.float32,
            "soft targets must be float32, one row per image of train, in its order",
        )
    require(first.temperature > 0, "the temperature must be above 0")


def _check_without_student(method: DataSource, model: nn.Module, params: Params, made: TransferSet) -> None:
    """Checks that the parameters without a student give the images of ``params``."""
    if (alone := method.without_student(dict(params))) == params:
        return
    require(method.without_student(dict(alone)) == alone, "without_student must not change its own result")
    teacher = copy.deepcopy(model)
    same = method.apply(teacher, alone, example_context(model, teacher=teacher))
    require(same.digest == made.digest, "without_student must give parameters that make the same images")
