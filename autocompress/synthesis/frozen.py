"""Networks that are looked through and stay as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """Puts ``model`` into eval mode with parameters that ask for no gradient; gradients still flow
    through it to its input. Every module's mode and every parameter's flag is put back afterwards.

    In train mode batch norms would normalise by the images at hand and overwrite the very
    statistics that are wanted.
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
