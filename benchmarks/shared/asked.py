"""The parameters of a method, as a job would set them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from autocompress.contract import Method, Params, Space, Value
from autocompress.recipes.choosers import Replay


def params_of(method: Method, model: nn.Module, values: Mapping[str, Value]) -> Params:
    """The defaults of the method, with the given values by short name."""
    limits = {f"{method.name}.{name}": value for name, value in values.items()}
    space = Space(Replay({}), "model", limits)
    params = method.search_space(space.scope(method.name), model)
    if unknown := set(limits) - space.matched:
        raise ValueError(f"{method.name} has no {', '.join(sorted(unknown))}")
    return params
