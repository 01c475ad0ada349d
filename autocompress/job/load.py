"""Makes a Job from a YAML file, keyword arguments and flags; errors name file, line and key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from autocompress.errors import UserError, clipped, did_you_mean
from autocompress.job.images import SPLITS
from autocompress.job.schema import Job
from autocompress.job.source import Source
from autocompress.job.unknownkeys import SECTIONS, where_it_belongs
from autocompress.job.yamlfile import read_yaml

SHORTCUTS: dict[str, str] = {
    key: f"{section}.{key}"
    for section in ("constraints", "budget")
    for key in SECTIONS[section].model_fields
} | {key: f"device.{key}" for key in ("threads", "batch", "input_size")}  # fmt: skip
SHORTCUTS |= {key: f"data.{key}" for key in ("train_images", "val_images")} | {"address": "cluster.address"}
"""Short forms of keys inside sections: ``latency`` for ``constraints.latency``."""

UnknownKeyHint = Callable[..., str]
"""Makes a hint for an unknown key from its path, its value and whether it is in a file."""

_WITHOUT_FLAG = frozenset(
    {"also", "model_args", "constraints", "budget", "baseline", "search", "augment", "cluster", "compute"}
)
"""Keys of a job without a flag of their own: only a job file and ``--set`` can give them."""


def load_job(
    path: Path | str | None = None, settings: Mapping[str, Any] | None = None, *, flags: bool = False, **keywords: Any
) -> Job:
    """A validated job; settings override the file.

    Args:
        path: a job file; None for a job made from settings only.
        settings: values by key, section (``{"budget": {"trials": 3}}``), dotted key
            (``budget.trials``) or shortcut (``trials``).
        flags: the settings are command-line flags, and errors name them as such; a flag with the
            value None was not given.
        **keywords: more settings.

    Raises:
        UserError: naming file, line and key, or the flag.
    """
    settings = {**(settings or {}), **keywords}
    values: dict[str, Any] = {}
    source = Source()
    if path is not None:
        document = read_yaml(Path(path), "job file")
        values, source = document.values, document.source
    given = {key: value for key, value in settings.items() if not (flags and value is None)}
    dotted = _dotted(given)
    if flags:
        source = Source(source.file, source.places, {full: _flag(key) for key, full in dotted.items()})
    if "workers" in dotted and isinstance(values.get("cluster"), Mapping):  # the same key in another place
        values = {**values, "cluster": {key: one for key, one in values["cluster"].items() if key != "workers"}}
    for key, full in dotted.items():
        if full.startswith("space.") and isinstance(values.get("space"), str):
            hint = "write a space file of your own, or give every limit with --set space.NAME"
            raise UserError(f"{_flag(key)} cannot narrow the space '{values['space']}' further", hint)
        values = _with(values, full.split("."), given[key])
    try:
        job = Job.model_validate(values)
    except ValidationError as error:
        raise sentence(error, source) from None
    job._source = source
    return job


def _flag(key: str) -> str:
    """The flag that gave ``key``: its own flag, or ``--set``."""
    has_flag = key in SHORTCUTS or (key in Job.model_fields and key not in _WITHOUT_FLAG)
    return f"--{key.replace('_', '-')}" if has_flag else f"--set {key}"


def _dotted(given: Mapping[str, Any]) -> dict[str, str]:
    """The full key of each setting, sections before their keys; a key set twice is refused."""
    full: dict[str, str] = {}
    setter: dict[str, str] = {}
    for key, name in sorted(((key, SHORTCUTS.get(key, key)) for key in given), key=lambda pair: pair[1].count(".")):
        full[key] = name
        inside = given[key] if name in SECTIONS and isinstance(given[key], Mapping) else None
        for leaf in [name] if inside is None else [f"{name}.{inner}" for inner in inside]:
            if leaf in setter:
                raise UserError(f"'{leaf}' is set twice, by '{setter[leaf]}' and by '{key}'", "give one of them")
            setter[leaf] = key
    return full


def _with(values: Any, path: list[str], value: Any) -> dict[str, Any]:
    """``values`` with ``value`` at ``path``; sections are merged, anything else is replaced."""
    merged: dict[str, Any] = dict(values) if isinstance(values, Mapping) else {}
    key, rest = path[0], path[1:]
    old: Any = _opened(key, merged.get(key))
    if rest:
        merged[key] = _with(old, rest, value)
        return merged
    # A new device keeps the given threads, but new data replaces all splits.
    value = _opened(key, value) if key == "device" else value
    both = key in SECTIONS and isinstance(old, Mapping) and isinstance(value, Mapping)
    merged[key] = {**old, **value} if both else value
    return merged


def _opened(key: str, value: Any) -> Any:
    """A section that was written as one word, expanded to its mapping."""
    if not isinstance(value, str) or key not in ("device", "data"):
        return value
    return {"name": value} if key == "device" else dict.fromkeys(SPLITS, value)


def sentence(
    error: ValidationError, source: Source, *, whole: str = "a job", hint: UnknownKeyHint = where_it_belongs
) -> UserError:
    """The first of pydantic's errors, in the order of the file, as one sentence.

    Args:
        error: error of a file's values.
        source: where the values were written.
        whole: what the file describes.
        hint: makes the hint for a key that is not known; its arguments are those of
            ``where_it_belongs``.
    """
    problems: list[Any] = [p for p in error.errors() if p["type"] != "default_factory_not_called"]
    problems.sort(key=lambda p: source.line(_key(p)))
    first = problems[0]
    key = _key(first)
    text, advice = _explain(first, source, whole, hint)
    if first["type"] == "missing" and source.file is None:
        advice = f"give --{key}" if source.flags else ""
    others = list(dict.fromkeys(f"'{other}'" for other in map(_key, problems) if other not in ("", key)))[:3]
    if others:
        advice = f"{advice}; also wrong: {', '.join(others)}" if advice else f"also wrong: {', '.join(others)}"
    return source.error(key, text, advice)


def _key(problem: Mapping[str, Any]) -> str:
    """The dotted key of an error of pydantic."""
    key = getattr(problem.get("ctx", {}).get("error"), "key", "")
    parts = [part for part in problem["loc"] if part != "[key]"]
    if parts[:1] == ["model_args"]:  # pydantic follows each key of a JsonValue by a type: "list", "float"
        parts = [parts[0], *parts[1::2]]
    return key or ".".join(part for part in parts if isinstance(part, str))


_TYPES = {
    "int": "must be a whole number",
    "float": "must be a number",
    "finite": "must be a finite number",
    "bool": "must be true or false",
    "string": "must be text",
    "path": "must be a path",
    "tuple": "must be a list",
    "dict": "must be a mapping",
    "model": "must be a mapping",
}
_LIMITS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "more than"),
    "less_than_equal": ("le", "at most"),
}


def _explain(problem: Mapping[str, Any], source: Source, whole: str, hint: UnknownKeyHint) -> tuple[str, str]:
    """The end of the error sentence that begins with the key, and a hint."""
    kind, context, value = problem["type"], problem.get("ctx", {}), problem["input"]
    if kind == "extra_forbidden":
        path = [str(part) for part in problem["loc"]]
        text = f"is no key of {path[0]}" if len(path) > 1 else f"is no key of {whole}"
        return text, hint(path, value, in_file=".".join(path) in source.places)
    if kind == "missing":
        return "is missing", f"say which {problem['loc'][-1]} is meant"
    if kind == "value_error":
        return str(context["error"]), getattr(context["error"], "hint", "")
    if kind == "literal_error":
        choices = [choice.strip("'") for choice in context["expected"].replace(" or ", ", ").split(", ")]
        return f"cannot be {_show(value)}", did_you_mean(str(value), choices)
    if kind in _LIMITS:
        bound, words = _LIMITS[kind]
        return f"must be {words} {context[bound]:g}, not {_show(value)}", ""
    if kind in ("too_short", "string_too_short"):
        return "must not be empty", ""
    if kind == "invalid_key":
        return f"has a key that is not text: {problem['loc'][-1]}", "put it in quotes"
    for prefix, words in _TYPES.items():
        if kind.startswith(prefix):
            quotes = "put it in quotes" if prefix == "string" and isinstance(value, int | float) else ""
            return f"{words}, not {_show(value)}", quotes
    return f"cannot be {_show(value)}: {problem['msg']}", ""


def _show(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else "empty" if value is None else repr(value)
    return clipped(text)
