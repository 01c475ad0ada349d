"""Where the locks lie that all processes of a machine share, whoever started them."""

from __future__ import annotations

import os
import platform
import stat
import tempfile
from pathlib import Path

from autocompress.errors import UserError

ENVIRONMENT = "AUTOCOMPRESS_LOCKS"
PLACES = (Path("/run/lock"), Path("/tmp"), Path("/var/tmp"))
"""Local folders that every user may write to; the first one that is such a folder is taken."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
FOR_ALL = 0o666


def machine_files(*names: str, folder: Path | None = None) -> list[Path]:
    """Paths of lock files that every process of this machine finds under the same ``names``.

    The file names hold the machine's boot id: host names are not unique, and containers of one
    machine have several.

    Args:
        names: of the locks.
        folder: where they lie. By default the environment variable ``AUTOCOMPRESS_LOCKS`` names it
            (containers of one machine can share such a folder), else it is a local folder that
            every user may write to. Made if missing.

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
    """A name of this machine since it was started; the host's where the system gives none."""
    try:
        return BOOT_ID.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return platform.node() or "machine"


def _local_folder() -> Path:
    # By its permissions and not by what this process may do: all users, root too, must choose the
    # same one.
    for place in PLACES:
        try:
            mode = place.stat().st_mode
        except OSError:
            continue
        if stat.S_ISDIR(mode) and mode & stat.S_ISVTX and mode & stat.S_IWOTH:
            return place
    return Path(tempfile.gettempdir())


def _make(folder: Path) -> None:
    """Makes ``folder`` for all users: each may add files, and none may remove another's."""
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
