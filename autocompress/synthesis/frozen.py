"""Use of a network for gradients without changing it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """Sets ``model`` to eval mode, and its parameters to need no gradient.

    Gradients still flow through it to its input. Modes and flags are restored afterwards.

    In train mode batch norms would normalise by the present images and overwrite the statistics
    that are needed.
    """
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        model.requires_grad_(False)
        yield model
    finally:
        for module, training in modes:
            module.training = training
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
