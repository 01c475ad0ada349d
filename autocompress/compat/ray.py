"""Private parts of Ray: settings without a public switch, and queries about a cluster.

Ray is imported on the first call.
"""

from __future__ import annotations

import json
from typing import Any


def cluster_variable() -> str:
    """Name of the environment variable that allows clusters of several machines.

    Private: ``ray._private``.
    """
    from ray._private import ray_constants

    return str(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR)


def allow_clusters(several: bool) -> bool:
    """Sets whether Ray of this process may use several machines; returns the former value.

    With False, Ray only listens on the loopback interface. Private:
    ``ray_constants.ENABLE_RAY_CLUSTER``.
    """
    from ray._private import ray_constants

    before = bool(ray_constants.ENABLE_RAY_CLUSTER)
    ray_constants.ENABLE_RAY_CLUSTER = several
    return before


def read_authentication() -> None:
    """Makes Ray read the authentication mode and token again; otherwise it reads them only once.

    Private: ``ray._raylet``.
    """
    from ray import _raylet

    native: Any = _raylet  # compiled, and without type hints
    native.Config.initialize("")
    native.AuthenticationTokenLoader.instance().reset_cache()


def address_of_this_machine() -> str | None:
    """HOST:PORT of the cluster that ``ray start`` last started or joined here; None without one.

    Private: ``ray._private.services``.
    """
    from ray._private import services

    return services.find_bootstrap_address(None)


def draining_nodes() -> set[str]:
    """Ids of the nodes that are about to leave the cluster.

    Private: ``ray._private.state``.
    """
    from ray._private import state

    return set(state.state.get_draining_nodes())


def available_by_node() -> dict[str, dict[str, float]]:
    """Free resources of each node, by its id and the name of the resource.

    Private: ``ray._private.state``.
    """
    from ray._private import state

    return {node: dict(free) for node, free in state.available_resources_per_node().items()}


def entry_point(config: str) -> tuple[str, float]:
    """Node id of a submitted job's entry point, and how many processors the entry point reserved.

    The result is ("", 0) if Ray does not know the job. Private: ``ray.experimental.internal_kv``,
    and the key format ``JOB_DATA_KEY`` of ``ray.dashboard.modules.job.common``.

    Args:
        config: the value of ``RAY_JOB_CONFIG_JSON_ENV_VAR``.
    """
    from ray.experimental.internal_kv import _internal_kv_get

    name = (json.loads(config).get("metadata") or {}).get("job_submission_id", "")
    found = _internal_kv_get(f"_ray_internal_job_info_{name}", namespace="job")
    known = json.loads(found) if found else {}
    return known.get("driver_node_id") or "", float(known.get("entrypoint_num_cpus") or 0.0)


def ask_head(address: str, seconds: float) -> None:
    """Asks the head of a cluster for its nodes, which needs the right token.

    Unlike this, ``ray.init`` takes half a minute to fail, and gives no reason. Private:
    ``ray._raylet``.

    Raises:
        ray.exceptions.AuthenticationError: if the token is wrong or missing.
        ray.exceptions.RpcError: if the other side is not the head of a cluster.
    """
    from ray import _raylet

    native: Any = _raylet
    native.GcsClient(address=address).get_all_node_info(timeout=seconds)
