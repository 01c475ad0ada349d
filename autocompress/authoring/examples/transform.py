"""A transform: convolutions are replaced by two of lower rank."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from autocompress import models
from autocompress.contract import Context, Method, Params, Plan, Space, Stage, Transform, hookimpl


class Example(Transform):
    """Keeps the largest singular values of each convolution's weight matrix."""

    name, version, stage = "example", "1", Stage.SUBSTITUTE
    reference = "author, title, venue"

    def search_space(self, space: Space, model: nn.Module) -> Params:
        """One share for all convolutions; 1.0 leaves them as they are."""
        share = space.categorical("keep", [0.25, 0.5, 1.0], default=0.5, cheapest=0.25, neutral=1.0)
        return {name: share for name in models.eligible_convolutions(model) if float(share) < 1.0}

    def apply(self, model: nn.Module, params: Params, context: Context) -> tuple[nn.Module, Plan]:
        """W = U S V, cut to the rank that is kept."""
        ranks: Plan = {}
        for name, share in params.items():
            if not isinstance(layer := model.get_submodule(name), nn.Conv2d):
                continue  # another method replaced it
            weight = layer.weight.detach()
            ranks[name] = rank = max(1, int(share * min(weight.flatten(1).shape)))
            u, s, v = torch.linalg.svd(weight.flatten(1), full_matrices=False)
            model.set_submodule(name, pair := _pair(layer, rank))
            pair[0].weight.data = v[:rank].unflatten(1, weight.shape[1:]).clone()
            pair[1].weight.data = (u * s)[:, :rank, None, None].clone()
        return model, ranks

    def rebuild(self, model: nn.Module, plan: Plan) -> nn.Module:
        """The same structure from the ranks; weights are loaded later."""
        for name, rank in plan.items():
            model.set_submodule(name, _pair(model.get_submodule(name), rank))
        return model


def _pair(layer: Any, rank: int) -> nn.Sequential:
    settings = layer.kernel_size, layer.stride, layer.padding, layer.dilation
    second = nn.Conv2d(rank, layer.out_channels, 1, bias=layer.bias is not None)
    second.bias = layer.bias
    return nn.Sequential(nn.Conv2d(layer.in_channels, rank, *settings, bias=False), second).eval()


@hookimpl
def autocompress_methods() -> list[Method]:
    """The methods of this plugin."""
    return [Example()]
