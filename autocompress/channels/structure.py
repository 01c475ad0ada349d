"""A key of the structure of a network: equal keys mean equal couplings."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import nn

from autocompress.channels.tied import tied


def structure(model: nn.Module) -> str:
    """The structure of a network as text.

    It contains the ``repr`` of the network and the layers that share a weight. It contains
    attributes that are whole numbers, because forward passes reshape by them (timm's ``num_heads``,
    window sizes). It contains buffers of whole numbers, because they hold orders of channels
    (``places`` of a ghost module). Weights, running statistics and counters are not in it.
    """
    own = (f"{name} {told}" for name, module in model.named_modules() for told in _unsaid(module))
    shared = (f"{path} is {other}" for path, other in tied(model).items())
    return "\n".join((repr(model), *own, *shared))


def _unsaid(module: nn.Module) -> Iterator[str]:
    whole = [(name, value) for name, value in vars(module).items() if name != "training" and _is_whole(value)]
    yield from (f"{name}={value}" for name, value in sorted(whole))
    for name, buffer in module.named_buffers(recurse=False):
        if buffer.dim() and not buffer.is_floating_point() and not buffer.is_complex():
            yield f"{name}={_fingerprint(buffer)}"


def _is_whole(value: object) -> bool:
    if isinstance(value, int):
        return True
    return isinstance(value, (tuple, list)) and all(isinstance(part, int) for part in value)


def _fingerprint(buffer: torch.Tensor) -> str:
    values = buffer.detach().cpu().contiguous()
    return f"{tuple(values.shape)} {hashlib.sha256(values.numpy().tobytes()).hexdigest()}"
