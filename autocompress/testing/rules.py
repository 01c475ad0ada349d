"""Reports of broken rules, and comparisons that the checks share."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from autocompress.contract.raised import place
from autocompress.graph import trace

Found = TypeVar("Found")
MOST_SHOWN = 20


class ContractViolation(AssertionError):
    """Rules of the contract that a plugin breaks.

    Attributes:
        rules: one text for each broken rule, with a hint.
    """

    def __init__(self, *rules: str) -> None:
        self.rules = list(dict.fromkeys(rules))
        shown = self.rules[:MOST_SHOWN]
        more = [f"and {len(self.rules) - MOST_SHOWN} more"] if len(self.rules) > MOST_SHOWN else []
        super().__init__("\n".join([*shown, *more]))


class NotChecked(ContractViolation):
    """A part cannot be checked as it was asked; it may be right nevertheless."""


def require(holds: bool, rule: str) -> None:
    """Raises :class:`ContractViolation` with ``rule`` unless it ``holds``."""
    if not holds:
        raise ContractViolation(rule)


class Report:
    """Collects violations, so that an author sees all of them at once."""

    def __init__(self) -> None:
        self.rules: list[str] = []

    def check(self, rule: Callable[..., Found], *arguments: Any) -> Found | None:
        """Calls ``rule``.

        Returns:
            Its result; None where it found a violation, or where the plugin raised an error.

        Raises:
            NotChecked: if the rule cannot be checked.
        """
        try:
            return rule(*arguments)
        except NotChecked:
            raise
        except ContractViolation as violation:
            self.rules += violation.rules
        except Exception as error:
            frame = place(error)
            text = " ".join(str(error).split())
            where = "" if frame is None else f" ({frame.filename}:{frame.lineno}, {frame.name})"
            self.rules.append(f"a plugin must not raise {type(error).__name__} here: {text}{where}")
        return None

    def end(self) -> None:
        """Raises :class:`ContractViolation` with all rules that are broken, if any."""
        if self.rules:
            raise ContractViolation(*self.rules)


@contextmanager
def other_draws(seed: int) -> Iterator[None]:
    """Seeds the global generators of torch, numpy and Python; restores their states at the end."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            np.random.seed(seed)
            random.seed(seed)
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)


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
    """The traced graph as text: the function and the constants of each node.

    A module is described by its type and its settings, so another activation or stride is seen.
    """
    module = trace(model, leaves)
    found = []
    for node in module.graph.nodes:
        called = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        settings = "" if called is None else f" {type(called).__name__}({called.extra_repr()})"
        found.append((node.op, f"{node.target}{settings}", str(node.args) + str(node.kwargs)))
    return found


def difference(first: dict[str, Any], second: dict[str, Any]) -> str:
    """The first few differences of two descriptions."""
    names = [name for name in {**first, **second} if first.get(name) != second.get(name)]
    return "; ".join(f"{name}: {first.get(name)} against {second.get(name)}" for name in names[:3])
