"""Names of torch that its public interface lacks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm as BatchNormBase

__all__ = ["BACKWARD_ENGINE", "BatchNormBase", "has_native_bfloat16", "version_of"]
# BatchNormBase: the base class of batch norms of one, two and three dimensions.

BACKWARD_ENGINE = (torch.autograd, "_engine_run_backward")
"""Module and name of the function that computes gradients for ``backward`` and ``grad``."""


def has_native_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16.

    Private: ``torch.cpu._is_avx512_bf16_supported``.
    """
    return torch.cpu._is_avx512_bf16_supported()


def version_of(tensor: Tensor) -> int:
    """The number of changes of ``tensor`` in place. Private: ``Tensor._version``."""
    return int(tensor._version)
