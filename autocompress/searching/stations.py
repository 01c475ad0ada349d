"""Stations: measurers on the nodes with the job's device, for workers on other nodes."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from autocompress.contract import Deployable, Device, Measurement, OperatorCount, manager_for
from autocompress.contract.raised import raised
from autocompress.devices import measure
from autocompress.errors import CannotWork, TrialFailed, UserError
from autocompress.job import Job
from autocompress.opened.keys import measured_with
from autocompress.searching.measurer import Measurer

BACK_WITHIN_S = 60.0
"""Maximum seconds until one of the stations answers; Ray restarts lost stations."""
LOOK_AGAIN_S = 1.0
A_SHARE = 0.001
"""The share of the device's resource that a station takes."""
GONE = (ray.exceptions.RayActorError, ray.exceptions.ActorUnschedulableError)


@dataclass(frozen=True)
class Sent:
    """A file for a station.

    Attributes:
        key: key of the content; stations store files of baselines under it.
        content: content of the file; None if the station should have the file already.
    """

    key: str
    content: bytes | None
    input_size: tuple[int, int, int]
    operators: tuple[OperatorCount, ...]


@dataclass(frozen=True)
class Refused:
    """The answer of a station that cannot measure for the search; ``why`` is a phrase."""

    why: str


class Station:
    """The measurer of one machine; an actor of Ray. It uses the machine lock of that machine.

    Ray starts it again if its process ends, and on another node with the resource if its node is
    lost. It measures nothing on a machine whose latencies cannot be compared.

    Args:
        job: job of the search.
        measured_by: the values on which latencies of the search depend
            (``opened.keys.measured_with``).
    """

    def __init__(self, job: Job, measured_by: Mapping[str, Any]) -> None:
        self._job, self._device = job, manager_for(job).device(job.device.name)
        self._refusal = different(measured_by, measured_with(self._device, job.device))
        self._folder = tempfile.TemporaryDirectory(prefix="autocompress-station-")

    def check(self) -> list[str]:
        """Reasons why the device cannot be used here."""
        return [self._refusal] if self._refusal else self._device.check(self._job.device)

    def measure(self, candidate: Sent, baseline: Sent, seconds: float) -> Measurement | Refused | str:
        """Costs relative to the baseline, or a fault as text; "" if the baseline must be sent."""
        if self._refusal:
            return Refused(self._refusal)
        home = Path(self._folder.name)
        kept = home / f"{baseline.key}.onnx"
        if not kept.exists():
            if baseline.content is None:
                return ""
            kept.write_bytes(baseline.content)
        assert candidate.content is not None
        with tempfile.TemporaryDirectory(dir=home) as scratch:
            file = Path(scratch) / "candidate.onnx"
            file.write_bytes(candidate.content)
            both = [
                Deployable(path, one.input_size, one.operators) for path, one in ((file, candidate), (kept, baseline))
            ]
            try:
                return measure(self._device, both[0], both[1], self._job.device, seconds=seconds)
            except TrialFailed as failed:
                return str(failed) or "it cannot be measured"
            except Exception as error:  # of a device; Ray's own error would not name it
                return raised(error)


def different(wanted: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """The reason why latencies that depend on ``here`` cannot be compared; empty if they can."""
    for name in {**wanted, **here}:
        if wanted.get(name) != here.get(name):
            return f"its {name.replace('_', ' ')} is {here.get(name)}, the driver's is {wanted.get(name)}"
    return ""


def start_stations(job: Job, device: Device, nodes: Mapping[str, str]) -> dict[str, ActorHandle]:
    """A station on each machine, by the key of the machine.

    Args:
        job: job of the search, with ``cluster.device_nodes``.
        device: device of the job.
        nodes: the node for the station of each machine.

    Raises:
        UserError: if the device does not run files, or cannot be used on any of the nodes.
    """
    if "onnx" not in device.formats:
        raise UserError(
            f"the device '{device.name}' runs torch modules, which are not sent between nodes",
            "leave 'cluster.device_nodes' out, so that each worker measures its own",
        )
    # With the resource and a soft affinity, Ray starts a station elsewhere when its node is lost.
    share = {job.cluster.device_nodes: A_SHARE} if job.cluster.device_nodes else {}
    actor: Any = ray.remote(num_cpus=0, max_restarts=-1, resources=share)(Station)
    found: dict[str, Any] = {
        machine: actor.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=bool(share))).remote(
            job, measured_with(device, job.device)
        )
        for machine, node in nodes.items()
    }
    asked = {machine: station.check.remote() for machine, station in found.items()}
    reasons: dict[str, list[str]] = {machine: _reasons(answer) for machine, answer in asked.items()}
    usable = {machine: station for machine, station in found.items() if not reasons[machine]}
    if not usable:
        (first, *_) = [why for one in reasons.values() for why in one] or ["there is none"]
        raise UserError(f"the device '{device.name}' cannot be used on any node with the resource of the job: {first}")
    return usable


def _reasons(answer: Any) -> list[str]:
    """The reasons why a station cannot be used."""
    try:
        return list(ray.get(answer))
    except GONE as error:
        return [f"its measurer cannot start: {_first_line(error)}"]


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@dataclass(frozen=True)
class RemoteMeasurer(Measurer):
    """Measures on a station; a worker uses the first one that answers.

    Attributes:
        stations: stations of the cluster.
        measured_by: values on which latencies of the stations depend
            (``opened.keys.measured_with``).
    """

    stations: Sequence[ActorHandle] = ()
    measured_by: Mapping[str, Any] = field(default_factory=dict)

    def measured_with(self) -> dict[str, Any]:
        """Values on which latencies depend: those of the stations, not of this machine."""
        return dict(self.measured_by)

    def once(self, candidate: Deployable, baseline: Deployable, seconds: float) -> Measurement:
        """A single measurement on a station.

        Raises:
            TrialFailed: if the device cannot load a model.
            CannotWork: if no station answers in time.
        """
        lost, deadline = "", time.monotonic() + BACK_WITHIN_S
        while True:
            for station in self.stations:
                try:
                    found = _measured(station, candidate, baseline, seconds)
                except GONE as error:
                    lost = _first_line(error)
                    continue
                if isinstance(found, Refused):
                    lost = found.why
                    continue
                if isinstance(found, str):
                    raise TrialFailed(found)
                return found
            if time.monotonic() > deadline:
                raise CannotWork(f"no node with the device answers: {lost}")
            time.sleep(LOOK_AGAIN_S)


def rotated(stations: Sequence[ActorHandle], by: int) -> list[ActorHandle]:
    """``stations`` in rotated order, so that workers share them evenly."""
    endless: Iterator[ActorHandle] = itertools.cycle(stations)
    return list(itertools.islice(endless, by % max(1, len(stations)), by % max(1, len(stations)) + len(stations)))


def _measured(station: Any, candidate: Deployable, baseline: Deployable, seconds: float) -> Measurement | Refused | str:
    """Measures on a station; sends the baseline only if the station lacks it."""
    own = Sent("", candidate.file.read_bytes(), candidate.input_size, tuple(candidate.operators))
    known = Sent(baseline.file.stem, None, baseline.input_size, tuple(baseline.operators))
    found: Measurement | Refused | str = ray.get(station.measure.remote(own, known, seconds))
    if found != "":
        return found
    whole = Sent(known.key, baseline.file.read_bytes(), known.input_size, known.operators)
    return ray.get(station.measure.remote(own, whole, seconds))
