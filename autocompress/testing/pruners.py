"""Rules for pruners."""

from __future__ import annotations

import copy
import json
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from autocompress import models
from autocompress.compression.repair import Images, Inputs
from autocompress.contract import Context, Coupling, Params, Pruner, Space
from autocompress.recipes.pruning import prunable
from autocompress.testing.example import example_context, example_model
from autocompress.testing.networks import check_untouched
from autocompress.testing.preparing import prepared
from autocompress.testing.rules import (
    HASHES,
    ContractViolation,
    Points,
    Report,
    fingerprint,
    other_draws,
    require,
    same_tensors,
    through_json,
)
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
    pristine = copy.deepcopy(method)
    report, points = Report(), Points()
    asked = [params] if params is not None else report.check(_points, method, model)
    for point in asked or []:
        own = Report()
        _check_point(own, method, model, point, pristine)
        points.add(f"with {point}" if point else "with its defaults", own.rules)
    report.rules += points.rules()
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


def _check_point(report: Report, method: Pruner, model: nn.Module, params: Params, pristine: Pruner) -> None:
    state = report.check(prepared, method, model, params)
    couplings = prunable(model, "group")

    def orders_by(asked: Pruner, of: Sequence[Coupling]) -> dict[str, list[int]]:
        return orders_of(report, asked, model, of, params, state)

    orders = report.check(orders_by, method, couplings)
    if orders is not None:
        report.check(check_orders, orders, couplings)
        report.check(_check_again, partial(orders_by, method, couplings), method, orders)
        report.check(_check_apart, partial(orders_by, copy.deepcopy(pristine)), couplings, orders)
    report.check(_check_changed, report, method, model, params, state)


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
    ask: Callable[[], Mapping[str, Sequence[int]]], method: Pruner, orders: Mapping[str, Sequence[int]]
) -> None:
    with other_draws(12345, method):  # every draw must come from context.seed, not from here
        again = ask()
    require(
        again == orders,
        f"the orders must be equal for equal context.seed: draw from a generator that is seeded with it{HASHES}",
    )


def _check_apart(
    ask: Callable[[Sequence[Coupling]], Mapping[str, Sequence[int]]],
    couplings: Sequence[Coupling],
    orders: Mapping[str, Sequence[int]],
) -> None:
    """Asks a new copy of the method, as another process has it, for couplings in other calls.

    The last coupling comes alone, and then all of them from the last to the first.
    """
    for asked in (couplings[-1:], couplings[::-1]):
        found = ask(asked)
        other = [one.name for one in asked if found.get(one.name) != orders.get(one.name)]
        require(
            not other,
            "the order of a coupling must not depend on the other couplings of the call, nor on earlier calls: "
            f"{', '.join(other[:3])}",
        )


def _check_changed(report: Report, method: Pruner, model: nn.Module, params: Params, state: Any) -> None:
    """Asks for the orders of a network that a transform changed before: a layer is two layers."""
    name = next((name for name in models.eligible_convolutions(model) if _is_written(model, name)), None)
    if name is None:
        return
    changed = copy.deepcopy(model)
    layer = changed.get_submodule(name)
    assert isinstance(layer, nn.Conv2d)
    behind = nn.Conv2d(layer.out_channels, layer.out_channels, 1, bias=False)
    with torch.no_grad():
        nn.init.dirac_(behind.weight).mul_(0.9)
    changed.set_submodule(name, nn.Sequential(layer, behind).eval())
    couplings = prunable(changed, "group")
    about = f"for a network in which a transform replaced {name} by two layers: read layers of context.model, not of"
    own = Report()
    orders = own.check(orders_of, own, method, changed, couplings, params, state, model)
    if orders is not None:
        own.check(check_orders, orders, couplings)
    report.rules += [f"{text} ({about} the teacher)" for text in own.rules]


def _is_written(model: nn.Module, name: str) -> bool:
    return any(name in coupling.producers for coupling in prunable(model, "group"))


def orders_of(
    report: Report,
    method: Pruner,
    model: nn.Module,
    couplings: Sequence[Coupling],
    params: Params,
    state: Any,
    baseline: nn.Module | None = None,
) -> dict[str, list[int]]:
    """The orders of the pruner; changes that it makes to its arguments go to ``report``.

    Args:
        report: gets the rules that are broken.
        method: the pruner.
        model: the network that will lose channels.
        couplings: couplings of ``model``.
        params: params of the pruner.
        state: what ``prepare`` returned.
        baseline: the network of ``context.teacher``; by default ``model``.
    """
    baseline = model if baseline is None else baseline
    own, teacher = copy.deepcopy(model), copy.deepcopy(baseline)
    context = example_context(model, teacher=teacher)
    context = replace(context, state=state, model=own, moments=_moments(own, context))
    given = copy.deepcopy(params)
    found: Mapping[str, Sequence[int]] = method.orders(couplings, given, context)
    report.check(require, given == params, "orders must not change params: copy them first")
    for network, original, role in ((own, model, "context.model"), (teacher, baseline, "context.teacher")):
        rule = f"orders must leave {role} as it is"
        report.check(require, same_tensors(fingerprint(network), fingerprint(original)), f"{rule}: copy it first")
        report.check(check_untouched, network, original, rule)
    require(isinstance(found, Mapping), f"orders must return a dict of orders by name, not {type(found).__name__}")
    return {name: _numbers(name, order) for name, order in found.items()}


def _numbers(name: str, order: Sequence[int]) -> list[int]:
    try:
        return [operator.index(channel) for channel in order]
    except TypeError:
        text = f"an order must be a sequence of whole numbers: that of {name} is {type(order).__name__} of other values"
        raise ContractViolation(text) from None


def _moments(model: nn.Module, context: Context) -> Callable[[Sequence[str]], Mapping[str, Any]]:
    assert context.transfer is not None
    images = Images(context.transfer.calibration, 48, context.seed, context.device, context.transfer.digest)
    return Inputs(model, [], images)
