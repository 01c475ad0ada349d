"""TaskRef: the name of a task with its options, and the task that it names."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from autocompress.errors import UserError, closest, did_you_mean
from autocompress.files import digest
from autocompress.modulefiles import file_name, imported
from autocompress.task.classification import Classification
from autocompress.task.multilabel import Multilabel
from autocompress.task.task import Task

BUILT_IN: dict[str, type[Task]] = {"classification": Classification, "multilabel": Multilabel}
VERSION = 1
"""Version of the built-in tasks besides classification, part of content keys."""
SPELLING = 0.88
"""Least similarity of a name in a class to that of a member of which it is a misspelling."""
_HOW = "derive a class from autocompress.contract.Task and write task: module:Class, or task: FILE.py:Class"


@dataclass(frozen=True)
class TaskRef:
    """Names a task. It is small and can be sent to other processes.

    Attributes:
        name: ``classification``, ``multilabel``, ``module:Class`` or ``FILE.py:Class``.
        options: keyword arguments of the class, as JSON.
    """

    name: str = "classification"
    options: str = "{}"

    @classmethod
    def of(cls, name: str, options: Mapping[str, Any] | None = None) -> TaskRef:
        """The reference for a name and options."""
        return cls(name, json.dumps(options or {}, sort_keys=True))

    @property
    def is_classification(self) -> bool:
        """Whether it names the default task."""
        return self.name == "classification"

    @property
    def key(self) -> str:
        """Content key of name and options, and of the files of a user's class and its bases."""
        return _key(self)

    @property
    def title(self) -> str:
        """The name without the folder of its file, for messages."""
        path, _, name = self.name.rpartition(":")
        return f"{file_name(Path(path))}:{name}" if path else name

    def task(self) -> Task:
        """The task; see :func:`load_task`."""
        return load_task(self)


CLASSIFICATION = TaskRef()


@cache
def load_task(ref: TaskRef) -> Task:
    """The task that ``ref`` names, made once.

    Raises:
        UserError: if the name is unknown, the module cannot be imported, the class is not a task or
            lacks a member or has a misspelt one, or the options are wrong.
    """
    kind = check_class(ref)
    options = json.loads(ref.options)
    try:
        return kind(**options)
    except Exception as error:  # a class of the user may raise any type
        given = f" with the options {options}" if options else ""
        raise UserError(f"the task '{ref.title}' cannot be made{given}: {error}", "see task.options") from error


def check_class(ref: TaskRef) -> type[Task]:
    """The class that ``ref`` names, without making a task.

    Raises:
        UserError: if there is no such class, or it is no task, lacks a member or misspells one.
    """
    kind = _class_of(ref)
    lacking = sorted(getattr(kind, "__abstractmethods__", ()))
    _check_spelling(ref, kind, lacking)
    if lacking:
        named = " and ".join(f"'{name}'" for name in lacking)
        raise UserError(f"the task '{ref.title}' lacks {named}", "docs/tasks.md describes each member")
    return kind


def _check_spelling(ref: TaskRef, kind: type[Task], lacking: Sequence[str]) -> None:
    """Refuses a name that is very close to that of a member which the class does not define.

    A class that lacks members cannot be used, so a name that is less close to one of these is named
    too. An ordinary name such as ``losses`` or ``metrics`` is not refused.
    """
    own = dict.fromkeys(name for one in _own(kind) for name in vars(one))
    members = [name for name in dir(Task) if not name.startswith("_")]
    for name in own:
        if name.startswith("_") or name in members:
            continue
        close = closest(name, lacking) or closest(name, members, SPELLING)
        is_other_form = close not in lacking and (name.startswith(close) or close.startswith(name))
        if close and close not in own and not is_other_form:
            raise UserError(
                f"the task '{ref.title}' has '{name}', which is no member of a task",
                f"did you mean '{close}'? A name of your own may begin with _",
            )


@cache
def _key(ref: TaskRef) -> str:
    kind = _class_of(ref)
    if ref.name in BUILT_IN:
        return digest("task", ref.name, VERSION, ref.options)
    files = [inspect.getsourcefile(one) for one in _own(kind)]
    return digest("task", kind.__qualname__, ref.options, *(Path(file).read_bytes() for file in files if file))


def _own(kind: type[Task]) -> list[type[Task]]:
    """A task's class and its bases, as far as the user wrote them."""
    return [one for one in kind.__mro__ if issubclass(one, Task) and one not in (Task, *BUILT_IN.values())]


def _class_of(ref: TaskRef) -> type[Task]:
    if ref.name in BUILT_IN:
        return BUILT_IN[ref.name]
    module, _, kind = ref.name.rpartition(":")
    if not module:
        hint = did_you_mean(ref.name, list(BUILT_IN)) or _HOW
        raise UserError(f"there is no task '{ref.name}'", hint)
    loaded = _imported(module, ref)
    found = getattr(loaded, kind, None)
    if found is None:
        classes = [name for name, value in vars(loaded).items() if isinstance(value, type)]
        raise UserError(f"the module of the task '{ref.title}' has no '{kind}'", did_you_mean(kind, classes) or _HOW)
    if not (isinstance(found, type) and issubclass(found, Task)):
        what = (
            "it is not a class" if not isinstance(found, type) else "it is not derived from autocompress.contract.Task"
        )
        raise UserError(f"'{ref.title}' is not a task: {what}", _HOW)
    return found


def _imported(module: str, ref: TaskRef) -> ModuleType:
    try:
        return _from_file(Path(module)) if module.endswith(".py") else importlib.import_module(module)
    except FileNotFoundError:
        raise UserError(f"the task '{ref.title}' is in no file: {module} does not exist", _HOW) from None
    except (Exception, SystemExit) as error:  # a module may raise anything
        lines = str(error).strip().splitlines() or [""]
        reason = f"{type(error).__name__}: {lines[0]}"
        raise UserError(f"the module of the task '{ref.title}' cannot be imported: {reason}", _HOW) from error


@cache
def _from_file(path: Path) -> ModuleType:
    """The module in a file, imported once; it can import the files beside it.

    A file in a package (a folder with ``__init__.py``) is imported as a part of it.
    """
    if not path.is_file():
        raise FileNotFoundError(path)
    parts, folder = [] if path.stem == "__init__" else [path.stem], path.parent
    while (folder / "__init__.py").is_file():
        parts, folder = [folder.name, *parts], folder.parent
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    if len(parts) > 1 or path.stem == "__init__":
        return importlib.import_module(".".join(parts))
    return imported(path, "task")
