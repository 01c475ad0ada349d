"""Spaces in YAML: finding the file, and the parameters that it fixes or narrows.

A space file::

    methods: [ghost, quantize]     # optional: which methods may act
    space:                         # by method, parameter and group; groups may be left out
      ghost:
        ratio: {low: 1, high: 4}   # narrows a range
        kernel: 1                  # fixes a value
      bits:
        weight: [none, "quantize:8"]   # narrows the choices
      prune:
        mode: scatter                  # a choice that is drawn only where it is named
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from autocompress.errors import UserError, did_you_mean
from autocompress.job.schema import Job
from autocompress.job.source import Source
from autocompress.job.yamlfile import read_yaml

DEFAULT = "default"
"""The name of the space without limits."""
SPACE_PREFIX = "space."
"""Prefix of the key of every limit, in space files and in jobs."""


@dataclass(frozen=True)
class Limits:
    """The parameters that the user fixed or narrowed.

    Attributes:
        values: by parameter name, with or without group (``ghost.ratio``). A value fixes the
            parameter, a list narrows its choices, and ``{low:, high:}`` narrows its range.
            ``contract.Space`` takes the same form.
        methods: the methods that may act; None for all that apply.
        source: where each key was written, as ``space.<name>``.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    methods: tuple[str, ...] | None = None
    source: Source = field(default_factory=Source)

    def error(self, name: str, text: str, hint: str = "") -> UserError:
        """An error about the limit on parameter ``name``, with the place where it was written."""
        parts = name.split(".")
        keys = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
        key = next((key for key in keys if key in self.values), name)
        return self.source.error(SPACE_PREFIX + key, text, hint)

    def to_space(self) -> str | dict[str, Any]:
        """The limits as a job's ``space:`` entry."""
        return dict(self.values) or DEFAULT


def space_folders() -> list[Path]:
    """Where named spaces are looked for: in the installed package, then in a source tree."""
    package = Path(__file__).parents[1]
    return [package / "search_spaces", package.parent / "search_spaces"]


def space_names() -> list[str]:
    """Names of the spaces in search_spaces/, without the jobs in the same folder."""
    files = {path.stem: path for folder in space_folders() for path in sorted(folder.glob("*.yaml"))}
    return [name for name, path in files.items() if set(read_yaml(path, "space").values) <= {"methods", "space"}]


def find_space(name: str, beside: Path | None = None) -> Path:
    """The file of the space ``name``.

    ``name`` is a path, relative to the working folder or to ``beside``, or a name in
    search_spaces/.

    Raises:
        UserError: if there is none.
    """
    is_path = "/" in name or "\\" in name or name.endswith((".yaml", ".yml"))
    if is_path:
        places = [Path(name)] + ([beside / name] if beside is not None else [])
    else:
        places = [folder / f"{name}.yaml" for folder in space_folders()]
    for place in places:
        if place.is_file():
            return place
    raise UserError(f"there is no space '{name}'", "" if is_path else did_you_mean(name, [DEFAULT, *space_names()]))


REPAIR = "repair.fit"


def limits_of(job: Job) -> Limits:
    """The limits of ``job.space``, and the methods that may act.

    The methods are ``job.methods`` or, where the job has none, those of the space.
    ``search.repair: false`` is a limit too.

    Raises:
        UserError: if the space is not found or not valid, with file, line and key.
    """
    limits = _limits_of(job)
    if job.search.repair:
        return limits
    if (asked := limits.values.get(REPAIR, "none")) not in ("none", ["none"]):
        text = f"cannot be false where the space has {REPAIR}: {asked}"
        raise job.source.error("search.repair", text, "leave one of them out")
    return replace(limits, values={**limits.values, REPAIR: "none"})


def _limits_of(job: Job) -> Limits:
    if isinstance(job.space, Mapping):
        return Limits(_flatten(job.space, job.source), job.methods, job.source)
    if job.space == DEFAULT:
        return Limits(methods=job.methods)
    try:
        path = find_space(job.space, job.source.file.parent if job.source.file is not None else None)
    except UserError as error:
        raise job.source.error("space", f"cannot be found: {error.message}", error.hint) from None
    document = read_yaml(path, "space")
    for key in document.values:
        if key not in ("methods", "space"):
            raise document.source.error(str(key), "is no key of a space", "it has 'methods:' and 'space:'")
    methods = document.values.get("methods")
    if methods is not None and not (isinstance(methods, list) and all(isinstance(name, str) for name in methods)):
        raise document.source.error("methods", "must be a list of method names")
    space = document.values.get("space") or {}
    if not isinstance(space, Mapping):
        raise document.source.error("space", "must be a mapping of limits")
    named = job.methods if job.methods is not None or methods is None else tuple(methods)
    return Limits(_flatten(space, document.source), named, document.source)


def resolved(job: Job) -> Job:
    """``job`` with the limits of its space written out, so that it depends on no other file.

    Errors still name the file of the space.
    """
    limits = limits_of(job)
    copy = job.model_copy(update={"space": limits.to_space(), "methods": limits.methods})
    inside = {key: place for key, place in limits.source.places.items() if key.startswith(SPACE_PREFIX)}
    if job.methods is None and "methods" in limits.source.places:
        inside["methods"] = limits.source.places["methods"]
    copy._source = Source(job.source.file, {**job.source.places, **inside}, job.source.flags)
    return copy


def reject_unmatched(
    limits: Limits, matched: Iterable[str], known: Iterable[str], inactive: Iterable[str] = ()
) -> None:
    """Refuses a limit that matched no parameter.

    Args:
        matched: the keys that matched a parameter (``Space.matched``, of the whole space).
        known: names of all parameters of the space, for the hint.
        inactive: methods that are installed but do not act in this job, or full names of single
            parameters; limits on them are ignored.

    Raises:
        UserError: naming file, line and key of the first such limit.
    """
    answered, silent = set(matched), set(inactive)
    for key in limits.values:
        if key in answered or key in silent or key.split(".")[0] in silent:
            continue
        names = set(known)
        # A limit may omit the group, so prefixes of names count too.
        prefixes = {".".join(name.split(".")[:end]) for name in names for end in range(2, name.count(".") + 1)}
        depth = key.count(".")
        close = sorted(names | prefixes, key=lambda name: (abs(name.count(".") - depth), name))
        raise limits.error(key, "matches no parameter of the space", did_you_mean(key, close))


def _flatten(space: Mapping[Any, Any], source: Source) -> dict[str, Any]:
    """Limits by dotted name; nested mappings and dotted keys may be mixed."""
    flat: dict[str, Any] = {}

    def visit(node: Mapping[Any, Any], path: str) -> None:
        for key, value in node.items():
            name = f"{path}{key}"
            if isinstance(value, Mapping) and value and not set(value) <= {"low", "high"}:
                visit(value, f"{name}.")
            elif name in flat:
                raise source.error(SPACE_PREFIX + name, "is given twice", "drop one")
            else:
                _check_limit(name, value, source)
                flat[name] = dict(value) if isinstance(value, Mapping) else value

    visit(space, "")
    return flat


def _check_limit(name: str, value: Any, source: Source) -> None:
    """Refuses a limit that fits no parameter."""
    if isinstance(value, Mapping):
        for end, bound in value.items():
            if isinstance(bound, bool) or not isinstance(bound, int | float) or not math.isfinite(bound):
                raise source.error(f"{SPACE_PREFIX}{name}.{end}", f"must be a number, not {bound!r}")
        if not value:
            raise source.error(SPACE_PREFIX + name, "is empty", "give a value, a list, or {low: ..., high: ...}")
        return
    for item in value if isinstance(value, list | tuple) else (value,):
        if isinstance(item, float) and not math.isfinite(item):
            raise source.error(SPACE_PREFIX + name, f"must be a finite number, not {item}")
        if not isinstance(item, str | int | float | bool):
            what = "nothing" if item is None else f"a {type(item).__name__}"
            hint = 'for no change, write "none"' if item is None else "give a value, a list, or {low:, high:}"
            raise source.error(SPACE_PREFIX + name, f"cannot be {what}", hint)
