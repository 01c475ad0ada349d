"""Importance of channels.

    I = |gamma| (2 beta - 1)        0 at the start, negative where the knockoff won

This is the importance of the official code. A layer without a batch norm behind it has gamma = 1.

If several layers write the same channels, the score of a channel is the mean of their scores
(``contract.coupling_scores``).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from autocompress.contract import Coupling

Scores = dict[str, torch.Tensor]
"""Layer of the baseline -> importance of each output channel, float32 ``(M,)``, on the CPU."""


def importance(gamma: torch.Tensor | None, beta: torch.Tensor) -> torch.Tensor:
    """I_j = |gamma_j| (beta_j - (1 - beta_j)), float32 ``(M,)``; in [-|gamma_j|, |gamma_j|]."""
    advantage = 2 * beta - 1
    return advantage if gamma is None else gamma.abs() * advantage


def pairs_of(couplings: Iterable[Coupling], exempt: Iterable[str] = ()) -> dict[str, str | None]:
    """The baseline's layers that get scores, each with the norm behind it or None.

    For each coupling, these are the writers directly followed by a batch norm. If no writer has a
    norm (in transformers), these are all writers. They are not mixed, because gamma = 1 is not
    comparable with a real gamma.

    Args:
        couplings: couplings of the baseline; those that cannot be pruned are skipped.
        exempt: layers that the paper does not prune (the stem).
    """
    exempt, pairs = set(exempt), {}
    for coupling in couplings:
        if not coupling.prunable:
            continue
        norms = dict(coupling.norm_of)
        writers = [name for name in coupling.producers if name not in exempt]
        chosen = [name for name in writers if name in norms] or writers
        pairs.update({name: norms.get(name) for name in chosen})
    return pairs


def gamma_of(model: nn.Module, norm: str | None) -> torch.Tensor | None:
    """The scale of a batch norm, ``(M,)``; None without a norm, ones if it is not affine."""
    if norm is None:
        return None
    module = model.get_submodule(norm)
    if isinstance(module.weight, torch.Tensor):
        return module.weight.detach()
    return torch.ones(int(module.num_features))  # type: ignore[arg-type]
