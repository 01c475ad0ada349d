"""The section of a job about the purpose of the network."""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
from pathlib import Path
from typing import Any

from pydantic import Field, JsonValue, field_validator, model_serializer, model_validator

from autocompress.errors import HintedError, did_you_mean
from autocompress.job.section import Section

BUILT_IN = ("classification", "multilabel")


class TaskConfig(Section):
    """What the network is for: its loss, its metric and its labels.

    One name stands for the section. In Python, a class itself may be given.
    """

    name: str = "classification"
    """``classification``, ``multilabel``, or a class: ``module:Class``, ``FILE.py:Class``."""
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """Keyword arguments of the class."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, given: Any) -> Any:
        if isinstance(given, type):
            return {"name": _spelled(given)}
        return {"name": given} if isinstance(given, str) else given

    @field_validator("name")
    @classmethod
    def _check_name(cls, given: str) -> str:
        module, _, kind = given.rpartition(":")
        if given in BUILT_IN or (module and kind.isidentifier() and _is_module(module)):
            return given
        own = "write module:Class or FILE.py:Class for a task of your own"
        raise HintedError(f"names no task: '{given}'", did_you_mean(given, BUILT_IN) or own)

    @property
    def is_classification(self) -> bool:
        """Whether it is the default task."""
        return self.name == "classification"

    @property
    def anchored(self) -> TaskConfig:
        """The same task, found from any folder: a file of the user by its absolute path.

        ``module:Class`` is the file ``module.py`` of the working folder where there is one, as for
        Python itself, else an installed module.
        """
        module, _, kind = self.name.rpartition(":")
        if (path := _file_of(module)) is None:
            return self
        name = f"{os.path.abspath(os.path.expanduser(path))}:{kind}"  # noqa: PTH100, PTH111 (Path keeps the '..')
        return self.model_copy(update={"name": name})

    @property
    def fault(self) -> str:
        """Why no module can be there, as the end of a sentence; empty where there may be one."""
        module = self.anchored.name.rpartition(":")[0]
        if not module:
            return ""
        if module.endswith(".py"):
            return "" if os.path.isfile(module) else f"names no file: {module}"  # noqa: PTH113
        try:
            found = importlib.util.find_spec(module.partition(".")[0])
        except (ImportError, ValueError):
            found = None
        return "" if found is not None else f"names no module: '{module}'"

    @model_serializer(mode="plain")
    def _spell(self) -> Any:
        return {"name": self.name, "options": self.options} if self.options else self.name


def _is_module(text: str) -> bool:
    return text.endswith(".py") or bool(re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", text))


def _file_of(module: str) -> Path | None:
    """The file of the user that ``module`` names; None for an installed module, and for no name."""
    if not module or module.endswith(".py"):
        return Path(module) if module else None
    parts = module.split(".")
    for path in (Path(*parts).with_suffix(".py"), Path(*parts) / "__init__.py"):
        if path.is_file():
            return path
    return None


def _spelled(kind: type) -> str:
    """The name of a class: its module, or the file of a script."""
    if kind.__module__ != "__main__":
        return f"{kind.__module__}:{kind.__qualname__}"
    try:
        file = inspect.getsourcefile(kind)
    except (OSError, TypeError):
        file = None
    if file is None or not os.path.isfile(file):  # noqa: PTH113 - of a notebook, it is no path
        raise HintedError(
            f"cannot be the class {kind.__name__}, which is in no file", "write it to a file: FILE.py:Class"
        )
    return f"{file}:{kind.__qualname__}"
