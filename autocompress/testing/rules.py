"""How a broken rule is told, and the comparisons that the checks share."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import nn

from autocompress.graph import trace


class ContractViolation(AssertionError):
    """A rule of the contract that a method breaks."""


def require(holds: bool, rule: str) -> None:
    """Raises :class:`ContractViolation` with ``rule`` unless it ``holds``."""
    if not holds:
        raise ContractViolation(rule)


def through_json(value: Any, what: str) -> Any:
    """``value`` written as JSON and read again; it must be the same."""
    try:
        again = json.loads(json.dumps(value))
    except (TypeError, ValueError) as error:
        raise ContractViolation(f"{what} must be JSON: {error}") from None
    require(again == value, f"{what} must survive JSON unchanged (no tuples, no number as a key): {value!r}")
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
    """The traced graph as text: what each node calls, with which constants."""
    graph = trace(model, leaves).graph
    return [(node.op, str(node.target), str(node.args) + str(node.kwargs)) for node in graph.nodes]


def difference(first: dict[str, Any], second: dict[str, Any]) -> str:
    """The first few names in which two descriptions differ."""
    names = [name for name in {**first, **second} if first.get(name) != second.get(name)]
    return "; ".join(f"{name}: {first.get(name)} against {second.get(name)}" for name in names[:3])
