"""The manager: finds plugins through entry points, and skips broken ones."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from autocompress.contract import hookspecs
from autocompress.contract.command import Command
from autocompress.contract.device import Device
from autocompress.contract.methods import DataSource, Method, Pruner, Quantizer, Transform
from autocompress.contract.registration import InvalidPlugin, check_hooks, check_item, check_offer, reason
from autocompress.contract.sampler import Sampler
from autocompress.data import DatasetProvider
from autocompress.errors import Terminated, UserError, did_you_mean
from autocompress.job import Job
from autocompress.job.modelnames import PLUGIN_GROUP
from autocompress.modulefiles import NotPython, imported, path_of, title

_DISTRIBUTION = "autocompress"
log = logging.getLogger("autocompress")


@dataclass(frozen=True)
class BrokenPlugin:
    """A plugin that was skipped, fully or in part, and the reason in one sentence."""

    name: str
    reason: str


class Manager:
    """All methods, devices, data sets, samplers and commands of the plugins.

    ``broken`` has the plugins that failed, at import or in a hook, with reasons. The other plugins
    work without them.

    Hooks are called in pluggy's order (``tryfirst``, then as registered, then ``trylast``).
    Wrappers (``hookimpl(wrapper=True)``) get the list of all results.
    """

    def __init__(self, builtin: Sequence[object] = (), *, entry_points: bool = True) -> None:
        self._pluggy = pluggy.PluginManager("autocompress")
        self._pluggy.add_hookspecs(hookspecs)
        self.broken: list[BrokenPlugin] = []
        self._offers: dict[str, list[Any]] = {}
        self._makers: dict[int, str] = {}
        self._own: set[str] = set()
        for plugin in builtin:
            self.register(plugin)
        if entry_points:
            self._load_entry_points()

    def register(self, plugin: object, name: str | None = None) -> None:
        """Adds a plugin: any object or module with hook implementations.

        Raises:
            UserError: if it has no hook, or one that would be ignored.
        """
        try:
            check_hooks(plugin)
            self._pluggy.register(plugin, name)
        except InvalidPlugin as error:
            raise UserError(f"the plugin '{name or _name_of(plugin)}' cannot be used: {error}") from None
        self._offers.clear()

    def add_file(self, path: Path) -> object:
        """Adds the plugin in a Python file, unless it was added already, maybe by another path.

        Returns:
            Its module.

        Raises:
            UserError: if it cannot be imported, or has no hook.
        """
        path = path.resolve()
        if (known := self._pluggy.get_plugin(str(path))) is not None:
            return known
        module = plugin_file(path)
        self.register(module, str(path))
        return module

    def unregister(self, plugin: object) -> None:
        """Removes a plugin that :meth:`register` added."""
        self._pluggy.unregister(plugin)
        self._offers.clear()

    def _load_entry_points(self) -> None:
        # load_setuptools_entrypoints is not used, because it stops at the first plugin that raises.
        # Built-in plugins come first, so that no other plugin can replace them.
        points = importlib.metadata.entry_points(group=PLUGIN_GROUP)
        for point in sorted(points, key=lambda point: (not _is_own(point), point.name)):
            if self._pluggy.get_plugin(point.name) is not None or self._pluggy.is_blocked(point.name):
                continue
            with self._skipped_if_it_fails(point.name):
                plugin = point.load()
                check_hooks(plugin)
                self._pluggy.register(plugin, name=point.name)
                if _is_own(point):
                    self._own.add(point.name)

    @contextmanager
    def _skipped_if_it_fails(self, name: str) -> Iterator[None]:
        """Logs exceptions of a plugin, also ``SystemExit``, and adds the plugin to ``broken``."""
        try:
            yield
        except Terminated:  # SIGTERM arrived meanwhile
            raise
        except (Exception, SystemExit) as error:
            self._skip(name, error)

    def _skip(self, name: str, error: BaseException) -> None:
        broken = BrokenPlugin(name, reason(error))
        if broken not in self.broken:
            self.broken.append(broken)
            log.warning("plugin '%s' is skipped: %s", name, broken.reason)

    def _collect(self, hook: str, kind: type) -> list[Any]:
        """The results of ``hook`` of all plugins; each is called once.

        Plugins are called separately, so that an exception affects only one of them.
        """
        if hook not in self._offers:
            self._offers[hook] = self._sound(hook, kind)
        return list(self._offers[hook])

    def _sound(self, hook: str, kind: type) -> list[Any]:
        """The valid items of all implementations and of wrappers around them."""
        implementations = _in_order(getattr(self._pluggy.hook, hook).get_hookimpls())
        makers: dict[int, str] = {}
        results: list[list[Any]] = []
        wrappers = self._begun(implementations)
        for implementation in implementations:
            if implementation.wrapper:
                continue
            with self._skipped_if_it_fails(implementation.plugin_name):
                offered = check_offer(hook, implementation.function())
                makers.update({id(item): implementation.plugin_name for item in offered})
                results.append(offered)
        for name, wrapper in reversed(wrappers):
            with self._skipped_if_it_fails(name):
                results = [check_offer(hook, offered) for offered in _finished(wrapper, results)]
                makers = {id(item): makers.get(id(item), name) for offered in results for item in offered}
        items = [item for offered in results for item in offered]
        # Of items with one name, a built-in one is kept, whatever pluggy's order.
        taken: dict[str, Any] = {}
        for item in sorted(items, key=lambda item: makers[id(item)] not in self._own):
            maker = makers[id(item)]
            with self._skipped_if_it_fails(maker):
                check_item(hook, item, kind)
                if item.name in taken:
                    raise InvalidPlugin(_taken(item.name, maker, makers[id(taken[item.name])], hook))
                taken[item.name] = item
        stay = {id(item) for item in taken.values()}
        self._makers.update({of: maker for of, maker in makers.items() if of in stay})
        return list({id(item): item for item in items if id(item) in stay}.values())

    def _begun(self, implementations: Sequence[Any], **arguments: Any) -> list[tuple[str, Any]]:
        """The wrappers among ``implementations``, each run up to its ``yield``, outermost first."""
        begun: list[tuple[str, Any]] = []
        for implementation in implementations:
            if implementation.wrapper:
                with self._skipped_if_it_fails(implementation.plugin_name):
                    generator = implementation.function(**_accepted(implementation.function, arguments))
                    next(generator)
                    begun.append((implementation.plugin_name, generator))
        return begun

    def methods(self) -> list[Method]:
        """All methods, sorted by kind, stage and tags (:func:`order`); built-in ones come first."""
        found = sorted(self._collect("autocompress_methods", Method), key=lambda m: (not self._is_built_in(m), m.name))
        return order(found)

    def _is_built_in(self, item: object) -> bool:
        return self._makers.get(id(item)) in self._own

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
        """The device called ``name``, also one of a family (``cost-model:PATH.yaml``).

        Raises:
            UserError: if there is none.
        """
        devices = self.devices()
        found = next((made for device in devices if (made := device.named(name)) is not None), None)
        return found if found is not None else _named(name, devices, "device")

    def datasets(self) -> list[DatasetProvider]:
        """All data set providers."""
        return self._collect("autocompress_datasets", DatasetProvider)

    def samplers(self) -> list[Sampler]:
        """All samplers."""
        return self._collect("autocompress_samplers", Sampler)

    def sampler(self, name: str) -> Sampler:
        """The sampler called ``name``.

        Raises:
            UserError: if there is none.
        """
        return _named(name, self.samplers(), "sampler")

    def commands(self) -> list[Command]:
        """All sub-commands."""
        return self._collect("autocompress_commands", Command)

    def maker(self, item: object) -> str:
        """The name of the plugin that gave ``item``; empty if none did."""
        return self._makers.get(id(item), "")

    def tell(self, hook: str, on_fault: Callable[[BaseException], None] | None = None, **arguments: Any) -> None:
        """Calls a logger hook of each plugin; errors are logged and do not stop the search.

        Args:
            hook: name of the hook.
            on_fault: gets the errors, which are then not logged.
            **arguments: arguments of the hook.
        """
        implementations = _in_order(getattr(self._pluggy.hook, hook).get_hookimpls())
        wrappers = self._begun(implementations, **arguments)
        for implementation in implementations:
            if implementation.wrapper:
                continue
            with _told_if_it_fails(implementation.plugin_name, hook, on_fault):
                implementation.function(**_accepted(implementation.function, arguments))
        for name, wrapper in reversed(wrappers):
            with _told_if_it_fails(name, hook, on_fault):
                _finished(wrapper, [])


@contextmanager
def _told_if_it_fails(name: str, hook: str, on_fault: Callable[[BaseException], None] | None) -> Iterator[None]:
    try:
        yield
    except Terminated:
        raise
    except (Exception, SystemExit) as error:
        if on_fault is not None:
            on_fault(error)
        else:
            log.warning("plugin '%s' failed in %s: %s", name, hook, reason(error))


def _is_own(point: importlib.metadata.EntryPoint) -> bool:
    """Whether the entry point ``point`` belongs to the distribution of the engine."""
    return point.dist is not None and point.dist.name == _DISTRIBUTION


def _taken(name: str, maker: str, other: str, hook: str) -> str:
    if maker == other:
        return f"its hook {hook} gives two items called '{name}'; the first is used"
    return f"its '{name}' has a name that plugin '{other}' uses already"


def _in_order(implementations: Sequence[Any]) -> list[Any]:
    """Sorts as pluggy does: ``tryfirst`` first, ``trylast`` last, the others as registered."""
    return sorted(implementations, key=lambda one: bool(one.trylast) - bool(one.tryfirst))


def _accepted(function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The ``arguments`` of a hook that an implementation takes."""
    return {name: arguments[name] for name in inspect.signature(function).parameters if name in arguments}


def _finished(wrapper: Any, results: list[Any]) -> Any:
    """The result of a wrapper for ``results``."""
    try:
        wrapper.send(results)
    except StopIteration as stop:
        return stop.value
    raise InvalidPlugin("its hook wrapper yields more than once")


def _name_of(plugin: object) -> str:
    name = str(getattr(plugin, "__name__", type(plugin).__name__))
    path = path_of(name)
    return name if path is None else title(path)


def plugin_file(path: Path) -> ModuleType:
    """Imports the plugin in a Python file.

    Raises:
        UserError: if it cannot be imported.
    """
    try:
        return imported(path, "plugin")
    except NotPython:
        raise UserError(f"the plugin {path} is no Python file") from None
    except (Exception, SystemExit) as error:
        raise UserError(f"the plugin {path} cannot be imported: {reason(error)}") from error


def order(methods: Iterable[Method]) -> list[Method]:
    """Sorts methods: data sources, SUBSTITUTE, PRUNE, quantizers.

    Within a stage, methods that need a tag come after methods that provide it. Otherwise the given
    order stays.
    """
    ranks: list[Callable[[Method], bool]] = [
        lambda m: isinstance(m, DataSource),
        lambda m: isinstance(m, Transform) and m.stage == "substitute",
        lambda m: isinstance(m, Pruner) or (isinstance(m, Transform) and m.stage == "prune"),
        lambda m: isinstance(m, Quantizer),
    ]
    pending = sorted(methods, key=lambda m: next(i for i, is_of in enumerate(ranks) if is_of(m)))
    ordered: list[Method] = []
    while pending:
        ready = next((m for m in pending if not _waits(m, pending)), pending[0])
        pending.remove(ready)
        ordered.append(ready)
    return ordered


def _waits(method: Method, pending: list[Method]) -> bool:
    """Whether a pending method of the same stage provides a tag that ``method`` needs.

    In a cycle of tags, no method waits.
    """
    stage = getattr(method, "stage", None)
    return any(
        other is not method
        and getattr(other, "stage", None) == stage
        and other.kind == method.kind
        and other.provides & method.takes
        and not method.provides & other.takes
        for other in pending
    )


def _named(name: str, items: Sequence[Any], what: str) -> Any:
    for item in items:
        if item.name == name:
            return item
    raise UserError(f"unknown {what} '{name}'", did_you_mean(name, [item.name for item in items]))


@cache
def manager() -> Manager:
    """The manager of this process, with all installed and built-in plugins."""
    return Manager()


def manager_for(job: Job) -> Manager:
    """The manager of this process, with the plugin files that ``job`` names.

    Raises:
        UserError: if one of them cannot be used.
    """
    found = manager()
    for path in job.plugins:
        found.add_file(path)
    return found
