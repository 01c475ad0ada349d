"""Rules for pruners."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from autocompress.compression.repair import Images, Inputs
from autocompress.contract import Context, Coupling, Params, Pruner, Space
from autocompress.recipes.pruning import prunable
from autocompress.testing.example import example_context, example_model
from autocompress.testing.networks import check_untouched
from autocompress.testing.preparing import prepared
from autocompress.testing.rules import Report, fingerprint, other_draws, require, same_tensors, through_json
from autocompress.testing.spaces import ask, by_rule, named_recipes, random_recipes

RANDOM_RECIPES = 1
"""Number of random points, in addition to the defaults."""


def check_pruner(method: Pruner, model: nn.Module | None = None, params: Params | None = None) -> None:
    """Checks the orders of channels that the pruner returns.

    An order must be a permutation of the channels of the coupling, with blocks of equal size taking
    turns, so that every prefix can be removed. It must be equal for equal ``context.seed``, and for
    a coupling alone or with others. Networks must not be changed.

    Args:
        method: the pruner.
        model: from ``autocompress.models``; the example model by default. It is not changed.
        params: one point of its space; by default the defaults, a random point, and the defaults
            with each value that samplers never draw (``named`` of a parameter).

    Raises:
        ContractViolation: if a rule is broken; the message lists all broken rules.
    """
    model = model if model is not None else example_model()
    report = Report()
    points = [params] if params is not None else report.check(_points, method, model)
    for point in points or []:
        _check_point(report, method, model, point)
    report.end()


def _points(method: Pruner, model: nn.Module) -> list[Params]:
    points: list[tuple[Params, Space]] = [ask(method, model, by_rule("default"))]
    points += list(random_recipes(method, model))[:RANDOM_RECIPES]
    points += list(named_recipes(method, model))
    found: dict[str, Params] = {}
    for point, space in points:
        structural = [name for name, parameter in space.asked.items() if parameter.structural]
        require(not structural, f"widths do not depend on the order, so {', '.join(structural)} must not be structural")
        found.setdefault(json.dumps(through_json(point, "params"), sort_keys=True), point)
    return list(found.values())


def _check_point(report: Report, method: Pruner, model: nn.Module, params: Params) -> None:
    state = report.check(prepared, method, model, params)
    couplings = prunable(model, "group")
    orders = report.check(orders_of, report, method, model, couplings, params, state)
    if orders is not None:
        report.check(check_orders, orders, couplings)
        report.check(_check_again, report, method, model, couplings, params, state, orders)


def check_orders(orders: Mapping[str, Sequence[int]], couplings: Sequence[Coupling]) -> None:
    """Checks that each coupling has an order, and that every prefix of it can be removed."""
    for coupling in couplings:
        require(coupling.name in orders, f"orders must have an order for each coupling; {coupling.name} has none")
        order = orders[coupling.name]
        try:
            coupling.check_order(order)
        except ValueError as error:
            require(False, f"an order must be nested and respect blocks: {error} (Coupling.ranked makes such orders)")


def _check_again(
    report: Report,
    method: Pruner,
    model: nn.Module,
    couplings: Sequence[Coupling],
    params: Params,
    state: Any,
    orders: Mapping[str, Sequence[int]],
) -> None:
    with other_draws(12345):  # every draw must come from context.seed, not from here
        again = orders_of(report, method, model, couplings, params, state)
    require(
        again == orders, "the orders must be equal for equal context.seed: draw from a generator that is seeded with it"
    )
    alone = orders_of(report, method, model, couplings[:1], params, state)
    require(
        alone.get(couplings[0].name) == orders.get(couplings[0].name),
        "the order of a coupling must not depend on the other couplings of the call",
    )


def orders_of(
    report: Report, method: Pruner, model: nn.Module, couplings: Sequence[Coupling], params: Params, state: Any
) -> dict[str, list[int]]:
    """The orders of the pruner; changes that it makes to its arguments go to ``report``."""
    own, teacher = copy.deepcopy(model), copy.deepcopy(model)
    context = example_context(model, teacher=teacher)
    context = replace(context, state=state, model=own, moments=_moments(own, context))
    given = copy.deepcopy(params)
    found: Mapping[str, Sequence[int]] = method.orders(couplings, given, context)
    report.check(require, given == params, "orders must not change params: copy them first")
    for network, role in ((own, "context.model"), (teacher, "context.teacher")):
        rule = f"orders must leave {role} as it is"
        report.check(require, same_tensors(fingerprint(network), fingerprint(model)), f"{rule}: copy it first")
        report.check(check_untouched, network, model, rule)
    require(isinstance(found, Mapping), f"orders must return a dict of orders by name, not {type(found).__name__}")
    return {name: [int(channel) for channel in order] for name, order in found.items()}


def _moments(model: nn.Module, context: Context) -> Callable[[Sequence[str]], Mapping[str, Any]]:
    assert context.transfer is not None
    images = Images(context.transfer.calibration, 48, context.seed, context.device, context.transfer.digest)
    return Inputs(model, [], images)
