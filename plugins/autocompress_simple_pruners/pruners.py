"""Magnitude, batch-norm scale and random: one score per channel, from weights of its writer."""

from __future__ import annotations

import zlib
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import nn

from autocompress.contract import Context, Coupling, Params, Pruner, coupling_scores, manager
from autocompress.errors import InvalidRecipe


class _ByScore(Pruner):
    """Removes channels in the order of a score, the lowest first.

    Scores of several writers are averaged.
    """

    version = "1"
    searched = False

    @abstractmethod
    def scores(self, layer: nn.Module, norm: nn.Module | None, name: str, seed: int) -> torch.Tensor:
        """A score for each output channel of ``layer``; its weight has one row per channel."""

    def order(self, coupling: Coupling, params: Params, context: Context) -> Sequence[int]:
        del params
        model, norms = context.model, dict(coupling.norm_of)
        assert model is not None
        networks = [dict(network.named_modules()) for network in (model, context.teacher) if network is not None]
        own: dict[str, torch.Tensor] = {}
        for name in coupling.producers:
            # A module of a plugin may have no weight; then the replaced layer of the baseline is
            # used.
            modules = next((modules for modules in networks if _has_weight(modules.get(name))), None)
            if modules is not None:
                norm = modules.get(norms[name]) if name in norms else None
                own[name] = self.scores(modules[name], norm, name, context.seed).detach().float().cpu()
        specs = [spec for method in manager().methods() for spec in method.layers]
        found = coupling_scores(coupling, own, model, specs)
        if found is None:
            raise InvalidRecipe(f"no layer that writes the channels of {coupling.name} has weights to judge them by")
        if not bool(torch.isfinite(found).all()):
            raise InvalidRecipe(f"the weights of {coupling.name} are not finite")
        return coupling.ranked(found.tolist())


class Magnitude(_ByScore):
    """I_j = |W_j|_1, the filter's L1 norm."""

    name = "magnitude"
    reference = "Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, arXiv 1608.08710"

    def scores(self, layer: nn.Module, norm: nn.Module | None, name: str, seed: int) -> torch.Tensor:
        del norm, name, seed
        return l1_norms(layer)


class BatchNormScale(_ByScore):
    """I_j = |gamma_j| of the batch norm behind the filter; without one, its L1 norm."""

    name = "bn_scale"
    reference = "Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017"

    def scores(self, layer: nn.Module, norm: nn.Module | None, name: str, seed: int) -> torch.Tensor:
        del name, seed
        gamma = None if norm is None else norm.weight
        return gamma.abs() if isinstance(gamma, torch.Tensor) else l1_norms(layer)


class Random(_ByScore):
    """I_j ~ U(0, 1), by seed and layer: the baseline for all criteria."""

    name = "random"
    reference = "the control of every pruning paper"

    def scores(self, layer: nn.Module, norm: nn.Module | None, name: str, seed: int) -> torch.Tensor:
        del norm
        assert isinstance(layer.weight, torch.Tensor)
        generator = torch.Generator().manual_seed((seed * 1_000_003 + zlib.crc32(name.encode())) % 2**63)
        return torch.rand(len(layer.weight), generator=generator)


def _has_weight(layer: nn.Module | None) -> bool:
    return isinstance(getattr(layer, "weight", None), torch.Tensor)


def l1_norms(layer: nn.Module) -> torch.Tensor:
    """|W_j|_1 of each output channel."""
    assert isinstance(layer.weight, torch.Tensor)
    return layer.weight.detach().abs().flatten(1).sum(1)
