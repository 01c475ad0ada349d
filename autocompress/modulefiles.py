"""Python modules in files of the user, which are not installed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from autocompress.files import digest


class NotPython(ImportError):
    """A file that Python cannot import by its name."""


_paths: dict[str, Path] = {}
"""The file of each module that :func:`imported` made, by the module's name."""


def imported(path: Path, kind: str) -> ModuleType:
    """Executes the Python file at ``path`` and returns its module.

    Args:
        path: path of the file; its name in ``sys.modules`` is made from it.
        kind: what the module is for, part of that name.

    Raises:
        NotPython: if it is no Python file.
        BaseException: whatever the file raises; the module is then not in ``sys.modules``.
    """
    name = f"autocompress_{kind}_{title(path).replace('.', '_')}_{digest(str(path))[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise NotPython(f"{path} is no Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    _paths[name] = path
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def title(path: Path) -> str:
    """The name of the module in a Python file; that of the package for its ``__init__.py``."""
    return path.absolute().parent.name if path.stem == "__init__" else path.stem


def file_name(path: Path) -> str:
    """The name of a Python file; with the folder of its package for an ``__init__.py``."""
    return f"{title(path)}/{path.name}" if path.stem == "__init__" else path.name


def path_of(module: str) -> Path | None:
    """The file of a module or submodule that :func:`imported` made; None for other modules."""
    return _paths.get(module.partition(".")[0])
