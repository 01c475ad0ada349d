"""The section ``cluster`` of a job: where its workers run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, field_validator

from autocompress.errors import HintedError
from autocompress.job.section import Section
from autocompress.objectives.spelling import Bound, parse_bound, spell_bound

LOCAL, AUTO = "local", "auto"
_HOST_PORT = re.compile(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+):(\d{1,5})")


def _amount(bound: Bound | None) -> Bound | None:
    if bound is not None and bound.relative:
        raise HintedError("cannot be a ratio", "write an amount such as 4 GB")
    return bound


_Memory = Annotated[
    Bound | None,
    BeforeValidator(partial(parse_bound, "size")),
    AfterValidator(_amount),
    PlainSerializer(partial(spell_bound, "size"), when_used="json"),
]


class ClusterConfig(Section):
    """Where workers run: on this machine, or on the nodes of a Ray cluster that is already running.

    All keys except ``address`` only apply on a cluster. In a job file, the total number of workers
    may be written as ``workers`` or as ``cluster.workers``.
    """

    address: str = LOCAL
    """``local``, ``auto`` or HOST:PORT of the cluster's head.

    ``auto`` is the cluster that ``RAY_ADDRESS`` names, or the one of this machine.
    """
    cpus: float = Field(default=1.0, ge=0)
    """Processors that one worker takes."""
    gpus: float | None = Field(default=None, ge=0)
    """GPUs that one worker takes; without it, all GPUs are shared evenly."""
    memory: _Memory = None
    """Memory that one worker takes: ``4 GB``."""
    device_nodes: str | None = Field(default=None, min_length=1)
    """A resource of Ray: only nodes that have it measure latency."""

    @field_validator("address")
    @classmethod
    def _check_address(cls, given: str) -> str:
        if given in (LOCAL, AUTO):
            return given
        if given.startswith("ray://"):
            raise HintedError(
                f"cannot be '{given}'", "start the search on a node of the cluster and give HOST:PORT of its head"
            )
        found = _HOST_PORT.fullmatch(given)
        if found is None or not 0 < int(found[2]) < 65536:
            raise HintedError(f"cannot be '{given}'", "write local, auto, or HOST:PORT of the cluster's head")
        return given

    @property
    def is_local(self) -> bool:
        """Whether the search starts its own Ray on this machine."""
        return self.address == LOCAL

    @property
    def memory_bytes(self) -> int:
        """Bytes that a worker takes; 0 if the job does not say."""
        return 0 if self.memory is None else int(self.memory.value)

    @property
    def threads(self) -> int:
        """Number of threads of torch and of the scorer in a worker."""
        return max(1, int(self.cpus))


def workers_moved(given: Any) -> Any:
    """The values of a job with ``cluster.workers`` as its ``workers``.

    Raises:
        HintedError: if both keys are set and differ.
    """
    section = given.get("cluster") if isinstance(given, Mapping) else None
    if not isinstance(section, Mapping) or section.get("workers") is None:
        return given
    workers = section["workers"]
    if given.get("workers", workers) != workers:
        text = f"is {workers}, but 'workers' is {given['workers']}"
        raise HintedError(text, "give one of them", "cluster.workers")
    rest = {key: value for key, value in section.items() if key != "workers"}
    return {**given, "cluster": rest, "workers": workers}
