"""Manifest of a RayJob: KubeRay starts a cluster for the search, and restarts a lost one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from autocompress.errors import UserError
from autocompress.files import LOCAL_CACHE
from autocompress.submission.order import RETRIES, Order, command
from autocompress.submission.sending import read_plugin

JOB_FOLDER = "/autocompress/job"
"""Folder in the pods with the job and its plugins."""
LOCKS_FOLDER = "/autocompress/locks"
LOCAL_FOLDER = "/autocompress/local"
"""Shared folder of the pods for the run, if results and cache are on URLs."""
MOST_CONFIG_BYTES = 1_000_000
"""Maximum size of a config map; Kubernetes refuses more than 1 MiB."""
LONGEST_NAME = 47
"""Maximum length of the name of a RayJob, because KubeRay derives longer names from it."""
SHUTDOWN_S = 600
"""Seconds for which a finished job stays visible."""


def manifest(order: Order, *, image: str, claim: str = "", secret: str = "") -> str:
    """The manifests as YAML: a config map with the job, and the RayJob.

    Args:
        order: the job and its resources.
        image: image of containers, with autocompress, its dependencies and this version of Ray.
        claim: persistent volume claim that all pods share, for results and cache if these are
            paths, else for the folder of the run.
        secret: secret with credentials of the storage; its keys become environment variables.

    Raises:
        UserError: if something is missing, or the job is too large for a config map.
    """
    if not image:
        raise UserError("--print kuberay needs --image", "name an image with autocompress and ray in it")
    mounts = _mounts(order, claim)
    name = kubernetes_name(order.job.name)
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": _labels(name)},
        "data": _files(order),
    }
    pod = _Pods(order, name, image, secret, mounts)
    ray_job = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": name, "labels": _labels(name)},
        "spec": {
            "entrypoint": " ".join(command(f"{JOB_FOLDER}/job.yaml", "auto")),
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": SHUTDOWN_S,
            "backoffLimit": RETRIES,
            "rayClusterSpec": {
                "rayVersion": version("ray"),
                "authOptions": {"mode": "token"},
                "headGroupSpec": {"rayStartParams": {"num-cpus": "0", "num-gpus": "0"}, "template": pod.template()},
                "workerGroupSpecs": pod.groups(),
            },
        },
    }
    head = (
        f"# Start: kubectl apply -f THIS_FILE    follow: kubectl logs -f job/{name}\n"
        "# Needs KubeRay 1.5 or later. Checkpoints and pictures that the job names must be in the image or a volume.\n"
    )
    return head + yaml.safe_dump_all([config, ray_job], sort_keys=False, width=1000)


def kubernetes_name(name: str) -> str:
    """``name`` as a valid name in Kubernetes: lower case, digits and hyphens."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return (plain if plain[:1].isalpha() else f"run-{plain}")[:LONGEST_NAME].rstrip("-")


def _labels(name: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": "autocompress", "app.kubernetes.io/instance": name}


def _files(order: Order) -> dict[str, str]:
    """The job and its plugins, by their names in the config map."""
    files: dict[str, str] = {}
    for plugin in order.job.plugins:
        if plugin.name in files:
            raise UserError(f"two plugins of the job are called {plugin.name}", "rename one of them")
        files[plugin.name] = read_plugin(plugin)
    sent = order.job.model_copy(update={"plugins": tuple(Path(JOB_FOLDER) / name for name in files)})
    files["job.yaml"] = sent.to_yaml()
    if (size := sum(len(text.encode()) for text in files.values())) > MOST_CONFIG_BYTES:
        raise UserError(
            f"the job and its plugins have {size / 1e6:.1f} MB, more than the 1 MB of a config map",
            "put the plugins into the image",
        )
    return files


def _mounts(order: Order, claim: str) -> Mapping[str, str]:
    """Paths in the pods by claim. Results on a URL need a claim too, for the folder of the run."""
    paths = [place for place in (order.results, order.cache) if place.startswith("/")]
    if not paths:
        if not claim:
            raise UserError(
                "workers on other pods need the folder of the run, even if results are on a URL",
                "name a volume claim that the pods share with --claim",
            )
        return {claim: LOCAL_FOLDER}
    if paths and not claim:
        raise UserError(f"pods have no storage for {paths[0]}", "name a volume claim that they share with --claim")
    own = [path for path in paths if not any(path.startswith(f"{other}/") for other in paths)]
    if len(own) > 1:
        raise UserError("one volume claim cannot hold both --results and --cache", f"give --cache {own[0]}/.cache")
    return {claim: own[0]} if own else {}


class _Pods:
    """Templates of the pods of one order."""

    def __init__(self, order: Order, name: str, image: str, secret: str, mounts: Mapping[str, str]) -> None:
        self._order, self._name, self._image, self._secret, self._mounts = order, name, image, secret, mounts

    def groups(self) -> list[dict[str, Any]]:
        """The groups of pods: workers, and one pod without a GPU that measures."""
        order = self._order
        groups = [self._group("workers", order.workers, order.gpus, {})]
        if order.device:
            groups.append(self._group("device", 1, 0, {order.device: 1}))
        return groups

    def _group(self, name: str, count: int, gpus: int, resources: Mapping[str, int]) -> dict[str, Any]:
        # KubeRay inserts the value into a shell command, so it contains quotes.
        start = {"resources": json.dumps(json.dumps(resources))} if resources else {}
        if resources:
            start["num-cpus"] = "0"  # its processors are for measuring only
        return {
            "groupName": name,
            "replicas": count,
            "minReplicas": count,
            "maxReplicas": count,
            "rayStartParams": start,
            "template": self.template(gpus),
        }

    def template(self, gpus: int = 0) -> dict[str, Any]:
        """A pod whose requests are its limits, so that nothing else slows its measurements."""
        order = self._order
        amounts: dict[str, Any] = {"cpu": str(order.cpus), "memory": f"{order.memory}Gi"}
        if gpus:
            amounts["nvidia.com/gpu"] = str(gpus)
        container: dict[str, Any] = {
            "name": "ray",
            "image": self._image,
            "resources": {"requests": amounts, "limits": dict(amounts)},
            "env": [
                {"name": "AUTOCOMPRESS_CACHE", "value": order.cache},
                *({"name": LOCAL_CACHE, "value": path} for path in self._mounts.values() if path == LOCAL_FOLDER),
                {"name": "AUTOCOMPRESS_LOCKS", "value": LOCKS_FOLDER},
                {"name": "OMP_NUM_THREADS", "value": str(order.cpus)},
            ],
            "volumeMounts": [
                {"name": "job", "mountPath": JOB_FOLDER, "readOnly": True},
                {"name": "locks", "mountPath": LOCKS_FOLDER},
                {"name": "memory", "mountPath": "/dev/shm"},
                *({"name": "results", "mountPath": path} for path in self._mounts.values()),
            ],
        }
        if self._secret:
            container["envFrom"] = [{"secretRef": {"name": self._secret}}]
        volumes: list[dict[str, Any]] = [
            {"name": "job", "configMap": {"name": self._name}},
            # Pods of one machine share the lock for measurements.
            {"name": "locks", "hostPath": {"path": "/run/autocompress", "type": "DirectoryOrCreate"}},
            {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": f"{max(1, order.memory // 4)}Gi"}},
        ]
        volumes += [{"name": "results", "persistentVolumeClaim": {"claimName": claim}} for claim in self._mounts]
        return {
            "metadata": {"labels": _labels(self._name)},
            "spec": {"terminationGracePeriodSeconds": 30, "containers": [container], "volumes": volumes},
        }
