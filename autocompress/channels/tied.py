"""Finds weights that several layers share: removing channels of one layer would separate them."""

from __future__ import annotations

from torch import nn


def tied(model: nn.Module) -> dict[str, str]:
    """For each path of a shared parameter, its path in another module.

    A module that is called several times, or that has several paths, is one module here.
    """
    paths: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for own, parameter in module.named_parameters(recurse=False):
            paths.setdefault(id(parameter), []).append(f"{name}.{own}" if name else own)
    shared = [same for same in paths.values() if len(same) > 1]
    return {path: next(other for other in same if other != path) for same in shared for path in same}
