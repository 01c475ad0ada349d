"""The error for a broken rule, and comparisons for all checks."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import nn

from autocompress.graph import trace


class ContractViolation(AssertionError):
    """A method breaks a rule of the contract; the message is the rule."""


def require(holds: bool, rule: str) -> None:
    """Raises :class:`ContractViolation` with ``rule`` unless it ``holds``."""
    if not holds:
        raise ContractViolation(rule)


def through_json(value: Any, what: str) -> Any:
    """``value`` written as JSON and read again; both must be equal."""
    try:
        again = json.loads(json.dumps(value))
    except (TypeError, ValueError) as error:
        raise ContractViolation(f"{what} must be JSON: {error}") from None
    require(again == value, f"{what} must be unchanged by JSON (no tuples, no number as a key): {value!r}")
    return again


def fingerprint(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of all parameters and buffers."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same_tensors(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Equal names, shapes and values; NaN equals NaN."""
    return first.keys() == second.keys() and all(
        first[name].shape == second[name].shape and torch.equal(first[name].nan_to_num(), second[name].nan_to_num())
        for name in first
    )


def shapes(model: nn.Module) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of each parameter and buffer."""
    return {name: (tuple(tensor.shape), str(tensor.dtype)) for name, tensor in model.state_dict().items()}


def operators(model: nn.Module, leaves: tuple[type, ...] = ()) -> list[tuple[str, str, str]]:
    """The traced graph as text: the target of each node, with its constants."""
    graph = trace(model, leaves).graph
    return [(node.op, str(node.target), str(node.args) + str(node.kwargs)) for node in graph.nodes]


def difference(first: dict[str, Any], second: dict[str, Any]) -> str:
    """The first few differences of two descriptions."""
    names = [name for name in {**first, **second} if first.get(name) != second.get(name)]
    return "; ".join(f"{name}: {first.get(name)} against {second.get(name)}" for name in names[:3])
