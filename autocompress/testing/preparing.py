"""Rule for ``prepare`` of methods."""

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
    """The state for ``params``, after storing and loading it.

    Raises:
        ContractViolation: if ``prepare`` changes the baseline, or its result cannot be stored.
    """
    baseline = copy.deepcopy(model)
    context = replace(example_context(model, teacher=copy.deepcopy(model)), params=method.shared(params))
    state = method.prepare(baseline, context)
    require(same_tensors(fingerprint(baseline), fingerprint(model)), "prepare must not change the baseline")
    tensors, record = pack(state)
    return unpack(tensors, through_json(record, "the result of prepare, without its tensors,"))
