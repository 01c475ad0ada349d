"""Settings that Ray reads once, or that have no public switch.

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
    """Sets whether Ray of this process may use several machines; returns the former value.

    With False, Ray only listens on the loopback interface. Private:
    ``ray_constants.ENABLE_RAY_CLUSTER``.
    """
    from ray._private import ray_constants

    before = bool(ray_constants.ENABLE_RAY_CLUSTER)
    ray_constants.ENABLE_RAY_CLUSTER = several
    return before


def read_authentication() -> None:
    """Makes Ray read mode and token of authentication again, which it otherwise reads once.

    Private: ``ray._raylet``.
    """
    from ray import _raylet

    native: Any = _raylet  # compiled, and without type hints
    native.Config.initialize("")
    native.AuthenticationTokenLoader.instance().reset_cache()
