"""Pages of the keys of job files and budget files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from docstrings import GENERATED, cell, first_paragraph
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from autocompress.checking.limits import Limits
from autocompress.job import Bound, Job


def job_page() -> str:
    """Every key of a job file."""
    head = (
        "# Job file\n\n"
        f"{GENERATED} A job file is YAML. Its keys are also the keyword arguments of "
        "`autocompress.search`, and flags of `autocompress search` "
        "([commands](flags.md)); `--set budget.trials=20` sets any of them.\n"
    )
    return head + "".join(_section_tables(Job, ""))


def budget_page() -> str:
    """Every key of a budget file."""
    head = f"# Budget file\n\n{GENERATED} `autocompress check` reads it ([CI](../ci.md)).\n"
    return head + "".join(_section_tables(Limits, "", skip={"DataConfig", "DeviceConfig"}))


def _section_tables(model: type[BaseModel], key: str, skip: set[str] = frozenset()) -> Iterator[str]:  # type: ignore[assignment]
    title = f"`{key}`" if key else "Keys"
    yield f"\n## {title}\n\n{first_paragraph(model)}\n\n| key | values | default | what it says |\n|---|---|---|---|\n"
    inner: list[tuple[str, type[BaseModel]]] = []
    for name, field in model.model_fields.items():
        section = _section_of(field)
        values = "a section, below" if section else _values(field)
        if section and section.__name__ in skip:
            values = "as in a [job](job.md)"
        elif section:
            inner.append((f"{key}.{name}" if key else name, section))
        yield f"| `{name}` | {values} | {_default(field, section)} | {cell(field.description or '')} |\n"
    for full, section in inner:
        yield from _section_tables(section, full, skip)


def _section_of(field: FieldInfo) -> type[BaseModel] | None:
    """The section that a key holds, where it holds one; also of a list of them only the name."""
    found = [one for one in _parts(field.annotation) if isinstance(one, type) and issubclass(one, BaseModel)]
    found = [one for one in found if not issubclass(one, Bound)] if isinstance(Bound, type) else found
    return found[0] if found and "tuple" not in str(field.annotation) else None


def _parts(annotation: Any) -> list[Any]:
    """The annotation and everything inside it."""
    inside = getattr(annotation, "__args__", ())
    return [annotation, *(part for one in inside for part in _parts(one))]


def _values(field: FieldInfo) -> str:
    """The values of a key as a reader writes them."""
    annotation = str(field.annotation)
    words = [str(one) for part in _parts(field.annotation) for one in _literals(part)]
    kinds = {"bool": "true or false", "int": "whole number", "float": "number", "Path": "path", "Bound": "a bound"}
    plain = [text for kind, text in kinds.items() if re.search(rf"\b{kind}\b", annotation)]
    if "dict" in annotation:
        plain = ["name, path or mapping" if "str |" in annotation else "mapping"]
    if "tuple" in annotation:
        return "list" if not words else f"list of {', '.join(f'`{word}`' for word in words)}"
    if not plain and not words:
        plain = ["text"]
    limits = [f"{sign} {value:g}" for sign, value in _limits(field)]
    return " or ".join([*(f"`{word}`" for word in words), *plain]) + (f", {', '.join(limits)}" if limits else "")


def _literals(part: Any) -> tuple[Any, ...]:
    return part.__args__ if "Literal" in str(getattr(part, "__origin__", "")) else ()


def _limits(field: FieldInfo) -> Iterator[tuple[str, float]]:
    for rule in field.metadata:
        for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<")):
            if (value := getattr(rule, name, None)) is not None:
                yield sign, value


def _default(field: FieldInfo, section: type[BaseModel] | None) -> str:
    if field.is_required():
        return "required"
    if field.default is PydanticUndefined or section:
        return ""
    value = field.default
    if value is None or value == () or value == {}:
        return "—"
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"`{text.lower() if isinstance(value, bool) else text}`"
