"""Rebuilding a network's structure from its plan."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

from torch import nn

from autocompress.compression import prune_repair
from autocompress.compression.layertypes import layer_specs
from autocompress.contract import Method, Plan, Transform


def rebuild(baseline: nn.Module, steps: Sequence[Plan], methods: Mapping[str, Method]) -> nn.Module:
    """A copy of ``baseline`` with the structure of ``steps``: transforms, PRUNE and REPAIR.

    It needs no data, no training and no pruner.

    Raises:
        KeyError: if a transform of the plan is not in ``methods``.
    """
    model = copy.deepcopy(baseline)
    specs = layer_specs(list(methods.values()))
    for step in steps:
        if "stage" in step:
            model = prune_repair.rebuild(model, step, specs)
            continue
        method = methods[step["method"]]
        assert isinstance(method, Transform)
        model = method.rebuild(model, step["plan"])
    return model.eval()
