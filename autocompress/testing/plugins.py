"""All checks of one plugin: its hooks, and everything that the hooks return."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from autocompress.contract import Command, Manager, manager
from autocompress.errors import UserError
from autocompress.testing.commands import check_command
from autocompress.testing.datasets import check_dataset
from autocompress.testing.devices import check_device
from autocompress.testing.observers import check_observer
from autocompress.testing.rules import ContractViolation, Report, require
from autocompress.testing.samplers import check_sampler
from autocompress.testing.suite import check_method


def check_plugin(plugin: object, model: nn.Module | None = None) -> list[str]:
    """Checks everything that a plugin offers.

    Args:
        plugin: a module or an object with hooks.
        model: the model for the checks of methods and devices; the example model by default.

    Returns:
        The names of the checked parts, for example "method lowrank".

    Raises:
        ContractViolation: if a rule is broken; the message lists all broken rules, each with the
            part that breaks it.
    """
    alone = Manager(entry_points=False)
    try:
        alone.register(plugin)
    except UserError as error:
        raise ContractViolation(str(error)) from None
    report, checked = Report(), list[str]()
    offers: list[tuple[str, Any, Callable[[Any], object]]] = [
        *(("method", method, lambda own: check_method(own, model)) for method in alone.methods()),
        *(("device", device, lambda own: check_device(own, model)) for device in alone.devices()),
        *(("data set", dataset, check_dataset) for dataset in alone.datasets()),
        *(("sampler", sampler, check_sampler) for sampler in alone.samplers()),
        *(("command", command, check_command) for command in alone.commands()),
    ]
    report.rules += [broken.reason for broken in alone.broken]
    names = _installed()
    for kind, item, check in offers:
        checked.append(f"{kind} {item.name}")
        own = Report()
        own.check(_check_name, kind, item, names.get((kind, item.name)))
        own.check(check, item)
        report.rules += [f"{checked[-1]}: {rule}" for rule in own.rules]
    observed = Report()
    checked += [f"hook {hook}" for hook in observed.check(check_observer, plugin) or []]
    report.rules += observed.rules
    report.end()
    return checked


def _installed() -> dict[tuple[str, str], Any]:
    """What is installed, by kind and name."""
    known = manager()
    kinds: dict[str, Sequence[Any]] = {
        "method": known.methods(),
        "device": known.devices(),
        "data set": known.datasets(),
        "sampler": known.samplers(),
        "command": known.commands(),
    }
    return {(kind, item.name): item for kind, items in kinds.items() for item in items}


def _check_name(kind: str, item: Any, other: Any) -> None:
    """Checks that no other plugin has a ``kind`` of this name; a search would skip this one."""
    is_other = other is not None and _module(other) != _module(item)
    maker = manager().maker(other) if is_other else ""
    require(
        not is_other,
        f"a {kind} called '{item.name}' is installed already (plugin '{maker}'), so a search would skip this one: "
        "take another name",
    )


def _module(item: Any) -> str:
    """The name of the package with the class or function of ``item``, or of the file alone."""
    module = sys.modules.get((item.run if isinstance(item, Command) else type(item)).__module__)
    if module is None or "." in module.__name__:
        return "" if module is None else module.__name__.partition(".")[0]
    return Path(module.__file__ or "").stem
