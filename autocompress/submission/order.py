"""The resources that a job needs of a cluster of any kind, checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from autocompress.errors import UserError
from autocompress.job import Job
from autocompress.job.schema import COST_MODEL
from autocompress.objectives.spelling import Bound
from autocompress.remote.urls import checked_url, is_url

DEVICE = "device"
"""Default resource of the measuring nodes."""
MEMORY = 8
"""Default memory of a worker in GiB."""
RETRIES = 3
"""How often a batch system restarts a search that was lost with its nodes."""


@dataclass(frozen=True)
class Order:
    """A job and the resources that it needs.

    Attributes:
        job: job whose ``results`` is a path on the nodes.
        results: folder on storage that all nodes share, or URL, without a slash at the end.
        cache: folder or URL of the cache, in the same form.
        workers: number of workers, each on a pod or node of its own.
        cpus: processors of each worker.
        memory: memory of each worker in GiB.
        gpus: GPUs of each worker.
    """

    job: Job
    results: str
    cache: str
    workers: int
    cpus: int
    memory: int
    gpus: int

    @property
    def device(self) -> str:
        """The Ray resource of the measuring nodes; empty for a cost model."""
        return self.job.cluster.device_nodes or ""

    @property
    def run(self) -> str:
        """The folder or URL of the run."""
        return f"{self.results}/{self.job.name}"


def order_of(
    job: Job,
    *,
    results: str = "",
    cache: str = "",
    workers: int | None = None,
    cpus: int | None = None,
    memory: int | None = None,
    gpus: int | None = None,
) -> Order:
    """An order with checked paths; missing values are taken from the job.

    Raises:
        UserError: if other nodes cannot access results or cache.
    """
    place = shared_place(results or str(job.results), "results")
    cached = shared_place(cache, "cache") if cache else f"{place}/.cache"  # names of runs begin with no dot
    asked = job.cluster
    workers = workers or job.workers
    cpus = cpus or max(1, math.ceil(asked.cpus))
    gpus = math.ceil(asked.gpus or 0) if gpus is None else gpus
    reserved = asked.memory if memory is None else Bound(value=memory * 2.0**30, relative=False)
    memory = memory or math.ceil(asked.memory_bytes / 2**30) or MEMORY
    is_measured = not job.device.name.startswith(COST_MODEL)
    device = (asked.device_nodes or DEVICE) if is_measured else None
    takes = {"cpus": float(cpus), "gpus": float(gpus) or None, "memory": reserved}
    cluster = asked.model_copy(update={**takes, "device_nodes": device})
    changed = job.model_copy(update={"results": Path(place), "workers": workers, "cluster": cluster})
    changed._source = job.source
    return Order(changed, place, cached, workers, cpus, memory, gpus)


def shared_place(given: str, what: str) -> str:
    """A checked path that is valid on every node: a URL, or an absolute path without ``..``.

    Raises:
        UserError: if ``given`` is neither.
    """
    if is_url(given):
        try:
            return checked_url(given)
        except ValueError as error:
            raise UserError(f"--{what} {error}") from None
    path = PurePosixPath(given)
    if not path.is_absolute() or ".." in path.parts or not given.isprintable():
        raise UserError(
            f"--{what} {given} is not a place that all nodes of a cluster can read",
            f"give a URL, or an absolute path on storage that they share: --{what} /shared/{what}",
        )
    return str(path)


def command(job_file: str, address: str, program: Sequence[str] = ("autocompress",)) -> list[str]:
    """The words of the command that starts or continues the search on a node of the cluster.

    The words need no quoting. This is intended, because job servers quote differently.

    Args:
        job_file: path of the job on the node.
        address: address of the cluster: ``auto`` or ``HOST:PORT``.
        program: how the node calls this program.
    """
    return [*program, "search", job_file, "--restartable", "--address", address]
