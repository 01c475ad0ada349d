"""Reports of broken rules, and comparisons that the checks share."""

from __future__ import annotations

import builtins
import json
import random
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from unittest import mock

import numpy as np
import torch
from torch import nn

from autocompress.contract.raised import place
from autocompress.graph import trace
from autocompress.testing.settings import restore, settings

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

        Settings of torch that the plugin changed are restored. This is one broken rule, and an
        error of the same call is not reported, because other settings often explain it.

        Returns:
            Its result; None where it found a violation, or where the plugin raised an error.

        Raises:
            NotChecked: if the rule cannot be checked.
        """
        rules, before = list(self.rules), settings()
        found = self._called(rule, *arguments)
        if changed := restore(before):
            self.rules = [
                *rules,
                f"a plugin must leave settings of the process as they are, but changes {', '.join(changed)}: "
                "set them back before it returns, also after an error",
            ]
        return found

    def _called(self, rule: Callable[..., Found], *arguments: Any) -> Found | None:
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
            self.rules.append(f"{RAISED} {type(error).__name__} here: {text}{where}")
        return None

    def end(self) -> None:
        """Raises :class:`ContractViolation` with all rules that are broken, if any.

        A rule for every plugin is reported once, wherever it was broken.
        """
        general = {rule_of(rule): rule for rule in reversed(self.rules) if rule.startswith(OF_ALL)}
        if self.rules:
            raise ContractViolation(*(general.get(rule_of(rule), rule) for rule in self.rules))


OF_ALL = "a plugin must"
RAISED = f"{OF_ALL} not raise"


def rule_of(text: str) -> str:
    """The rule in a text of a report, without the figures and the hint behind it.

    Texts of one rule differ by model and by point. An error is one rule wherever it was raised.
    """
    if text.startswith(RAISED):
        return text.rsplit(" (/", 1)[0]
    return re.split(r"[;:]| \(", text, maxsplit=1)[0]


class Points:
    """Collects the rules that several points break, and reports each rule once."""

    def __init__(self) -> None:
        self._found: dict[str, list[tuple[str, str]]] = {}

    def add(self, point: str, rules: Sequence[str]) -> None:
        """Adds the rules that one point breaks.

        Args:
            point: name of the point.
            rules: as in a report; figures behind the first colon or semicolon may differ by point.
        """
        for rule in rules:
            at_points = self._found.setdefault(rule_of(rule), [])
            if point not in [other for other, _ in at_points]:
                at_points.append((point, rule))

    def rules(self) -> list[str]:
        """One text for each rule: that of its first point, and the number of other points."""
        texts = []
        for at_points in self._found.values():
            (point, rule), more = at_points[0], len(at_points) - 1
            others = f" and {more} other{'s' if more > 1 else ''}" if more else ""
            texts.append(f"{rule} ({point}{others})")
        return texts


HASHES = "; hash() of a text differs by process: use zlib.crc32"
"""Hint behind rules that :func:`other_draws` checks."""


@contextmanager
def other_draws(seed: int, plugin: object) -> Iterator[None]:
    """Seeds the global generators of torch, numpy and Python; restores their states at the end.

    Meanwhile ``hash`` gives the module of ``plugin`` other numbers for texts, as another process
    does.

    Raises:
        ContractViolation: if torch was seeded meanwhile.
    """
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=[]), _other_hashes(seed, type(plugin).__module__.partition(".")[0]):
            torch.manual_seed(seed)
            np.random.seed(seed)
            random.seed(seed)
            yield
            kept = torch.initial_seed() == seed
        require(kept, "a plugin must not seed the global generator of torch: give a torch.Generator to each draw")
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)


@contextmanager
def _other_hashes(seed: int, package: str) -> Iterator[None]:
    """Salts the hashes of texts and bytes where a function of ``package`` calls ``hash`` itself."""
    own = builtins.hash

    def salted(value: Any) -> int:
        caller = sys._getframe(1)
        is_asked = isinstance(value, str | bytes) and caller.f_code.co_name != "__hash__"
        if is_asked and caller.f_globals.get("__name__", "").partition(".")[0] == package:
            return own((seed, value))
        return own(value)

    with mock.patch.object(builtins, "hash", salted):
        yield


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
