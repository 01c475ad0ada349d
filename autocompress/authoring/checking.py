"""Finds the module of a plugin by its name or file."""

from __future__ import annotations

import importlib
import importlib.metadata
from pathlib import Path
from types import ModuleType

from autocompress.contract.manager import plugin_file
from autocompress.errors import UserError, did_you_mean
from autocompress.job.modelnames import PLUGIN_GROUP


def module_of(plugin: str) -> object:
    """The plugin that an entry point or a Python file gives; its hooks are not checked.

    Args:
        plugin: name of an installed plugin, or path of a file.

    Raises:
        UserError: if there is none, or it cannot be imported.
    """
    if plugin.endswith(".py"):
        if not Path(plugin).is_file():
            raise UserError(f"there is no file {plugin}")
        return plugin_file(Path(plugin).resolve())
    points = {point.name: point for point in importlib.metadata.entry_points(group=PLUGIN_GROUP)}
    if plugin not in points:
        raise UserError(f"no plugin '{plugin}' is installed", did_you_mean(plugin, sorted(points)))
    try:
        found: ModuleType | object = points[plugin].load()
    except (Exception, SystemExit) as error:
        raise UserError(f"the plugin '{plugin}' cannot be imported: {error}") from error
    return found
