"""Checks plugins: their hooks at registration, and later the results of the hooks."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from autocompress.contract import hookspecs
from autocompress.contract.command import OWN_COMMANDS, Command
from autocompress.contract.device import Device
from autocompress.contract.layers import LayerSpec
from autocompress.contract.methods import DataSource, Method, Pruner, Quantizer, Stage, Transform
from autocompress.contract.sampler import Sampler
from autocompress.data import DatasetProvider
from autocompress.errors import closest

PREFIX = "autocompress_"
MARKER = "autocompress_impl"
"""The attribute in which pluggy's marker ``hookimpl`` stores its options."""
ENGINE_NAMES = frozenset({"source", "prune", "repair", "recover", "bits", "qat"})
"""Prefixes of the parameters of the engine."""
NAME = re.compile(r"[A-Za-z][\w-]*")
"""Allowed names of methods. A name is used before a dot, before a colon, and in lists."""
COMMAND = re.compile(r"[a-z][a-z0-9-]*")
"""Allowed names of sub-commands."""
UNKNOWN = "a name of nothing"
"""A name that no data set and no device has."""


class InvalidPlugin(Exception):
    """A plugin, or a part of it, cannot be used. The message is the reason, one sentence."""


def hooks() -> dict[str, tuple[str, ...]]:
    """All hooks, each with the names of its arguments."""
    found = inspect.getmembers(hookspecs, inspect.isfunction)
    return {name: tuple(inspect.signature(f).parameters) for name, f in found if name.startswith(PREFIX)}


def reason(error: BaseException) -> str:
    """An exception as one line."""
    if isinstance(error, InvalidPlugin):
        return str(error)
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


# --- hooks, at registration -----------------------------------------------------------------------


def check_hooks(plugin: object) -> None:
    """Refuses a plugin with hooks that would be ignored, as pluggy's ``check_pending`` does.

    Raises:
        InvalidPlugin: for a class, a hook that does not exist, a forgotten or outdated marker,
            arguments that the hook does not have, or no hook at all.
    """
    if inspect.isclass(plugin):
        raise InvalidPlugin(f"the class {plugin.__name__} is registered where an instance or a module is needed")
    known, implemented = hooks(), 0
    for name, function in _functions(plugin):
        options = _options(function)
        if options is None:
            _check_unmarked(name, known)
            continue
        hook = options.get("specname") or name
        if hook not in known:
            if options.get("optionalhook"):
                continue
            raise InvalidPlugin(f"'{hook}' is not a hook of autocompress ({_closest(hook, known)})")
        if options.get("hookwrapper"):
            raise InvalidPlugin(f"'{hook}' is an old-style wrapper; write @hookimpl(wrapper=True)")
        extra = [name for name in _required(function) if name not in known[hook]]
        if extra:
            taken = f"it may take {', '.join(known[hook])}" if known[hook] else "it takes none"
            raise InvalidPlugin(f"'{hook}' has the argument '{extra[0]}', which the hook does not give ({taken})")
        implemented += 1
    if not implemented:
        raise InvalidPlugin(f"it implements no hook; there are {', '.join(known)}, marked with @hookimpl")


def has_hooks(plugin: object) -> bool:
    """Whether ``plugin`` has functions that are hooks, or are named like hooks."""
    return any(name.startswith(PREFIX) or _options(function) is not None for name, function in _functions(plugin))


def _functions(plugin: object) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The functions and methods of a plugin, without running its properties."""
    for name in dir(plugin):
        static = inspect.getattr_static(plugin, name, None)
        if isinstance(static, staticmethod | classmethod) or inspect.isroutine(static):
            yield name, getattr(plugin, name)


def _options(function: Callable[..., Any]) -> dict[str, Any] | None:
    """The options of ``hookimpl`` for ``function``; None where it is not marked."""
    options = getattr(function, MARKER, None)
    return options if isinstance(options, dict) else None


def _required(function: Callable[..., Any]) -> list[str]:
    """Names of the arguments without a default; ``self`` is bound already."""
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]


def _check_unmarked(name: str, known: dict[str, tuple[str, ...]]) -> None:
    if name in known:
        raise InvalidPlugin(f"'{name}' is not marked as a hook; write @hookimpl above it")
    if name.startswith(PREFIX) and (close := closest(name, known)):
        raise InvalidPlugin(f"'{name}' is not a hook of autocompress (did you mean '{close}', marked with @hookimpl?)")


def _closest(name: str, known: dict[str, tuple[str, ...]]) -> str:
    # Without the common prefix, which makes all names similar.
    short = {hook.removeprefix(PREFIX): hook for hook in known}
    close = closest(name.removeprefix(PREFIX), short, similarity=0.5)
    return f"did you mean '{short[close]}'?" if close else f"there are {', '.join(known)}"


# --- what hooks give, when they are called --------------------------------------------------------


def check_offer(hook: str, offered: object) -> list[Any]:
    """The result of an implementation of ``hook``, as a list.

    Raises:
        InvalidPlugin: if it is not a list.
    """
    if isinstance(offered, list | tuple):
        return list(offered)
    what = "nothing" if offered is None else _a(offered)
    raise InvalidPlugin(f"{hook} must return a list, and returns {what}")


def check_item(hook: str, item: object, kind: type) -> None:
    """Refuses a method, device, data set, sampler or command that the engine cannot use.

    Raises:
        InvalidPlugin: naming the item and its fault.
    """
    if inspect.isclass(item):
        raise InvalidPlugin(f"{hook} gives the class {item.__name__}, not an instance of it: write {item.__name__}()")
    if not isinstance(item, kind):
        raise InvalidPlugin(f"{hook} gives {_a(item)}, not a {kind.__name__}")
    subject = type(item).__name__
    name = getattr(item, "name", None)  # the class only annotates it
    if not isinstance(name, str) or not name.strip():
        raise InvalidPlugin(f"the {_word(kind)} {subject} has no name: set {subject}.name to a text")
    if isinstance(item, Method):
        _check_method(item)
    if isinstance(item, Device):
        _check_device(item, f"the device '{name}'")
    if isinstance(item, DatasetProvider):
        _check_lookup(item, "claims", False, f"the data set '{name}'")
    if isinstance(item, Sampler):
        for attribute in ("learns_from_pruned", "sees_the_last"):
            _check_flag(item, attribute, f"the sampler '{name}'")
    if isinstance(item, Command):
        _check_command(item)


def _check_command(command: Command) -> None:
    subject = f"the command '{command.name}'"
    if not COMMAND.fullmatch(command.name):
        raise InvalidPlugin(
            f"{subject} has an invalid name: a name has lower-case letters, digits and -, and begins with a letter"
        )
    if command.name in OWN_COMMANDS:
        raise InvalidPlugin(f"{subject} has the name of a command of autocompress: choose another one")
    if not callable(command.run) or inspect.isclass(command.run):
        raise InvalidPlugin(f"{subject} has {command.run!r} as run: it must be a function or a typer.Typer")


def _check_method(method: Method) -> None:
    subject = f"the method '{method.name}'"
    if not NAME.fullmatch(method.name):
        raise InvalidPlugin(
            f"{subject} has an invalid name: a name has letters, digits, - and _ and begins with a letter"
        )
    if method.name in ENGINE_NAMES:
        raise InvalidPlugin(f"{subject} has an invalid name: '{method.name}.' begins parameters of the engine")
    if not isinstance(method, Transform | Pruner | Quantizer | DataSource):
        raise InvalidPlugin(f"{subject} is neither a Transform nor a Pruner nor a Quantizer nor a DataSource")
    for attribute in ("version", "reference"):
        value = getattr(method, attribute, None)
        if not isinstance(value, str):
            has = "has no" if value is None else f"has {value!r} as"
            raise InvalidPlugin(f"{subject} {has} {attribute}: it must be a text")
    if isinstance(method, Transform) and not isinstance(getattr(method, "stage", None), Stage):
        given = getattr(method, "stage", None)
        has = "has no stage" if given is None else f"has {given!r} as stage"
        raise InvalidPlugin(f"{subject} {has}: it must be {' or '.join(f'Stage.{stage.name}' for stage in Stage)}")
    for attribute in ("provides", "takes", "excludes"):
        _check_texts(method, attribute, subject)
    if not isinstance(method.layers, Sequence) or not all(isinstance(spec, LayerSpec) for spec in method.layers):
        raise InvalidPlugin(f"{subject} has {method.layers!r} as layers: it must be a list of LayerSpec instances")
    _check_flags(method, subject)
    if isinstance(method, Quantizer):
        _check_widths(method, subject)


def _check_flags(method: Method, subject: str) -> None:
    for attribute in ("needs_training", *(["searched"] if isinstance(method, Pruner) else [])):
        _check_flag(method, attribute, subject)
    epochs = method.min_epochs
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 0:
        raise InvalidPlugin(f"{subject} has {epochs!r} as min_epochs: it must be a whole number, 0 or more")
    renamed = method.renamed
    if not isinstance(renamed, Mapping) or not all(isinstance(text, str) for text in (*renamed, *renamed.values())):
        raise InvalidPlugin(f"{subject} has {renamed!r} as renamed: it must map former names to sentences")


def _check_flag(item: object, attribute: str, subject: str) -> None:
    if not isinstance(value := getattr(item, attribute), bool):
        raise InvalidPlugin(f"{subject} has {value!r} as {attribute}: it must be True or False")


def _check_lookup(item: Any, function: str, expected: object, subject: str) -> None:
    """Refuses an item that raises for other names, or claims them.

    The engine asks each item about every name.
    """
    try:
        answer = getattr(item, function)(UNKNOWN)
        is_other = bool(answer) if expected is False else answer is not expected  # a truth value may be any object
    except Exception as error:
        raise InvalidPlugin(f"{subject} raises in {function}: {reason(error)}") from error
    if is_other:
        raise InvalidPlugin(f"{subject} gives {answer!r} in {function} for a name that is not its own, not {expected}")


def _check_device(device: Device, subject: str) -> None:
    _check_lookup(device, "named", None, subject)
    for attribute in ("measures", "formats"):
        _check_texts(device, attribute, subject)
    for attribute in ("deterministic", "is_local"):
        _check_flag(device, attribute, subject)
    needed = "compare" if device.deterministic else "open"
    if (
        getattr(type(device), needed) is getattr(Device, needed)
        and type(device).time_elsewhere is Device.time_elsewhere
    ):
        why = "costs are computed" if device.deterministic else "models are run"
        raise InvalidPlugin(f"{subject} has no method {needed}, by which {why}")
    if not (inspect.isclass(device.Options) and issubclass(device.Options, BaseModel)):
        raise InvalidPlugin(
            f"{subject} has {device.Options!r} as Options: it must be a pydantic model, the class itself"
        )


def _check_texts(item: Method | Device, attribute: str, subject: str) -> None:
    value = getattr(item, attribute)
    if not isinstance(value, set | frozenset) or not all(isinstance(text, str) for text in value):
        raise InvalidPlugin(f"{subject} has {value!r} as {attribute}: it must be a set of texts")


def _check_widths(method: Quantizer, subject: str) -> None:
    for attribute in ("weight_bits", "activation_bits"):
        value = getattr(method, attribute)
        is_list = isinstance(value, Sequence) and not isinstance(value, str)
        if not is_list or not all(isinstance(bits, int) and not isinstance(bits, bool) and bits > 0 for bits in value):
            raise InvalidPlugin(f"{subject} has {value!r} as {attribute}: it must be a list of whole numbers above 0")
    if not method.weight_bits:
        raise InvalidPlugin(f"{subject} has no weight_bits: it must offer at least one width")


def _word(kind: type) -> str:
    words: dict[type, str] = {
        Method: "method",
        Device: "device",
        DatasetProvider: "data set",
        Sampler: "sampler",
        Command: "command",
    }
    return words[kind]


def _a(item: object) -> str:
    name = type(item).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
