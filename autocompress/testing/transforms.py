"""Rules for transforms."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from autocompress import models
from autocompress.contract import Callback, Context, Params, Plan, Space, Stage, Transform
from autocompress.quantization.leaves import leaf_types
from autocompress.testing.example import example_context, example_model
from autocompress.testing.leaves import check_leaves
from autocompress.testing.preparing import prepared
from autocompress.testing.rules import (
    difference,
    fingerprint,
    operators,
    require,
    same_tensors,
    shapes,
    through_json,
)
from autocompress.testing.spaces import Repeat, ask, by_rule, named_recipes, random_recipes

RANDOM_RECIPES = 1
"""Number of random points, in addition to the defaults and the cheapest."""


def check_transform(method: Transform, model: nn.Module | None = None, params: Params | None = None) -> None:
    """Applies the transform, and checks everything on which the engine relies.

    Args:
        method: the transform.
        model: from ``autocompress.models``; the example model by default. It is not changed.
        params: one point of its space; by default the defaults, the cheapest, a random point, and
            the defaults with each value that only a job can name.

    Raises:
        ContractViolation: naming the rule that is broken.
    """
    model = model if model is not None else example_model()
    require(method.stage in tuple(Stage), "a transform must have a stage: SUBSTITUTE or PRUNE")
    if params is not None:
        _check_point(method, model, params, prepared(method, model, params))
        return
    states: dict[str, Any] = {}
    points = [ask(method, model, by_rule(rule)) for rule in ("default", "cheapest")]
    points += list(random_recipes(method, model))[:RANDOM_RECIPES]
    points += list(named_recipes(method, model))
    for point, space in points:
        if method.acts(point):
            shared = json.dumps(through_json(method.shared(copy.deepcopy(point)), "the result of shared"))
            if shared not in states:
                states[shared] = prepared(method, model, point)
            state = states[shared]
            _check_point(method, model, point, state)
            _check_structural_flags(method, model, point, space, state)


def _check_point(method: Transform, model: nn.Module, params: Params, state: Any) -> None:
    before = fingerprint(model)
    teacher = copy.deepcopy(model)
    context = replace(example_context(model, teacher=teacher), state=state)
    result, plan = _apply(method, model, params, context)
    require(
        same_tensors(before, fingerprint(teacher)) and not teacher.training,
        "apply must not change context.teacher",
    )
    through_json(plan, "the plan")
    _check_outputs(model, result)
    _check_seed(method, model, params, context, result, plan)
    _check_dry_run(method, model, params, state, result)
    _check_rebuild(method, model, result, plan)
    _check_layers(method, result)
    check_leaves(result, method.layers, _images(model))
    _check_training(method, result, params, context)
    _check_export(model, result)


def _apply(method: Transform, model: nn.Module, params: Params, context: Context) -> tuple[nn.Module, Plan]:
    given = copy.deepcopy(params)
    answer = method.apply(copy.deepcopy(model), given, context)
    require(isinstance(answer, tuple) and len(answer) == 2, "apply must return (model, plan)")
    result, plan = answer
    require(isinstance(result, nn.Module) and isinstance(plan, dict), "apply must return a module and a dict")
    require(given == params, "apply must not change params")
    return result.eval(), plan


def _check_outputs(model: nn.Module, result: nn.Module) -> None:
    images = _images(model)
    with torch.no_grad():
        expected, found = model(images), result(images)
    require(
        found.shape == expected.shape,
        f"the output has shape {tuple(found.shape)}, not {tuple(expected.shape)}",
    )
    require(bool(found.isfinite().all()), "the output of the result has numbers that are not finite")


def _check_seed(
    method: Transform, model: nn.Module, params: Params, context: Context, result: nn.Module, plan: Plan
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12345)  # random numbers must depend on context.seed, not on this
        again, plan_again = _apply(method, model, params, context)
    require(
        same_tensors(fingerprint(result), fingerprint(again)) and plan == plan_again,
        "apply must give equal models and plans for equal context.seed",
    )


def _check_dry_run(method: Transform, model: nn.Module, params: Params, state: Any, result: nn.Module) -> None:
    dry, _ = _apply(method, model, params, replace(example_context(model, dry_run=True), state=state))
    rule = "a dry run (no data, no teacher, no training) must give the deployed structure of the real run"
    require(shapes(dry) == shapes(result), f"{rule}; tensors differ: {difference(shapes(dry), shapes(result))}")
    require(
        operators(dry, leaf_types(method.layers)) == operators(result, leaf_types(method.layers)),
        f"{rule}; the graphs differ",
    )


def _check_rebuild(method: Transform, model: nn.Module, result: nn.Module, plan: Plan) -> None:
    rebuilt = method.rebuild(copy.deepcopy(model), through_json(plan, "the plan")).eval()
    rule = "rebuild(baseline, plan) must give the structure of apply"
    require(shapes(rebuilt) == shapes(result), f"{rule}; tensors differ: {difference(shapes(rebuilt), shapes(result))}")
    rebuilt.load_state_dict(result.state_dict())
    with torch.no_grad():
        same = torch.equal(rebuilt(_images(model)), result(_images(model)))
    require(same, f"{rule}; outputs differ with equal weights, so the plan is incomplete")
    require(
        operators(rebuilt, leaf_types(method.layers)) == operators(result, leaf_types(method.layers)),
        f"{rule}; the graphs differ",
    )


def _check_layers(method: Transform, result: nn.Module) -> None:
    for name, module in result.named_modules():
        for spec in method.layers:
            if type(module) is not spec.layer_type:
                continue
            channels = spec.channel_map(module)
            require(
                channels.dtype == torch.int64 and channels.ndim == 1 and len(set(channels.tolist())) == len(channels),
                f"channel_map of {name} must map each output channel to another original channel, int64",
            )


def _check_training(method: Transform, result: nn.Module, params: Params, context: Context) -> None:
    student = copy.deepcopy(result).train()
    callbacks = method.callbacks(student, params, context)
    require(
        isinstance(callbacks, list) and all(isinstance(callback, Callback) for callback in callbacks),
        "callbacks must return a list of Callback",
    )
    assert context.transfer is not None
    images, labels = next(iter(context.transfer.train.loader(16)))
    nn.functional.cross_entropy(student(images), labels).backward()
    silent = [name for name, weight in student.named_parameters() if weight.requires_grad and weight.grad is None]
    require(not silent, f"every parameter must get a gradient in training; these get none: {', '.join(silent[:3])}")


def _check_export(model: nn.Module, result: nn.Module) -> None:
    images = _images(model)
    batch = torch.export.Dim("batch", min=1, max=64)
    try:
        program = torch.export.export(result, (images,), dynamic_shapes=({0: batch},))
    except Exception as error:  # torch.export raises many types, and the author of the plugin needs the message
        require(False, f"torch.export must take the result: {type(error).__name__}: {str(error)[:300]}")
        return
    with torch.no_grad():
        found, expected = program.module()(images[:2]), result(images[:2])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def _check_structural_flags(method: Transform, model: nn.Module, params: Params, space: Space, state: Any) -> None:
    """Checks that parameters with ``structural=False`` do not change the structure.

    Recipes that differ only in these share one latency measurement.
    """
    context = replace(example_context(model, dry_run=True), state=state)
    expected, _ = _apply(method, model, params, context)
    for name, parameter in space.asked.items():
        others = [choice for choice in parameter.choices if choice != space.chosen[name]]
        if parameter.structural or not others:
            continue
        changed, _ = ask(method, model, Repeat({**space.chosen, name: others[0]}))
        found, _ = _apply(method, model, changed, context)
        require(
            shapes(found) == shapes(expected)
            and operators(found, leaf_types(method.layers)) == operators(expected, leaf_types(method.layers)),
            f"{name} has structural=False, but {others[0]!r} gives another structure",
        )


def _images(model: nn.Module) -> torch.Tensor:
    return torch.randn(3, *models.input_size(model), generator=torch.Generator().manual_seed(7))
