"""Builds the cheapest candidates of a job as files, with two processes where that is safe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from autocompress.compute import Compute
from autocompress.contract import Deployable, Device
from autocompress.devices import apart
from autocompress.devices.lock import MachineLock
from autocompress.errors import InvalidRecipe
from autocompress.forking import Claims, Forked, Send
from autocompress.proposals.proposer import Point
from autocompress.recipes.choosers import Replay

MOST_WAITED = 60.0
"""Seconds to wait for the forked process, once this process has nothing left to build."""


class Builder(Protocol):
    """The part of an opened job that builds candidates."""

    @property
    def device(self) -> Device:
        """The device for latency."""

    @property
    def compute(self) -> Compute:
        """Where torch computes."""

    def compose(self, chooser: Any) -> Any:
        """The recipe that ``chooser`` gives."""

    def candidate(self, recipe: Any, *, dry_run: bool = False, pause: Callable[[], None] | None = None) -> Any:
        """The model that ``recipe`` gives."""

    def export(self, candidate: Any, file: Path) -> Deployable:
        """Writes the file of the candidate."""

    def cheapest(self) -> list[Point]:
        """The recipes that cost the least."""


@dataclass(frozen=True)
class Built:
    """A candidate with meaningless weights.

    Attributes:
        label: as in ``OpenedJob.cheapest``.
        deployable: its file.
        macs, params: number of multiply-accumulates and of parameters of its structure.
        estimated: see ``Candidate.estimated``.
    """

    label: str
    deployable: Deployable
    macs: int
    params: int
    estimated: tuple[str, ...]


def build(opened: Builder, point: Point, file: Path, pause: Callable[[], None] | None = None) -> Built | None:
    """Builds and exports one candidate; None if a transform leaves no channels to prune."""
    label, values = point
    lock = MachineLock()
    try:
        with lock.shared():  # building and exporting use the processor, like training
            recipe = opened.compose(Replay(values))
            candidate = opened.candidate(recipe, dry_run=True, pause=pause or lock.breathe)
            deployable = opened.export(candidate, file)
    except InvalidRecipe:
        return None
    return Built(label, deployable, candidate.macs, candidate.params, tuple(candidate.estimated))


def build_cheapest(opened: Builder, folder: Path) -> list[Built]:
    """Builds and exports the cheapest candidates of each method and of several together.

    A forked process builds some of them. If it fails, this process builds these too.

    Args:
        opened: an opened job.
        folder: folder for the files; it must exist while the result is used.
    """
    points = opened.cheapest()
    found: dict[int, Built | None] = {}

    def own(places: Iterator[int]) -> Iterator[tuple[int, Built | None]]:
        for place in places:
            yield place, build(opened, points[place], folder / f"{place}.onnx")

    if len(points) > 2 and apart.can_build(opened.device, opened.compute.device):
        found |= _by_two(own, len(points))
    found |= dict(own(place for place in range(len(points)) if place not in found))
    return [built for _, built in sorted(found.items()) if built is not None]


Work = Callable[[Iterator[int]], Iterator[tuple[int, Built | None]]]


def _by_two(work: Work, count: int) -> dict[int, Built | None]:
    """Calls ``work`` for all numbers below ``count``, here and in a forked process.

    Numbers of a failed process are left out.
    """
    claims = Claims()

    def places() -> Iterator[int]:
        return (count - 1 - number for number in claims.taken())  # the last one, of all methods, takes longest

    claims.fill(count)
    helper = Forked.started(lambda send: _help(work, places(), send))
    found = dict(work(places()))
    for made in helper.messages(MOST_WAITED):
        found |= dict(made)
    helper.end()  # it has sent everything, or it hangs
    claims.close()
    return found


def _help(work: Work, places: Iterator[int], send: Send) -> None:
    """Runs in the forked process."""
    send([(place, built and replace(built, deployable=_without_module(built))) for place, built in work(places)])


def _without_module(built: Built) -> Deployable:
    """The file only, because a torch module cannot leave its process."""
    return replace(built.deployable, module=None)
