"""The folder of the locks that all processes and users of a machine share."""

from __future__ import annotations

import os
import platform
import stat
import tempfile
from pathlib import Path

from autocompress.errors import UserError

ENVIRONMENT = "AUTOCOMPRESS_LOCKS"
PLACES = (Path("/run/lock"), Path("/tmp"), Path("/var/tmp"))
"""Local folders that every user may write to; the first suitable one is used."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
FOR_ALL = 0o666


def machine_files(*names: str, folder: Path | None = None) -> list[Path]:
    """Paths of the lock files ``names``, equal for all processes of this machine.

    File names contain the boot id of the machine, because host names are not unique, and containers
    of one machine have different host names.

    Args:
        names: names of the locks.
        folder: made if missing. Default: the environment variable ``AUTOCOMPRESS_LOCKS`` (several
            containers of one machine can share such a folder), else a local folder that every user
            may write to.

    Raises:
        UserError: if the folder cannot be made.
    """
    given = os.environ.get(ENVIRONMENT)
    if folder is None:
        folder = Path(given) if given else _local_folder()
    try:
        _make(folder)
    except OSError as error:
        raise UserError(
            f"the folder of locks {folder} cannot be made: {error.strerror or error}", f"set {ENVIRONMENT}"
        ) from None
    return [folder / f"autocompress-{machine_id()}.{name}" for name in names]


def machine_id() -> str:
    """The boot id of this machine; its host name where the system has no boot id."""
    try:
        return BOOT_ID.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return platform.node() or "machine"


def _local_folder() -> Path:
    # Permissions of the folder decide, not those of this process, so that all users (root too)
    # choose the same folder.
    for place in PLACES:
        try:
            mode = place.stat().st_mode
        except OSError:
            continue
        if stat.S_ISDIR(mode) and mode & stat.S_ISVTX and mode & stat.S_IWOTH:
            return place
    return Path(tempfile.gettempdir())


def _make(folder: Path) -> None:
    """Makes ``folder`` for all users: each can add files, and only remove own files."""
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir()
    except FileExistsError:
        if not folder.is_dir():
            raise
        return
    folder.chmod(0o1777)
