"""Checks that a network accepts the images, outputs logits, and can be traced."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from autocompress.errors import UserError
from autocompress.graph.trace import UntraceableModel, evaluating, trace
from autocompress.memory import is_out_of_memory, out_of_memory_told

_IMAGES = 2
"""Images per check: a batch norm in training mode needs more than one value per channel."""


def check_forward(
    model: nn.Module, input_size: tuple[int, int, int], outputs: tuple[int, ...] | None, name: str
) -> None:
    """Runs two images of noise in eval and in training mode; the model is not changed.

    Args:
        model: the new model, on the CPU.
        input_size: (channels, height, width).
        outputs: shape of the output for one image; None for any.
        name: name of the model, for the error.

    Raises:
        UserError: if there is not enough memory, if the model cannot take such images, or if its
            output is not one float tensor ``(N, num_classes)`` of finite values.
    """
    what = f"{_IMAGES} images of {input_size[1]} x {input_size[2]} pixels in '{name}'"
    with out_of_memory_told(what, "lower input_size"), _restored(model), torch.no_grad():
        images = torch.randn(_IMAGES, *input_size, generator=torch.Generator().manual_seed(0))
        for training in (False, True):
            answer = _answer(model.train(training), images, input_size, name)
            _check_answer(answer, outputs, name, "in training" if training else "")
            if not training and not bool(answer.isfinite().all()):
                raise UserError(
                    f"'{name}' with these weights outputs logits that are not finite numbers",
                    "the weights are damaged, or belong to another network",
                )


def check_traceable(model: nn.Module, name: str) -> None:
    """Refuses a network whose forward is not one static graph; the model is not changed.

    Raises:
        UserError: naming the layer in which tracing stops.
    """
    try:
        with evaluating(model):
            trace(model)
    except UntraceableModel as error:
        hint = "its forward decides by values of tensors: change model_args, or choose another model"
        raise UserError(
            f"'{name}' cannot be compressed, because torch.fx cannot trace it: {error.reason}", hint
        ) from error


def _answer(model: nn.Module, images: torch.Tensor, size: tuple[int, int, int], name: str) -> Any:
    try:
        return model(images)
    except Exception as error:  # the forward of a model may raise any type
        if is_out_of_memory(error):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        height_width = f"{size[1]} x {size[2]} pixels and {size[0]} channel{'s' if size[0] > 1 else ''}"
        hint = "set input_size, or change model_args"
        if re.search(r"dtype|Input type|data type", reason):
            hint = "all weights are float32 here: its forward must not convert images to another type"
        raise UserError(f"'{name}' cannot take images of {height_width}: {reason}", hint) from error


def _check_answer(answer: Any, outputs: tuple[int, ...] | None, name: str, when: str) -> None:
    shape = (_IMAGES, *(outputs or ()))
    wanted = f"one tensor of logits {shape} is needed" if outputs else "one tensor is needed"
    hint = "see model_args (aux_logits, global_pool, features_only and others), or choose another model"
    gives = " ".join(filter(None, [f"'{name}' gives", when]))
    if not isinstance(answer, torch.Tensor):
        raise UserError(f"{gives} a {type(answer).__name__} where {wanted}", hint)
    if tuple(answer.shape if outputs else answer.shape[:1]) != shape:
        raise UserError(f"{gives} a tensor {tuple(answer.shape)} for {_IMAGES} images where {wanted}", hint)
    if not answer.is_floating_point():
        raise UserError(f"{gives} a tensor of {answer.dtype} where {wanted}", hint)


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Restores modes, buffers and random state after passes in training mode."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        for module, training in modes:
            module.training = training
        for buffer, before in buffers:
            if buffer.shape == before.shape:
                buffer.data.copy_(before)


def trains_on_one_image(model: nn.Module, input_size: tuple[int, int, int]) -> bool:
    """Whether ``model`` can be trained with batches of one image.

    With batch norm on a feature map of one pixel it cannot, because one value per channel has no
    variance. The model is not changed.
    """
    with _restored(model), torch.no_grad():
        try:
            model.train()(torch.zeros(1, *input_size))
        except ValueError:  # torch.nn.functional.batch_norm: "Expected more than 1 value per channel when training"
            return False
    return True
