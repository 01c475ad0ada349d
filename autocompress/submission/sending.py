"""Reads the files that are sent with a job."""

from __future__ import annotations

from pathlib import Path

from autocompress.errors import UserError


def read_plugin(path: Path) -> str:
    """The text of a plugin file.

    Raises:
        UserError: if it cannot be read, or is a folder.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UserError(f"the plugin {path} cannot be sent: {why}", "name a Python file") from None
