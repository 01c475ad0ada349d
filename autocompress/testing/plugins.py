"""All checks of one plugin: its hooks, and everything that the hooks return."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from autocompress.contract import Command, Manager, Task, manager
from autocompress.contract.registration import has_hooks
from autocompress.data import DatasetProvider
from autocompress.errors import UserError
from autocompress.modulefiles import path_of, title
from autocompress.testing.commands import check_command
from autocompress.testing.datasets import check_dataset
from autocompress.testing.devices import check_device
from autocompress.testing.observers import check_observer
from autocompress.testing.rules import ContractViolation, NotChecked, Report, require
from autocompress.testing.samplers import check_sampler
from autocompress.testing.suite import check_method
from autocompress.testing.tasks import check_task, tasks_in


def check_plugin(
    plugin: object, model: nn.Module | None = None, tell: Callable[[str], object] | None = None
) -> list[str]:
    """Checks everything that a plugin offers, and the tasks that a module defines.

    Tasks are checked with the data sets of the plugin, or with the built-in ``digits``. A task is
    left out if its constructor needs options, or if ``digits`` has no targets for it.

    Args:
        plugin: a module or an object with hooks.
        model: the model for the checks of methods and devices; the example model by default.
        tell: called with a text for each task that is left out.

    Returns:
        The names of the checked parts, for example "method lowrank".

    Raises:
        ContractViolation: if a rule is broken; the message lists all broken rules, each with the
            part that breaks it.
    """
    alone, tasks = Manager(entry_points=False), tasks_in(plugin)
    try:
        if has_hooks(plugin) or not tasks:  # a job names a task, so no hook is needed
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
    for task in tasks:
        part = f"task {task.__name__}"
        try:
            report.rules += [f"{part}: {rule}" for rule in _broken(task, alone.datasets())]
            checked.append(part)
        except NotChecked as reason:
            if tell is not None:
                tell(f"{part}: {reason}")
    observed = Report()
    checked += [f"hook {hook}" for hook in observed.check(check_observer, plugin) or []]
    report.rules += observed.rules
    report.end()
    return checked


def _broken(task: type[Task], datasets: Sequence[DatasetProvider]) -> list[str]:
    """The rules that a task breaks, with that data set with which it breaks the fewest.

    Raises:
        NotChecked: if the task cannot be checked.
    """
    found = []
    choices: Sequence[DatasetProvider | None] = datasets or [None]
    for dataset in choices:
        own = Report()
        own.check(check_task, task, dataset)
        found.append(own.rules)
    return min(found, key=len)


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
    is_other = other is not None and not _is_same(other, item)
    maker = manager().maker(other) if is_other else ""
    require(
        not is_other,
        f"a {kind} called '{item.name}' is installed already (plugin '{maker}'), so a search would skip this one: "
        "take another name",
    )


def _is_same(one: Any, other: Any) -> bool:
    """Whether two items are of one plugin; a file may be that of an installed module."""
    modules = [(own.run if isinstance(own, Command) else type(own)).__module__ for own in (one, other)]
    paths = [path_of(module) for module in modules]
    if None not in paths:
        return paths[0] == paths[1]
    first, second = (
        module.partition(".")[0] if path is None else title(path) for module, path in zip(modules, paths, strict=True)
    )
    return first == second
