"""The rule for what a method prepares."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from torch import nn

from autocompress.contract import Params, Preparing
from autocompress.store import pack, unpack
from autocompress.testing.example import example_context
from autocompress.testing.rules import fingerprint, require, same_tensors, through_json


def prepared(method: Preparing, model: nn.Module, params: Params) -> Any:
    """What the engine keeps for recipes like ``params``, after its way through the store.

    Raises:
        ContractViolation: if ``prepare`` changes the baseline, or returns what cannot be kept.
    """
    baseline = copy.deepcopy(model)
    context = replace(example_context(model, teacher=copy.deepcopy(model)), params=method.shared(params))
    state = method.prepare(baseline, context)
    require(same_tensors(fingerprint(baseline), fingerprint(model)), "prepare must leave the baseline as it is")
    tensors, record = pack(state)
    return unpack(tensors, through_json(record, "what prepare returns, but for its tensors,"))
