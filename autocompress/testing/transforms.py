"""Rules for transforms."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from autocompress import models
from autocompress.contract import Callback, Context, Params, Plan, Space, Stage, Transform
from autocompress.quantization.leaves import leaf_types
from autocompress.testing.example import example_context, example_model
from autocompress.testing.leaves import check_leaves
from autocompress.testing.networks import check_mode, check_result, check_untouched, other_weights
from autocompress.testing.preparing import prepared
from autocompress.testing.rules import (
    HASHES,
    ContractViolation,
    Points,
    Report,
    difference,
    fingerprint,
    operators,
    other_draws,
    require,
    same_tensors,
    shapes,
    through_json,
)
from autocompress.testing.spaces import ask, by_rule, named_recipes, random_recipes
from autocompress.testing.structures import check_cheapest, check_structural_flags

RANDOM_RECIPES = 1
"""The number of random points, in addition to the defaults and the cheapest."""
LEAF_IMAGES = 15
"""The number of images for comparing simulated with hardened layers."""


@dataclass(frozen=True)
class Point:
    """One recipe of a transform on one network.

    Attributes:
        method: the transform.
        model: the network, which stays as it is.
        params: what the space returned.
        state: what ``prepare`` returned.
    """

    method: Transform
    model: nn.Module
    params: Params
    state: Any

    @property
    def context(self) -> Context:
        """The context of a real run, with a teacher of its own."""
        return replace(example_context(self.model, teacher=copy.deepcopy(self.model)), state=self.state)

    @property
    def dry_context(self) -> Context:
        """The context of a dry run."""
        return replace(example_context(self.model, dry_run=True), state=self.state)

    def apply(self, context: Context, model: nn.Module | None = None) -> tuple[nn.Module, Plan]:
        """The result in eval mode, and the plan."""
        result, plan = self.applied(context, model)
        return result.eval(), plan

    def applied(self, context: Context, model: nn.Module | None = None) -> tuple[nn.Module, Plan]:
        """What ``apply`` returns for a copy of the network, or of ``model``."""
        given = copy.deepcopy(self.params)
        answer = self.method.apply(copy.deepcopy(self.model if model is None else model), given, context)
        require(isinstance(answer, tuple) and len(answer) == 2, "apply must return (model, plan)")
        result, plan = answer
        require(isinstance(result, nn.Module) and isinstance(plan, dict), "apply must return a module and a dict")
        require(given == self.params, "apply must leave params as they are")
        return result, plan

    def structure(self, model: nn.Module) -> tuple[dict[str, Any], list[tuple[str, str, str]]]:
        """Shapes of all tensors, and the graph."""
        return shapes(model), operators(model, leaf_types(self.method.layers))


def check_transform(method: Transform, model: nn.Module | None = None, params: Params | None = None) -> None:
    """Applies the transform, and checks everything on which the engine relies.

    Args:
        method: the transform.
        model: from ``autocompress.models``; the example model by default. It is not changed.
        params: one point of its space. By default several are checked: the defaults, the cheapest
            point, a random one, and the defaults with each value that samplers never draw
            (``named`` of a parameter).

    Raises:
        ContractViolation: if a rule is broken; the message lists all broken rules.
    """
    model = model if model is not None else example_model()
    pristine = copy.deepcopy(method)
    require(method.stage in tuple(Stage), "a transform must have a stage: SUBSTITUTE or PRUNE")
    report = Report()
    if params is not None:
        state = report.check(prepared, method, model, params)
        _check_point(report, Point(method, model, params, state), pristine)
        report.end()
        return
    titled = [("at the defaults", ask(method, model, by_rule("default")))]
    titled += [("at the cheapest values", ask(method, model, by_rule("cheapest")))]
    titled += [("at a random point", point) for point in list(random_recipes(method, model))[:RANDOM_RECIPES]]
    titled += [("at a named value", point) for point in named_recipes(method, model)]
    states: dict[str, Any] = {}
    points, acting = Points(), []
    for title, (found, space) in titled:
        if not method.acts(found):
            continue
        acting.append((found, space))
        shared = json.dumps(through_json(method.shared(copy.deepcopy(found)), "what shared returns"))
        own = Report()
        if shared not in states:
            states[shared] = own.check(prepared, method, model, found)
        point = Point(method, model, found, states[shared])
        _check_point(own, point, pristine)
        own.check(check_structural_flags, method, model, space, states[shared])
        points.add(title, own.rules)
    report.rules += points.rules()
    if acting:
        report.check(check_cheapest, method, model, next(iter(states.values()), None))
        report.check(_check_memory, method, model, acting, states)
    report.end()


def _check_point(report: Report, point: Point, pristine: Transform) -> None:
    before = fingerprint(point.model)
    context = point.context
    teacher = context.teacher
    assert teacher is not None
    found = report.check(point.applied, context)
    rule = "apply must not change context.teacher"
    if not same_tensors(before, fingerprint(teacher)):
        report.rules.append(rule)
    report.check(check_untouched, teacher, point.model, rule)
    if found is None:
        return
    result, plan = found
    report.check(check_result, result, point.model, teacher)
    result = result.eval()
    for rule_of_point in RULES_OF_POINT:
        report.check(rule_of_point, point, result, plan)
    if report.check(through_json, plan, "the plan") is not None or not plan:
        report.check(_check_rebuild, pristine, point, result, plan)
    report.check(check_leaves, result, point.method.layers, _images(point.model, LEAF_IMAGES))
    report.check(_check_export, point, result)


def _check_outputs(point: Point, result: nn.Module, plan: Plan) -> None:
    del plan
    images = _images(point.model)
    with torch.no_grad():
        expected, found = point.model(images), result(images)
    require(found.shape == expected.shape, f"the output has shape {tuple(found.shape)}, not {tuple(expected.shape)}")
    require(bool(found.isfinite().all()), "the output of the result has numbers that are not finite")


def _check_seed(point: Point, result: nn.Module, plan: Plan) -> None:
    with other_draws(12345, point.method):  # every draw must come from context.seed, not from here
        again, plan_again = point.apply(point.context)
    require(
        same_tensors(fingerprint(result), fingerprint(again)) and plan == plan_again,
        f"apply must give equal models and plans for equal context.seed{HASHES}",
    )


def _check_dry_run(point: Point, result: nn.Module, plan: Plan) -> None:
    del plan
    dry, _ = point.apply(point.dry_context)
    rule = "a dry run (no data, no teacher, no training) must give the deployed structure of the real run"
    _require_same(point, dry, result, rule)


def _check_weights(point: Point, result: nn.Module, plan: Plan) -> None:
    """Checks that the structure depends on the recipe alone.

    Costs are measured before training. A method may declare ``structure_needs_state``.
    """
    del plan
    other, _ = point.apply(point.dry_context, other_weights(point.model))
    rule = "the structure must follow from params, not from the values of weights"
    _require_same(point, other, result, rule)


def _check_images(point: Point, result: nn.Module, plan: Plan) -> None:
    """Checks that the structure does not depend on images, nor on the seed of a run."""
    del plan
    teacher = copy.deepcopy(point.model)
    context = replace(example_context(point.model, teacher=teacher, seed=1, images=1), state=point.state)
    other, _ = point.apply(context)
    _require_same(point, other, result, "the structure must follow from params, not from images or context.seed")


def _check_state(point: Point, result: nn.Module, plan: Plan) -> None:
    """Checks that the structure does not depend on what ``prepare`` returned."""
    del plan
    if point.state is None or point.method.structure_needs_state(point.params):
        return
    state = prepared(point.method, other_weights(point.model), point.params, images=1)
    other, _ = replace(point, state=state).apply(replace(point.dry_context, state=state))
    rule = "the structure must not depend on what prepare returned, unless structure_needs_state says so"
    _require_same(point, other, result, rule)


def _check_without_state(point: Point, result: nn.Module, plan: Plan) -> None:
    """Checks a dry run before ``prepare`` was called: its state is not made for a dry run."""
    del plan
    if point.state is None or point.method.structure_needs_state(point.params):
        return
    other, _ = point.apply(replace(point.dry_context, state=None))
    rule = "a dry run must give the same structure while context.state is None, unless structure_needs_state says so"
    _require_same(point, other, result, rule)


def _require_same(point: Point, found: nn.Module, expected: nn.Module, rule: str) -> None:
    (own, graph), (wanted, wanted_graph) = point.structure(found), point.structure(expected)
    require(own == wanted, f"{rule}; tensors differ: {difference(own, wanted)}")
    require(graph == wanted_graph, f"{rule}; the graphs differ")


def _check_rebuild(pristine: Transform, point: Point, result: nn.Module, plan: Plan) -> None:
    """Checks ``rebuild`` of a new copy of the method, as another process has it."""
    method = copy.deepcopy(pristine)
    rebuilt = method.rebuild(copy.deepcopy(point.model), through_json(plan, "the plan"))
    rule = "rebuild(baseline, plan) must give the structure that apply gave"
    check_mode(rebuilt, point.model, "rebuild must return a model in eval mode, as it was given one")
    require(shapes(rebuilt) == shapes(result), f"{rule}; tensors differ: {difference(shapes(rebuilt), shapes(result))}")
    rebuilt.load_state_dict(result.state_dict())
    with torch.no_grad():
        same = torch.equal(rebuilt(_images(point.model)), result(_images(point.model)))
    require(same, f"{rule}; with the same weights loaded the outputs differ, so the plan lacks something")
    _require_same(point, rebuilt, result, rule)


def _check_memory(
    method: Transform, model: nn.Module, points: list[tuple[Params, Space]], states: dict[str, Any]
) -> None:
    """Rebuilds the first recipe after another one was applied: only the plan may decide."""
    if len(points) < 2:
        return
    made = []
    for params, _ in points[:2]:
        state = states.get(json.dumps(method.shared(copy.deepcopy(params))))
        made.append(
            Point(method, model, params, state).apply(replace(example_context(model, dry_run=True), state=state))
        )
    (first, plan), _ = made
    rebuilt = method.rebuild(copy.deepcopy(model), through_json(plan, "the plan"))
    require(
        shapes(rebuilt) == shapes(first),
        "rebuild must follow its plan alone, and remember nothing of earlier calls; tensors differ: "
        f"{difference(shapes(rebuilt), shapes(first))}",
    )


def _check_layers(point: Point, result: nn.Module, plan: Plan) -> None:
    del plan
    for name, module in result.named_modules():
        for spec in point.method.layers:
            if type(module) is not spec.layer_type:
                continue
            channels = spec.channel_map(module)
            require(
                channels.dtype == torch.int64 and channels.ndim == 1 and len(set(channels.tolist())) == len(channels),
                f"channel_map of {name} must give each output channel an original channel of its own, as int64",
            )


def _check_training(point: Point, result: nn.Module, plan: Plan) -> None:
    del plan
    context = point.context
    student = copy.deepcopy(result).train()
    given = copy.deepcopy(point.model).train()
    ignoring = {name for name, module in given.named_modules() if not module.training}  # not by the plugin
    fixed = [
        name or "the model" for name, module in student.named_modules() if not (module.training or name in ignoring)
    ]
    require(not fixed, f"every module must follow train() and eval(); these do not: {', '.join(fixed[:3])}")
    callbacks = point.method.callbacks(student, point.params, context)
    require(
        isinstance(callbacks, list) and all(isinstance(callback, Callback) for callback in callbacks),
        "callbacks must return a list of Callback",
    )
    assert context.transfer is not None
    images, labels = next(iter(context.transfer.train.loader(16)))
    nn.functional.cross_entropy(student(images), labels).backward()
    silent = [name for name, weight in student.named_parameters() if weight.requires_grad and weight.grad is None]
    require(not silent, f"every parameter must get a gradient in training; these get none: {', '.join(silent[:3])}")


def _check_export(point: Point, result: nn.Module) -> None:
    images = _images(point.model)
    batch = torch.export.Dim("batch", min=1, max=64)
    try:
        program = torch.export.export(result, (images,), dynamic_shapes=({0: batch},))
    except Exception as error:  # torch.export raises many types, and the plugin's author needs the message
        text = f"torch.export must take the result: {type(error).__name__}: {str(error)[:300]}"
        raise ContractViolation(text) from None
    with torch.no_grad():
        found, expected = program.module()(images[:2]), result(images[:2])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


RULES_OF_POINT = (
    _check_outputs,
    _check_seed,
    _check_dry_run,
    _check_weights,
    _check_images,
    _check_state,
    _check_without_state,
    _check_layers,
    _check_training,
)
"""Each is called with a point, the result of ``apply``, and the plan."""


def _images(model: nn.Module, count: int = 3) -> torch.Tensor:
    return torch.randn(count, *models.input_size(model), generator=torch.Generator().manual_seed(7))
