"""How many processors this process may use: its affinity and the quotas of its containers."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def usable_processors(root: Path = Path("/")) -> int:
    """Processors that this process may keep busy, at least 1.

    A container that may use four processors of a machine with 64 sees all 64; with more than four
    threads, these wait for each other. A fraction of a processor counts as one, as in joblib.

    Args:
        root: the folder that holds ``proc`` and ``sys``.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([count, *(math.ceil(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """The quotas of the control groups of this process and of their parents, in processors."""
    for mount, group, is_unified in _groups(root):
        while True:
            folder = root / mount.relative_to("/") / group
            quota = _unified(folder) if is_unified else _classic(folder)
            if quota is not None and quota > 0:
                yield quota
            if group == PurePosixPath():
                break
            group = group.parent


def _groups(root: Path) -> Iterator[tuple[PurePosixPath, PurePosixPath, bool]]:
    """The hierarchies of control groups that may limit processors.

    Each is a mount point, the path of this process's group below it, and whether it is version 2.
    """
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        is_unified = number == "0" and not controllers
        if not is_unified and "cpu" not in controllers.split(","):
            continue
        for place, inside in _mounts(root, is_unified):
            below = PurePosixPath(path)
            # In a container, the group has its name on the host, but only a part is mounted.
            if not below.is_relative_to(inside) or ".." in below.parts:
                below = PurePosixPath(inside)
            yield PurePosixPath(place), below.relative_to(inside), is_unified


def _mounts(root: Path, is_unified: bool) -> Iterator[tuple[str, str]]:
    """Mount points of a hierarchy, each with the part of the hierarchy that is mounted."""
    for line in _lines(root / "proc/self/mountinfo"):
        own, _, rest = line.partition(" - ")
        fields, (kind, *more) = own.split(), (rest.split() or [""])
        options = more[-1].split(",") if more else []
        if len(fields) > 4 and (kind == "cgroup2" if is_unified else kind == "cgroup" and "cpu" in options):
            yield _plain(fields[4]), _plain(fields[3])


def _plain(path: str) -> str:
    """``path`` of mountinfo with blanks in place of their escapes."""
    return path.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")


def _unified(folder: Path) -> float | None:
    """``cpu.max``: ``<quota> <period>`` in microseconds, or ``max <period>``."""
    words = (_lines(folder / "cpu.max") or [""])[0].split()
    return _ratio(words[0], words[1]) if len(words) == 2 else None


def _classic(folder: Path) -> float | None:
    """The quota of version 1, in two files; -1 is no quota."""
    quota, period = (_lines(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    return _ratio(quota[0], period[0]) if quota and period else None


def _ratio(quota: str, period: str) -> float | None:
    try:
        return float(quota) / float(period)
    except (ValueError, ZeroDivisionError):
        return None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
