"""A method's parameters, as a job would fix them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from autocompress.contract import Method, Params, Space, Value
from autocompress.recipes.choosers import Replay


def params_of(method: Method, model: nn.Module, values: Mapping[str, Value]) -> Params:
    """Parameters by short name over the method's defaults, as a job would fix them."""
    limits = {f"{method.name}.{name}": value for name, value in values.items()}
    space = Space(Replay({}), "model", limits)
    params = method.search_space(space.scope(method.name), model)
    if unknown := set(limits) - space.matched:
        raise ValueError(f"{method.name} has no {', '.join(sorted(unknown))}")
    return params
