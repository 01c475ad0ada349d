"""The manager: finds plugins through entry points, and goes on where one of them is broken."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pluggy

from autocompress.contract import hookspecs
from autocompress.contract.device import Device
from autocompress.contract.methods import DataSource, Method, Quantizer, Transform
from autocompress.data import DatasetProvider
from autocompress.errors import UserError, did_you_mean

ENTRY_POINT_GROUP = "autocompress"
log = logging.getLogger("autocompress")


@dataclass(frozen=True)
class BrokenPlugin:
    """A plugin that was skipped, and why."""

    name: str
    reason: str


class Manager:
    """All that plugins offer. A plugin that raises, at import or in a hook, is named in ``broken`` and skipped."""

    def __init__(self, builtin: Sequence[object] = (), *, entry_points: bool = True) -> None:
        self._pluggy = pluggy.PluginManager("autocompress")
        self._pluggy.add_hookspecs(hookspecs)
        self.broken: list[BrokenPlugin] = []
        for plugin in builtin:
            self.register(plugin)
        if entry_points:
            self._load_entry_points()

    def register(self, plugin: object, name: str | None = None) -> None:
        """Adds a plugin: any object or module with hook implementations."""
        self._pluggy.register(plugin, name)

    def unregister(self, plugin: object) -> None:
        """Removes a plugin that :meth:`register` added."""
        self._pluggy.unregister(plugin)

    def _load_entry_points(self) -> None:
        # Not load_setuptools_entrypoints: it stops at the first plugin that raises.
        for point in sorted(importlib.metadata.entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name):
            if self._pluggy.get_plugin(point.name) is not None or self._pluggy.is_blocked(point.name):
                continue
            try:
                self._pluggy.register(point.load(), name=point.name)
            except Exception as error:
                self._skip(point.name, error)

    def _skip(self, name: str, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}"
        self.broken.append(BrokenPlugin(name, reason))
        log.warning("plugin '%s' is skipped: %s", name, reason)

    def _collect(self, hook: str, kind: type) -> list[Any]:
        """What all plugins return from ``hook``, each called on its own so that one that raises harms no other."""
        items: list[Any] = []
        for implementation in getattr(self._pluggy.hook, hook).get_hookimpls():
            try:
                offered = list(implementation.function())
                wrong = [item for item in offered if not isinstance(item, kind)]
                if wrong:
                    raise TypeError(f"{hook} gave a {type(wrong[0]).__name__}, not a {kind.__name__}")
            except Exception as error:
                if implementation.plugin_name not in {broken.name for broken in self.broken}:
                    self._skip(implementation.plugin_name, error)
                continue
            items.extend(offered)
        return items

    def methods(self) -> list[Method]:
        """All methods, ordered by kind and, among transforms, by stage and by their tags (takers after providers).

        Raises:
            UserError: if two plugins offer methods of one name.
        """
        found: list[Method] = self._collect("autocompress_methods", Method)
        _reject_twins(found)
        return order(found)

    def method(self, name: str) -> Method:
        """The method called ``name``.

        Raises:
            UserError: if there is none.
        """
        return _named(name, self.methods(), "method")

    def devices(self) -> list[Device]:
        """All devices."""
        return self._collect("autocompress_devices", Device)

    def device(self, name: str) -> Device:
        """The device called ``name``, or what a family of devices makes of it (``cost-model:PATH.yaml``).

        Raises:
            UserError: if there is none.
        """
        devices = self.devices()
        found = next((made for device in devices if (made := device.named(name)) is not None), None)
        return found if found is not None else _named(name, devices, "device")

    def datasets(self) -> list[DatasetProvider]:
        """All data set providers."""
        return self._collect("autocompress_datasets", DatasetProvider)

    def tell(self, hook: str, **arguments: Any) -> None:
        """Calls a logger hook of each plugin; one that raises is named and stops nothing."""
        for implementation in getattr(self._pluggy.hook, hook).get_hookimpls():
            try:
                implementation.function(**{name: arguments[name] for name in implementation.argnames})
            except Exception as error:
                log.warning("plugin '%s' failed in %s: %s", implementation.plugin_name, hook, error)


def order(methods: Iterable[Method]) -> list[Method]:
    """Data sources, SUBSTITUTE, PRUNE, quantizers; within a stage takers of a tag come after its providers."""
    ranks: list[Callable[[Method], bool]] = [
        lambda m: isinstance(m, DataSource),
        lambda m: isinstance(m, Transform) and m.stage == "substitute",
        lambda m: isinstance(m, Transform) and m.stage == "prune",
        lambda m: isinstance(m, Quantizer),
    ]
    pending = sorted(methods, key=lambda m: (next(i for i, is_of in enumerate(ranks) if is_of(m)), m.name))
    ordered: list[Method] = []
    while pending:
        ready = next((m for m in pending if not _waits(m, pending)), pending[0])
        pending.remove(ready)
        ordered.append(ready)
    return ordered


def _waits(method: Method, pending: list[Method]) -> bool:
    """Whether a pending method of the same stage provides a tag that ``method`` takes; a circle is not waited for."""
    stage = getattr(method, "stage", None)
    return any(
        other is not method
        and getattr(other, "stage", None) == stage
        and other.kind == method.kind
        and other.provides & method.takes
        and not method.provides & other.takes
        for other in pending
    )


def _reject_twins(methods: list[Method]) -> None:
    seen: set[str] = set()
    for method in methods:
        if method.name in seen:
            raise UserError(f"two plugins offer a method named '{method.name}'", "uninstall one of them")
        seen.add(method.name)


def _named(name: str, items: Sequence[Any], what: str) -> Any:
    for item in items:
        if item.name == name:
            return item
    raise UserError(f"unknown {what} '{name}'", did_you_mean(name, [item.name for item in items]))


@cache
def manager() -> Manager:
    """The process's manager, with every installed plugin; the engine's own devices and data sets are one of them."""
    return Manager()
