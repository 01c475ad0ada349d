"""Checks a task on a few real images before anything expensive: each member is called once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from autocompress.errors import UserError
from autocompress.memory import is_out_of_memory
from autocompress.task.ref import TaskRef

IMAGES = 64
"""The number of images for the check. A metric may need several images of each class."""


def check_task(ref: TaskRef, model: nn.Module, images: torch.Tensor, targets: torch.Tensor, classes: int) -> None:
    """Calls each member of a task that a search needs, with the outputs of ``model``.

    Args:
        ref: names the task.
        model: the untrained network; it is not changed.
        images: normalised, float32 ``(N, C, H, W)``.
        targets: targets of the images.
        classes: number of classes of the data set.

    Raises:
        UserError: if a member fails or has a wrong result, or the targets do not fit the task.
    """
    task = ref.task()
    if fault := targets_fault(ref, targets, classes):
        raise UserError(f"the task '{ref.title}' {fault}", "give other data, or another task")
    probe = copy.deepcopy(model).eval()
    with torch.random.fork_rng(devices=[]):
        outputs = probe(images).float()
    found = outputs.detach()
    about = f"for targets of {targets.dtype} {tuple(targets.shape)} and outputs {tuple(outputs.shape)}"
    _check_loss(ref, _called(ref, "loss", about, task.loss, outputs, targets))
    other = found + 0.1 * torch.arange(found.numel()).view_as(found).remainder(3)
    _per_image(ref, "divergences", _called(ref, "divergences", about, task.divergences, found, other), len(images))
    same = _called(ref, "divergences", about, task.divergences, found, found)
    if not bool((same.abs() < 1e-3).all()):
        raise _fault(ref, "'divergences' must be 0 for equal outputs")
    _check_prediction(ref, _called(ref, "prediction", about, task.prediction, found), len(images))
    _per_image(ref, "agreement", _called(ref, "agreement", about, task.agreement, found, found), len(images))
    marks = _called(ref, "marks", about, task.marks, found, targets)
    if not isinstance(marks, torch.Tensor) or not marks.ndim or len(marks) != len(images):
        raise _fault(ref, f"'marks' must give a tensor with a row for each of {len(images)} images, not {_is(marks)}")
    _check_metric(ref, marks.numpy())
    _check_training(ref, outputs, found, targets)
    uninformed = _called(ref, "uninformed_loss", "", task.uninformed_loss, classes)
    if not isinstance(uninformed, int | float) or not np.isfinite(uninformed):
        raise _fault(ref, f"'uninformed_loss' must return a finite number, not {uninformed!r}")
    changed = _called(ref, "augmented", about, task.augmented, images, targets, torch.Generator().manual_seed(0))
    if not isinstance(changed, tuple) or [tuple(one.shape) for one in changed] != [images.shape, targets.shape]:
        raise _fault(ref, "'augmented' must give images and targets of the shapes that it was given")


def targets_fault(ref: TaskRef, targets: torch.Tensor, classes: int) -> str:
    """Why a task cannot use these targets, as the end of a sentence; empty if it can.

    Raises:
        UserError: if the task cannot be made, or ``check_targets`` fails or returns no text.
    """
    about = f"for targets of {targets.dtype} {tuple(targets.shape)}"
    fault = _called(ref, "check_targets", about, ref.task().check_targets, targets, classes)
    if not isinstance(fault, str):
        raise _fault(ref, f"'check_targets' must return a text, not {_is(fault)}", "return '' where the targets fit")
    return fault


def output_shape(ref: TaskRef, classes: int) -> tuple[int, ...] | None:
    """The shape of the outputs for one image; None for any shape.

    Raises:
        UserError: if the task cannot be made, or ``output_shape`` fails or returns no shape.
    """
    shape = _called(ref, "output_shape", "", ref.task().output_shape, classes)
    if shape is None:
        return None
    if not isinstance(shape, tuple) or not all(isinstance(size, int) for size in shape):
        raise _fault(ref, f"'output_shape' must return a tuple of whole numbers, or None, not {_is(shape)}")
    return shape


def _check_loss(ref: TaskRef, loss: Any) -> None:
    if not isinstance(loss, torch.Tensor) or loss.ndim:
        raise _fault(ref, f"'loss' must give one number as a tensor, not {_is(loss)}")
    if not bool(loss.isfinite()):
        raise _fault(ref, f"its loss is {float(loss.detach())} on the first images", "check its targets")
    if not loss.requires_grad:
        raise _fault(ref, "'loss' must have a gradient to the outputs")


def _check_training(ref: TaskRef, outputs: torch.Tensor, teacher: torch.Tensor, targets: torch.Tensor) -> None:
    """Calls the losses of distillation, of label smoothing and of pruning."""
    task, generator = ref.task(), torch.Generator().manual_seed(0)
    answers = _called(ref, "answers", "", task.answers, teacher, 4.0)
    losses = {
        "distillation": _called(ref, "distillation", "", task.distillation, outputs, answers, 4.0),
        "smoothed_loss": _called(ref, "smoothed_loss", "", task.smoothed_loss, outputs, targets, 0.1),
        "sampled_loss": _called(ref, "sampled_loss", "", task.sampled_loss, outputs, generator),
    }
    for member, loss in losses.items():
        if not isinstance(loss, torch.Tensor) or loss.ndim:
            raise _fault(ref, f"'{member}' must give one number as a tensor, not {_is(loss)}")


def _check_prediction(ref: TaskRef, found: Any, count: int) -> None:
    if not isinstance(found, torch.Tensor) or not found.ndim or len(found) != count or found.is_floating_point():
        raise _fault(ref, f"'prediction' must give integers, a row for each of {count} images, not {_is(found)}")


def _per_image(ref: TaskRef, member: str, found: Any, count: int) -> None:
    if not isinstance(found, torch.Tensor) or tuple(found.shape) != (count,):
        raise _fault(ref, f"'{member}' must give one number for each of {count} images, not {_is(found)}")
    if not bool(found.isfinite().all()) or bool((found < -1e-3).any()):
        raise _fault(ref, f"'{member}' must give finite numbers of at least 0")


def _check_metric(ref: TaskRef, marks: np.ndarray) -> None:
    value = _called(ref, "metric", "", ref.task().metric, marks)
    if not isinstance(value, int | float | np.floating):
        raise _fault(ref, f"'metric' must give one number, not {_is(value)}")
    if not np.isfinite(value):
        raise _fault(
            ref,
            f"its metric is {float(value)} on {len(marks)} validation images",
            "these images may have no label that it counts",
        )
    _called(ref, "interval", "", ref.task().interval, marks, marks)


def _called(ref: TaskRef, member: str, about: str, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except Exception as error:  # a member of the user may raise any type
        if is_out_of_memory(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        where = f" {about}" if about else ""
        raise _fault(ref, f"'{member}' raised {type(error).__name__}{where}: {reason}") from error


def _fault(ref: TaskRef, text: str, hint: str = "docs/tasks.md describes each member") -> UserError:
    return UserError(f"the task '{ref.title}' cannot be used: {text}", hint)


def _is(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"
