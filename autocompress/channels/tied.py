"""Weights that layers share: removing channels of one layer alone would untie them."""

from __future__ import annotations

from torch import nn


def tied(model: nn.Module) -> dict[str, str]:
    """By path of a parameter, another path that leads to it through another module.

    A module that is called at several places, or has several paths, is one module and shares
    nothing with itself.
    """
    paths: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for own, parameter in module.named_parameters(recurse=False):
            paths.setdefault(id(parameter), []).append(f"{name}.{own}" if name else own)
    shared = [same for same in paths.values() if len(same) > 1]
    return {path: next(other for other in same if other != path) for same in shared for path in same}
