"""Comparisons of networks, for tests."""

from __future__ import annotations

import torch
from torch import nn


def same(first: nn.Module, second: nn.Module) -> bool:
    """Whether two networks have equal tensors."""
    ours, theirs = first.state_dict(), second.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)
