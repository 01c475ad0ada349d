"""Places for workers on the nodes of a cluster."""

from __future__ import annotations

from collections.abc import Mapping

from autocompress.cluster.admitting import Admission
from autocompress.cluster.nodes import Nodes
from autocompress.cluster.resources import fits


class Slots:
    """Places for workers on the admitted nodes.

    Args:
        nodes: nodes of the cluster.
        admission: decides which of them get work.
        request: resources of a worker, by Ray's names.
    """

    def __init__(self, nodes: Nodes, admission: Admission, request: Mapping[str, float]) -> None:
        self._nodes, self._admission, self.request = nodes, admission, request
        self._workers: dict[str, str] = {}

    def take(self, worker: str) -> str | None:
        """The id of the node with the most free places, for ``worker``; None if none is free."""
        free = {
            node.id: fits(self.request, node.resources) - self._used(node.id)
            for node in self._nodes.alive.values()
            if node.id in self._admission.facts
        }
        best = max(free, key=lambda node: (free[node], -self._used(node)), default=None)
        if best is None or free[best] <= 0:
            return None
        self._workers[worker] = best
        return best

    def free(self, worker: str) -> None:
        """Frees the place of a worker that has ended."""
        self._workers.pop(worker, None)

    @property
    def alive(self) -> int:
        """The workers on nodes that are in the cluster."""
        return sum(not self._nodes.is_gone(node) for node in self._workers.values())

    def _used(self, node: str) -> int:
        return sum(one == node for one in self._workers.values())
