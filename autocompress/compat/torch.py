"""Names of torch that its public interface lacks."""

from __future__ import annotations

from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm as BatchNormBase

__all__ = ["BatchNormBase", "version_of"]
# BatchNormBase: the base class of batch norms of one, two and three dimensions.


def version_of(tensor: Tensor) -> int:
    """How often ``tensor`` was changed in place. Private: ``Tensor._version``."""
    return int(tensor._version)
