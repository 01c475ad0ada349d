"""The nodes of a cluster: which are alive, which are leaving, and their resources."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass

import ray

from autocompress.compat import ray as compat

EVERY_S = 2.0
"""Seconds between two requests."""
log = logging.getLogger("autocompress.search")


@dataclass(frozen=True)
class Node:
    """A node of a cluster, with its total resources."""

    id: str
    host: str
    resources: Mapping[str, float]

    def __str__(self) -> str:
        return f"{self.host} ({self.id[:6]})"  # two nodes of one machine have one host name


class Nodes:
    """The nodes of the cluster to which this process is connected.

    A thread asks Ray for them, because Ray blocks for seconds if the head does not answer.
    """

    def __init__(self) -> None:
        self.alive: Mapping[str, Node] = {}
        """Usable nodes, by id."""
        self._seen: dict[str, Node] = {}
        self._ended = threading.Event()
        self._ask()
        self._thread = threading.Thread(target=self._watch, name="nodes", daemon=True)
        self._thread.start()

    def is_gone(self, node: str) -> bool:
        """Whether a node has left the cluster, or is being drained."""
        return node in self._seen and node not in self.alive

    def stop(self) -> None:
        """Ends the thread."""
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(EVERY_S):
            try:
                self._ask()
            except Exception as error:  # the head may be unreachable for a while; the search goes on
                log.debug("the nodes of the cluster are unknown: %s", error)

    def _ask(self) -> None:
        leaving = compat.draining_nodes()
        found = [
            Node(one["NodeID"], str(one["NodeManagerHostname"]), dict(one["Resources"]))
            for one in ray.nodes()
            if one["Alive"]
        ]
        self._seen.update({node.id: node for node in found})
        self.alive = {node.id: node for node in found if node.id not in leaving}
