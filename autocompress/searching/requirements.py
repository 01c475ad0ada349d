"""What a search needs of this machine or of its cluster, and the connection to the cluster.

Ray takes more than a second to import, so a local search imports it only when its workers start.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from autocompress.contract import Device
from autocompress.job import Job
from autocompress.searching import localray

if TYPE_CHECKING:
    from autocompress.searching.site import Site

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def check(job: Job) -> None:
    """Checks the requirements of Ray on this machine or the job's cluster, before expensive work.

    Nothing is checked if this process is already connected to a cluster.

    Raises:
        UserError: if a requirement is not met.
    """
    if not job.cluster.is_local:
        from autocompress.searching import site

        site.check(job)
    elif (ray := sys.modules.get("ray")) is None or not ray.is_initialized():
        localray.check()


def connected(
    job: Job, folder: Path, device: Device, note: Callable[[str], None]
) -> AbstractContextManager[Site | None]:
    """:func:`site.connected` to the cluster of a job; None for a local search."""
    if job.cluster.is_local:
        return nullcontext()
    from autocompress.searching import site

    return site.connected(job, folder, device, note)
