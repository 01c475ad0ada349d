"""Low-rank convolutions: W [n, c k k] is cut to its r largest singular values.

The result is a k x k convolution, followed by a 1 x 1 convolution.
"""

from __future__ import annotations

import torch
from torch import nn

from autocompress import models
from autocompress.contract import Context, Method, Params, Plan, Space, Stage, Transform, hookimpl


class LowRank(Transform):
    """Keeps a share of each convolution's weights.

    ``lowrank.keep.<group>``: 0.25, 0.5, or 1.0 to leave it alone.
    """

    name, version, stage = "lowrank", "1", Stage.SUBSTITUTE
    reference = "Zhang et al., Accelerating Very Deep Convolutional Networks, TPAMI 2016, arXiv 1505.06798"

    def search_space(self, space: Space, model: nn.Module) -> Params:
        groups = models.groups(model, space.granularity)
        members: dict[str, list[str]] = {}
        for name in models.eligible_convolutions(model):
            members.setdefault(models.group_of(name, groups), []).append(name)
        keep: Params = {}
        for group, names in members.items():
            share = space.categorical(f"keep.{group}", [0.25, 0.5, 1.0], default=0.5, cheapest=0.25, neutral=1.0)
            keep.update(dict.fromkeys(names, share) if share < 1.0 else {})
        return keep

    def apply(self, model: nn.Module, params: Params, context: Context) -> tuple[nn.Module, Plan]:
        del context  # the weights alone decide
        ranks: Plan = {}
        for name, keep in params.items():
            conv = model.get_submodule(name)
            if not isinstance(conv, nn.Conv2d):
                continue  # another method was here first
            weight = conv.weight.detach().flatten(1)
            ranks[name] = max(1, int(keep * weight.numel() / sum(weight.shape)))
            u, s, v = torch.linalg.svd(weight, full_matrices=False)
            pair = _pair(conv, ranks[name])
            pair[0].weight.data = v[: ranks[name]].unflatten(1, conv.weight.shape[1:]).clone()
            pair[1].weight.data = (u * s)[:, : ranks[name], None, None].clone()
            model.set_submodule(name, pair)
        return model, ranks

    def rebuild(self, model: nn.Module, plan: Plan) -> nn.Module:
        for name, rank in plan.items():
            model.set_submodule(name, _pair(model.get_submodule(name), rank))
        return model


def _pair(conv: nn.Conv2d, rank: int) -> nn.Sequential:
    first = nn.Conv2d(conv.in_channels, rank, conv.kernel_size, conv.stride, conv.padding, conv.dilation, bias=False)
    second = nn.Conv2d(rank, conv.out_channels, 1, bias=conv.bias is not None)
    second.bias = conv.bias
    return nn.Sequential(first, second)


@hookimpl
def autocompress_methods() -> list[Method]:
    return [LowRank()]
