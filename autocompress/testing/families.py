"""Rule for other model families: a method works on them, or gives a reason in ``check``."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from autocompress import models
from autocompress.contract import Method, Pruner, Transform
from autocompress.errors import InvalidRecipe
from autocompress.recipes.pruning import prunable
from autocompress.testing.example import example_context, example_job, example_model
from autocompress.testing.pruners import check_orders, orders_of
from autocompress.testing.rules import Report, require, rule_of, shapes, through_json
from autocompress.testing.spaces import ask, by_rule

FAMILIES = ("test_efficientnet", "test_vit")
"""One network with depthwise convolutions and gates, one with attention and linear layers.

The example model is a ResNet.
"""

GROUPED: dict[str, Any] = {
    "layers": [0, 0, 2, 0],
    "channels": [16, 16, 16, 64],
    "cardinality": 2,
    "base_width": 64,
}
"""Arguments of ``test_resnet`` for convolutions of two groups, whose channels are removed in turns.

Its only stage has two blocks.
"""


def check_families(method: Method, known: Sequence[str] = ()) -> None:
    """Tries the defaults of a transform or a pruner on small networks of other families.

    Args:
        method: the method.
        known: rules that it breaks on the example model; they are not reported again.

    Raises:
        ContractViolation: naming the network and the rule that is broken.
    """
    report, general = Report(), {rule_of(rule) for rule in known}
    networks: list[tuple[str, str, dict[str, Any]]] = [(name, name, {}) for name in FAMILIES]
    if isinstance(method, Pruner):
        networks.append(("test_resnet with grouped convolutions", "test_resnet", GROUPED))
    for title, name, args in networks:
        own = Report()
        own.check(_check_family, own, method, name, args)
        hint = "let check give a reason for networks that the method cannot change, and name no layer of one network"
        new = [rule for rule in own.rules if rule_of(rule) not in general]
        report.rules += [f"on {title}, {rule} ({hint})" for rule in new]
    report.end()


def _check_family(report: Report, method: Method, name: str, args: dict[str, Any]) -> None:
    model = example_model(name, args=args)
    reasons = method.check(copy.deepcopy(model), example_job(name))
    require(isinstance(reasons, list), f"check must return a list of reasons, not {reasons!r}")
    if reasons:
        return
    params, _ = ask(method, model, by_rule("default"))
    if not method.acts(copy.deepcopy(params)):
        return
    try:
        if isinstance(method, Transform):
            _check_transform(method, model, params)
        elif isinstance(method, Pruner) and not method.prepares:
            couplings = prunable(model, "group")
            check_orders(orders_of(report, method, model, couplings, params, None), couplings)
    except InvalidRecipe as error:
        require(False, f"the defaults must be a valid recipe, but: {error}")


def _check_transform(method: Transform, model: nn.Module, params: Any) -> None:
    if method.structure_needs_state(params):
        return
    size = models.input_size(model)
    result, plan = method.apply(copy.deepcopy(model), copy.deepcopy(params), example_context(model, dry_run=True))
    with torch.no_grad():
        found, expected = result.eval()(torch.zeros(2, *size)), model(torch.zeros(2, *size))
    require(found.shape == expected.shape, f"the output has shape {tuple(found.shape)}, not {tuple(expected.shape)}")
    rebuilt = method.rebuild(copy.deepcopy(model), through_json(plan, "the plan"))
    require(shapes(rebuilt) == shapes(result), "rebuild(baseline, plan) must give the structure that apply gave")
