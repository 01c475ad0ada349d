"""Probes of nodes before they get work: versions, folders, processor."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from autocompress.cluster.nodes import Node
from autocompress.devices.machine import machine
from autocompress.errors import UserError
from autocompress.files import cache_folder, check_cache
from autocompress.job import Job
from autocompress.locks.place import machine_id

LIBRARIES = (
    "autocompress",
    "ray",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "optuna",
)
PROBE_BYTES = 64 * 2**10
"""Bytes that are written to the cache of a node, to find full disks."""
CLOCKS_APART_S = 30.0
"""Largest difference of clocks in seconds, because deadlines are times of day."""


@dataclass(frozen=True)
class Question:
    """The question to a node.

    Attributes:
        nonce: a file that the driver wrote to the folder of the run.
        secret: its content.
        paths: paths of the job, readable by the driver.
        environment: environment variables of the driver, such as that of the cache folder. Each is
            set in a process of the node that does not have it.
    """

    nonce: Path
    secret: str
    paths: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    """The facts about a node or the driver.

    Attributes:
        versions: versions of Python, libraries, autocompress with a digest of its files, and
            plugins.
        processor: properties by which a runtime chooses kernels.
        machine: key of the machine; two nodes may be on one.
        fault: the reason why the node cannot work; empty if it can.
        clock: seconds since the epoch at its answer.
    """

    versions: Mapping[str, str]
    processor: Mapping[str, Any]
    machine: str
    fault: str = ""
    clock: float = 0.0


def own_facts() -> Facts:
    """The facts of this process."""
    known = machine()
    processor = {name: known[name] for name in ("processor", "architecture", "features")}
    return Facts(_versions(), processor, machine_id(), clock=time.time())


def answer(question: Question) -> Facts:
    """The facts of this node, and whether it can read the files of the run."""
    for name, value in question.environment.items():
        os.environ.setdefault(name, value)
    facts = own_facts()
    return Facts(facts.versions, facts.processor, facts.machine, _fault(question), time.time())


def paths_of(job: Job) -> tuple[str, ...]:
    """The absolute paths that a job names and that exist here: data, checkpoint, plugins, model."""
    words = [*job.data.words.values(), job.model, job.device.name, job.cost_model or "", str(job.checkpoint or "")]
    words += [str(path) for path in job.plugins]
    found = [match[0] for word in words if (match := re.search(r"(?<![^:@])/.*", word)) is not None]
    return tuple(dict.fromkeys(path for path in found if Path(path).exists()))


def differences(own: Facts, other: Facts, *, same_processor: bool) -> str:
    """The reason why the node of ``other`` cannot work for the driver of ``own``; else empty."""
    if other.fault:
        return other.fault
    changed = [
        name for name in {**own.versions, **other.versions} if own.versions.get(name) != other.versions.get(name)
    ]
    if changed:
        name = changed[0]
        there, here = other.versions.get(name), own.versions.get(name)
        more = f" ({', '.join(changed[1:4])} too)" if changed[1:] else ""
        if there is None:
            return f"it has no {name}, and the driver has {here}{more}"
        return f"it has {name} {there}, and the driver {'none' if here is None else here}{more}"
    if abs(other.clock - own.clock) > CLOCKS_APART_S:
        return f"its clock is {abs(other.clock - own.clock):.0f} s off"
    if same_processor and other.processor != own.processor:
        there, here = _processor_words(other), _processor_words(own)
        return f"its processor is {there}, the driver's is {here}, and their latencies cannot be compared"
    return ""


def ask(nodes: Iterable[Node], question: Question) -> dict[str, Any]:
    """Sends the question to nodes; returns Ray's references to the answers, by id of the node."""
    probe = ray.remote(num_cpus=0, max_retries=0)(answer)
    return {
        node.id: probe.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)).remote(question)
        for node in nodes
    }


def read(reference: Any, *, wait_s: float) -> Facts | str | None:
    """The answer of a node; a text if it cannot answer; None while there is no answer."""
    ready, _ = ray.wait([reference], timeout=wait_s)
    if not ready:
        return None
    try:
        found: Facts = ray.get(reference)
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        is_missing = any("ModuleNotFoundError" in line or "No module named" in line for line in lines)
        why = next((line for line in reversed(lines) if "Error" in line), lines[-1])
        return f"autocompress cannot be imported there: {why}" if is_missing else f"its probe failed: {why}"
    return found


def _processor_words(facts: Facts) -> str:
    known = facts.processor
    return f"{known.get('processor')} with {' '.join(known.get('features') or ['no known features'])}"


def _fault(question: Question) -> str:
    try:
        if question.nonce.read_text(encoding="ascii") != question.secret:
            return f"its {question.nonce.parents[1]} is another folder than the driver's"
        written = question.nonce.with_name(f"{question.nonce.name}-{platform.node()}")
        written.write_text("", encoding="ascii")
        written.unlink(missing_ok=True)
    except FileNotFoundError:
        return f"it does not see {question.nonce.parents[1]}"
    except OSError as error:
        return f"it cannot write to {question.nonce.parents[1]}: {error.strerror or error}"
    for path in question.paths:
        if not Path(path).exists():
            return f"it does not see {path}"
    return _fault_of_cache()


def _fault_of_cache() -> str:
    """The reason why workers cannot write to the cache of this node; else empty."""
    try:
        check_cache()
        with tempfile.NamedTemporaryFile(dir=cache_folder(), prefix=".probe-", buffering=0) as file:
            file.write(os.urandom(PROBE_BYTES))
            os.fsync(file.fileno())
    except UserError as error:
        return error.message
    except OSError as error:
        return f"its cache folder cannot be written: {error.strerror or error}"
    return ""


@cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    found["autocompress"] = f"{found.get('autocompress', '')} (files {_digest_of_code()})".strip()
    for point in importlib.metadata.entry_points(group="autocompress"):
        if point.dist is not None and point.dist.name != "autocompress":
            found[f"the plugin {point.name}"] = point.dist.version
    return found


def _digest_of_code() -> str:
    """A short digest of the files of this package, because a checkout has no version of its own."""
    root = Path(__file__).parents[1]
    total = hashlib.blake2b(digest_size=4)
    for file in sorted(root.rglob("*.py")):
        total.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return total.hexdigest()
