"""The cluster of a search: its nodes, their admission, and measurers on its devices."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.tune import PlacementGroupFactory

from autocompress.cluster.admitting import Admission, question_of
from autocompress.cluster.attaching import address_of, attached, check_answers
from autocompress.cluster.nodes import Nodes
from autocompress.cluster.resources import check_request, fits, worker_request
from autocompress.cluster.slots import Slots
from autocompress.compat import ray as compat
from autocompress.contract import Device
from autocompress.errors import UserError
from autocompress.job import Job
from autocompress.searching import localray
from autocompress.searching.gpus import gpu_plan
from autocompress.searching.stations import start_stations

LOOKS_EVERY_S = 3.0
"""Seconds between two checks for nodes that joined."""
SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""The variable that Ray sets for the entry point of a submitted job."""
log = logging.getLogger("autocompress.search")


@dataclass
class Site:
    """The nodes of a search on a cluster.

    Attributes:
        nodes: nodes of the cluster.
        admission: decides which of them get work.
        slots: gives the node of the next worker.
        stations: measurers by machine; empty if each worker measures on its own machine.
    """

    nodes: Nodes
    admission: Admission
    slots: Slots
    stations: Mapping[str, ActorHandle] = field(default_factory=dict)
    _looked: float = 0.0

    def turn(self) -> None:
        """Looks for nodes that have joined; call it often."""
        if time.monotonic() - self._looked > LOOKS_EVERY_S:
            self._looked = time.monotonic()
            self.admission.look()

    def take(self, worker: str) -> dict[str, Any] | None:
        """The next place for a worker, for :func:`placement_of`; None if there is none."""
        node = self.slots.take(worker)
        if node is None:
            return None
        request = self.slots.request or _next_to_nothing(self.nodes.alive[node].resources)
        return {"node": node, "request": dict(request)}


def placement_of(place: Mapping[str, Any]) -> PlacementGroupFactory:
    """The resource request for a worker in a place from :meth:`Site.take`."""
    return PlacementGroupFactory([place["request"]], bundle_label_selector=[{"ray.io/node-id": place["node"]}])


def check(job: Job) -> None:
    """Checks that the cluster of a job answers, before anything expensive is done.

    Raises:
        UserError: if it does not.
    """
    if not ray.is_initialized():
        check_answers(address_of(job.cluster))


@contextmanager
def connected(job: Job, folder: Path, device: Device, note: Callable[[str], None]) -> Iterator[Site]:
    """Connects to the cluster of a job, and probes its nodes.

    Args:
        job: job of the search.
        folder: ``results/<name>``.
        device: device of the job.
        note: called with notes for the user.

    Raises:
        UserError: if it cannot connect, no node has the resources of a worker, or no node can work.
    """
    with attached(address_of(job.cluster), lambda: localray.is_ending):
        nodes = Nodes()
        try:
            request = worker_request(job.cluster, gpu_plan(int(ray.cluster_resources().get("GPU", 0)), job.workers))
            check_request(request, job.cluster.device_nodes, nodes.alive.values())
            measures_itself = not device.deterministic and device.is_local and job.cluster.device_nodes is None
            with question_of(job, folder) as question:
                admission = Admission(nodes, question, note, same_processor=measures_itself)
                admission.begin()
                slots = Slots(nodes, admission, relieved(request, nodes, admission, note))
                yield Site(nodes, admission, slots, _stations(job, device, nodes, admission))
        finally:
            nodes.stop()


def _stations(job: Job, device: Device, nodes: Nodes, admission: Admission) -> dict[str, ActorHandle]:
    """Measurers on the nodes with the job's device and the processor of the driver.

    Raises:
        UserError: if no such node has it.
    """
    resource = job.cluster.device_nodes
    if resource is None or device.deterministic or not device.is_local:
        return {}
    chosen: dict[str, str] = {}
    others = []
    for name, facts in admission.facts.items():
        node = nodes.alive.get(name)
        if node is None or not node.resources.get(resource):
            continue
        if facts.processor == admission.own.processor:
            chosen.setdefault(facts.machine, name)
        else:
            others.append(str(node))
    if not chosen:
        what = f"{', '.join(others)} have other processors than the driver" if others else "none of them can work"
        raise UserError(
            f"no node with the resource '{resource}' can measure for this search: {what}",
            "start the search on a node that has it",
        )
    return start_stations(job, device, chosen)


def relieved(
    request: dict[str, float], nodes: Nodes, admission: Admission, note: Callable[[str], None]
) -> dict[str, float]:
    """The request, without processors if the entry point of this job takes too many of them.

    Otherwise Ray would wait forever without a message.
    """
    free = compat.available_by_node()
    admitted = [node for node in nodes.alive.values() if node.id in admission.facts]
    if any(fits(request, free.get(node.id, {})) for node in admitted):
        return request
    if SUBMITTED in os.environ:
        home, own = compat.entry_point(os.environ[SUBMITTED])
        there = free.get(home, {})
        if own and home in admission.facts and fits(request, {**there, "CPU": there.get("CPU", 0.0) + own}):
            note("the entry point of this job has taken all processors; workers run beside it, and ask Ray for none")
            return {name: amount for name, amount in request.items() if name != "CPU"}
    note("all processors of the cluster are taken by other jobs; workers start when some are free")
    return request


def _next_to_nothing(resources: Mapping[str, float]) -> dict[str, float]:
    """A tiny request that fits on any node, because Ray does not place empty requests."""
    own = next(name for name in resources if name.startswith("node:") and not name.startswith("node:__"))
    return {own: 0.001}
