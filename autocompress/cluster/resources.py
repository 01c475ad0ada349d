"""Resources of a worker, and whether any node has them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from autocompress.cluster.nodes import Node
from autocompress.errors import UserError
from autocompress.job import ClusterConfig

WORDS = {"CPU": "processors", "GPU": "GPUs", "memory": "bytes of memory"}
KEYS = {"CPU": "cluster.cpus", "GPU": "cluster.gpus", "memory": "cluster.memory"}


def worker_request(config: ClusterConfig, gpu_share: float) -> dict[str, float]:
    """Resources of one worker, by Ray's names; ``gpu_share`` is used if the job does not say."""
    gpus = gpu_share if config.gpus is None else config.gpus
    asked = {"CPU": config.cpus, "GPU": gpus, "memory": float(config.memory_bytes)}
    return {name: amount for name, amount in asked.items() if amount}


def fits(request: Mapping[str, float], resources: Mapping[str, float]) -> int:
    """Number of workers that fit into ``resources``; a large number if a worker takes nothing."""
    shares = [math.floor(resources.get(name, 0.0) / amount + 1e-9) for name, amount in request.items() if amount]
    return min(shares, default=10**6)


def check_request(request: Mapping[str, float], device_nodes: str | None, nodes: Iterable[Node]) -> None:
    """Refuses resources that no node of the cluster has; Ray would wait for them forever.

    Raises:
        UserError: naming the resource.
    """
    known = list(nodes)
    if device_nodes is not None and not any(node.resources.get(device_nodes) for node in known):
        names = sorted({name for node in known for name in node.resources if not name.startswith(("node:", "object_"))})
        raise UserError(
            f"no node of the cluster has the resource '{device_nodes}' that 'cluster.device_nodes' names",
            f"""start a node with --resources='{{"{device_nodes}": 1}}'; the cluster has {", ".join(names)}""",
        )
    for name, amount in request.items():
        most = max((node.resources.get(name, 0.0) for node in known), default=0.0)
        if amount > most:
            raise UserError(
                f"a worker takes {amount:g} {WORDS.get(name, name)}, and no node of the cluster has more than {most:g}",
                f"lower {KEYS.get(name, name)}",
            )
    if not any(fits(request, node.resources) for node in known):
        asked = ", ".join(f"{amount:g} {WORDS.get(name, name)}" for name, amount in request.items())
        raise UserError(f"no node of the cluster has all that a worker takes: {asked}", "lower cluster.cpus or gpus")
