"""Hints for unknown keys of a job: their right place, or similar keys."""

from __future__ import annotations

import difflib
import importlib.metadata
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from autocompress.errors import did_you_mean
from autocompress.job.modelnames import PLUGIN_GROUP
from autocompress.job.schema import Job

SECTIONS: dict[str, type[BaseModel]] = {
    name: field.annotation
    for name, field in Job.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
}
"""The keys of a job that are sections."""
STAGES = ("source", "prune", "repair", "recover", "bits", "qat")
"""First words of the engine's own parameters in a space, in the order of a recipe."""


def where_it_belongs(path: list[str], value: Any, *, in_file: bool) -> str:
    """A hint for an unknown key.

    Args:
        path: the key, after the section in which it was found.
        value: what it was set to.
        in_file: it was written in a job file; otherwise it is a flag or a keyword.
    """
    key, inside = path[-1], path[:-1]
    if inside:
        if key in Job.model_fields:
            return f"'{key}' is a key of the job itself, not of '{inside[0]}'"
        if homes := _sections_of(key):
            return _place(homes, key, in_file)
        return did_you_mean(key, SECTIONS[inside[0]].model_fields if inside[0] in SECTIONS else ())
    if key in _space_words():
        return "in a file it belongs under 'space:'" if in_file else f"write space.{_full(key, value)}"
    if homes := _sections_of(key):
        return _place(homes, key, in_file)
    return _closest(key, value, in_file)


def _sections_of(key: str) -> list[str]:
    return [section for section, model in SECTIONS.items() if key in model.model_fields and section != "data"]


def _place(homes: list[str], key: str, in_file: bool) -> str:
    if in_file:
        return "in a file it belongs under " + " or ".join(f"'{home}:'" for home in homes)
    return "did you mean " + " or ".join(f"'{home}.{key}'" for home in homes) + "?"


def _closest(key: str, value: Any, in_file: bool) -> str:
    """A hint with the keys of a job, a section or a space that are similar to ``key``."""
    spelled = {name: name for name in Job.model_fields}
    for section, model in SECTIONS.items():
        spelled |= {name: f"{section}.{name}" for name in model.model_fields if name not in spelled}
    for word in _space_words():
        spelled.setdefault(word, f"space.{word}" if in_file else f"space.{_full(word, value)}")
    close = difflib.get_close_matches(key, spelled, n=2, cutoff=0.6)
    if not close:
        return did_you_mean(key, Job.model_fields)
    return "did you mean " + " or ".join(f"'{spelled[name]}'" for name in close) + "?"


def _space_words() -> list[str]:
    """First words of parameters: the engine's stages and the installed plugins."""
    return [*STAGES, *dict.fromkeys(point.name for point in importlib.metadata.entry_points(group=PLUGIN_GROUP))]


def _full(word: str, value: Any) -> str:
    """The dotted name of a nested value: ``recover.epochs`` for ``recover``, ``{"epochs": 20}``."""
    while isinstance(value, Mapping) and len(value) == 1:
        (key, value) = next(iter(value.items()))
        word = f"{word}.{key}"
    return word
