"""Settings of Ray that it reads once, or that have no public switch.

Ray is imported on the first call.
"""

from __future__ import annotations

from typing import Any


def cluster_variable() -> str:
    """Name of the environment variable that allows clusters of several machines.

    Private: ``ray._private``.
    """
    from ray._private import ray_constants

    return str(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR)


def allow_clusters(several: bool) -> bool:
    """Whether Ray of this process may have clusters of several machines; returns what held before.

    With False Ray listens on the loopback interface alone. Private:
    ``ray_constants.ENABLE_RAY_CLUSTER``.
    """
    from ray._private import ray_constants

    before = bool(ray_constants.ENABLE_RAY_CLUSTER)
    ray_constants.ENABLE_RAY_CLUSTER = several
    return before


def read_authentication() -> None:
    """Has Ray read the mode and the token of authentication again; it keeps the first as long as a
    process lives.

    Private: ``ray._raylet``.
    """
    from ray import _raylet

    native: Any = _raylet  # compiled, and without type hints
    native.Config.initialize("")
    native.AuthenticationTokenLoader.instance().reset_cache()
