"""Rule for ``prepare`` of methods."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from autocompress.contract import Params, Preparing
from autocompress.store import pack, unpack
from autocompress.testing.example import example_context
from autocompress.testing.networks import check_untouched
from autocompress.testing.rules import fingerprint, other_draws, require, same_tensors, through_json


def prepared(method: Preparing, model: nn.Module, params: Params, images: int = 0) -> Any:
    """The state for ``params``, after storing and loading it.

    Args:
        method: the method.
        model: the baseline; it is not changed.
        params: one point of the space of the method.
        images: seed of the images.

    Raises:
        ContractViolation: if ``prepare`` changes the baseline, returns a value that cannot be
            stored, or draws random numbers that do not depend on ``context.seed`` alone.
    """
    packed = _packed(method, model, params, 1, images)
    again = _packed(method, model, params, 2, images)
    require(
        same_tensors(packed[0], again[0]) and packed[1] == again[1],
        "prepare must return the same again for one context.seed: draw from a generator that is seeded with it",
    )
    return unpack(*packed)


def _packed(
    method: Preparing, model: nn.Module, params: Params, seed: int, images: int
) -> tuple[dict[str, torch.Tensor], Any]:
    """The result of ``prepare`` as tensors and JSON, with the global generators at ``seed``."""
    baseline, teacher = copy.deepcopy(model), copy.deepcopy(model)
    context = replace(example_context(model, teacher=teacher, images=images), params=method.shared(params))
    with other_draws(seed, method):
        state = method.prepare(baseline, context)
    for network, role in ((baseline, "the baseline"), (teacher, "context.teacher")):
        require(same_tensors(fingerprint(network), fingerprint(model)), f"prepare must leave {role} as it is")
        check_untouched(network, model, f"prepare must leave {role} as it is")
    tensors, record = pack(state)
    return tensors, through_json(record, "what prepare returns, but for its tensors,")
