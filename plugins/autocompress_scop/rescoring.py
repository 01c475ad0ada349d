"""Recovers a substituted network for a short while, so that it can be scored itself."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn

from autocompress.contract import Context
from autocompress.training import recover

RECOVERY = {"lr": 2e-3, "distill": 0.5}
"""The defaults of RECOVER."""


def is_substituted(model: nn.Module, baseline: nn.Module) -> bool:
    """Whether the network differs from the baseline, in structure or weights."""
    if repr(model) != repr(baseline):
        return True
    own, other = model.state_dict(), baseline.state_dict()
    return own.keys() != other.keys() or any(
        not torch.equal(own[name], other[name].to(own[name].device)) for name in own
    )


def recovered(model: nn.Module, epochs: int, context: Context) -> nn.Module:
    """A copy of ``model`` that RECOVER trained with its defaults and the layers' callbacks.

    Raises:
        TrialFailed: if the loss is not finite.
    """
    settings = {**RECOVERY, "epochs": epochs}
    student = copy.deepcopy(model)
    return recover(student, settings, context, list(context.callbacks(student)), pause=context.pause)


def breathing(context: Context) -> Callable[..., None]:
    """``context.progress`` with a pause after each step, in which others may measure."""

    def told(done: float, text: str = "") -> None:
        context.progress(done, text)
        context.pause()

    return told
