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
from autocompress.testing.rules import Report, fingerprint, other_draws, require, same_tensors
from autocompress.testing.spaces import brief_recipe

SEEDS = ((1, 0), (2, 0), (1, 1))
"""(of the global generators, ``context.seed``) for each set that is made."""


def check_source(method: DataSource, model: nn.Module | None = None, params: Params | None = None) -> None:
    """Makes the images of the source several times, and checks them.

    Args:
        method: the source.
        model: the teacher; the example model by default. It is not changed.
        params: one point of its space; by default the defaults, with few images and iterations.

    Raises:
        ContractViolation: if a rule is broken; the message lists all broken rules.
    """
    model = model if model is not None else example_model()
    params = params if params is not None else brief_recipe(method, model)
    report = Report()
    first, second, other = (report.check(_made, report, method, model, params, *seeds) for seeds in SEEDS)
    if first is None or second is None:
        report.end()
        return
    report.check(require, first.digest == second.digest, "equal context.seed must give equal digests: draw from a "
        "generator that is seeded with it")  # fmt: skip
    if other is not None:
        rule = "another context.seed must give other images: draw from a generator that is seeded with it"
        report.check(require, other.digest != first.digest, rule)
    report.check(_check_without_student, method, model, params, first)
    for name, split in (("train", first.train), ("calibration", first.calibration)):
        report.check(_check_split, name, split, model)
    report.check(_check_targets, first)
    report.end()


def _made(report: Report, method: DataSource, model: nn.Module, params: Params, draws: int, seed: int) -> TransferSet:
    """The set of one ``context.seed``, with the global generators at ``draws``."""
    teacher, given = copy.deepcopy(model).requires_grad_(False), copy.deepcopy(params)
    before = copy.deepcopy(teacher)
    with other_draws(draws, method):  # every draw must come from context.seed, not from here
        found = method.apply(teacher, given, example_context(model, teacher=teacher, seed=seed))
    rule = "apply must leave the teacher as it is"
    report.check(require, same_tensors(fingerprint(teacher), fingerprint(model)), rule)
    report.check(check_untouched, teacher, before, rule)
    report.check(require, given == params, "apply must leave params as they are: copy them first")
    require(isinstance(found, TransferSet), f"apply must return a TransferSet, not {type(found).__name__}")
    require(
        isinstance(found.digest, str) and bool(found.digest), "the digest must be a text that follows from the images"
    )
    return found


def _check_split(name: str, split: Split, model: nn.Module) -> None:
    require(isinstance(split, Split) and len(split) > 0, f"{name} must be a Split with images")
    images, labels = next(iter(split.loader(4)))
    require(
        images.dtype == torch.float32 and tuple(images.shape[1:]) == models.input_size(model),
        f"{name} must give float32 images with the input size of the model",
    )
    require(bool(images.isfinite().all()), f"{name} must give finite numbers")
    require(labels.dtype == torch.int64 and len(labels) == len(images), f"{name} must give int64 labels")


def _check_targets(made: TransferSet) -> None:
    targets = made.soft_targets
    if targets is not None:
        require(
            len(targets) == len(made.train) and targets.dtype == torch.float32,
            "soft targets must be float32, one row per image of train, in its order",
        )
        require(not targets.requires_grad, "soft targets must need no gradient: call detach()")
        require(bool(targets.isfinite().all()), "soft targets must be finite numbers")
    require(made.temperature > 0, "the temperature must be above 0")


def _check_without_student(method: DataSource, model: nn.Module, params: Params, made: TransferSet) -> None:
    """Checks that the parameters without a student give the images of ``params``."""
    if (alone := method.without_student(dict(params))) == params:
        return
    require(method.without_student(dict(alone)) == alone, "without_student must not change its own result")
    teacher = copy.deepcopy(model)
    same = method.apply(teacher, alone, example_context(model, teacher=teacher))
    require(same.digest == made.digest, "without_student must give parameters that make the same images")
