"""The placer finds where integers are faster: by measured times of regions, which are kept."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autocompress.contract import Deployable, Device
from autocompress.devices import measure
from autocompress.devices.measuring import locked, run_once
from autocompress.errors import NoAnswer, TrialFailed
from autocompress.files import digest
from autocompress.integer_placement.costs import Change, MeasuredCosts, Verdict
from autocompress.integer_placement.files import Network
from autocompress.integer_placement.timing import time_changes, time_regions
from autocompress.job import DeviceConfig
from autocompress.quantization.cutting import placement_time
from autocompress.quantization.regions import Pattern, Regions
from autocompress.store import Store

VERSION = "3"
WEIGHTS = (1.0, 2.0)
"""Weights of conversions for which the cut is tried as a whole file."""
SECONDS = 1.0
"""Seconds for measuring a whole file together with the integer file."""
HOPELESS = 1.2
"""Maximum estimated time of a tried placement, relative to the faster of float and integers."""
LEAST_GAIN = 0.01
"""Share of time by which a mixed file must be faster than the integer file; less may be noise."""
Progress = Callable[[float, str], None]
log = logging.getLogger("autocompress")


class _IntegersRefused(TrialFailed):
    """The runtime refuses the integer file of the network."""


@dataclass(frozen=True)
class Placer:
    """Finds where integers are faster on a device, once for each pattern.

    Attributes:
        device: runs the files.
        config: settings of the runs.
        where: the other values on which times depend, besides the pattern, as JSON: device, its
            options, runtime and processor.
        store: the store for times.
        progress: called with a text about the current step.
    """

    device: Device
    config: DeviceConfig
    where: Mapping[str, Any]
    store: Store
    progress: Progress | None = None

    def costs(self, network: Network, *, judge: bool = True) -> MeasuredCosts | None:
        """The costs of ``network``; None if the device has no profiler.

        If the runtime refuses the file in integers, but not that in float, all regions that can
        compute in float do, and a warning says so. This is kept too, and then no pattern has times.

        Known patterns are not timed again, so if all are known this only takes the time of tracing.
        If some are unknown, the float and the integer file are profiled.

        Args:
            network: the float network.
            judge: times the placements of the cuts as whole files, together with the integer file
                and the float file. The fastest is the verdict, which is kept too.

        Raises:
            UntraceableModel: if ``network`` cannot be traced.
            TrialFailed: if the runtime cannot load the float file, or if timing fails although it
                runs the integer file.
        """
        regions = network.regions()
        patterns = list(dict.fromkeys(region.pattern for region in regions.regions))
        if not patterns or self.device.deterministic:
            return None
        with tempfile.TemporaryDirectory() as name:
            folder, refusal = Path(name), self._key("refused", _whole(network, regions))
            if (why := self._kept(refusal)) is None:
                try:
                    costs = self._timed(network, regions, patterns, folder)
                    return self._judged(network, regions, costs, folder) if judge and costs is not None else costs
                except _IntegersRefused as failed:
                    why = str(failed)
                except NoAnswer:
                    raise
                except TrialFailed:
                    if not (why := self._refusal(network.in_integers(folder / "integers.onnx"))):
                        raise  # the integer file is not the reason
                self._run_once(network.in_float(folder / "float.onnx"))
                self.store.put(refusal, {}, {"found": why})
        log.warning("layers compute in float, because the file with integers is refused: %s", why)
        return MeasuredCosts([], [], verdict="float")

    def _timed(
        self, network: Network, regions: Regions, patterns: Sequence[Pattern], folder: Path
    ) -> MeasuredCosts | None:
        known = self._patterns(network, regions, patterns, folder)
        changes = None if known is None else self._changes(network, folder)
        if known is None or changes is None:
            return None
        return MeasuredCosts(list(known), list(known.values()), *changes)

    def _refusal(self, integers: Deployable) -> str:
        """Why the runtime refuses the integer file; empty if it runs it.

        Raises:
            NoAnswer: if that is not known.
        """
        try:
            self._run_once(integers)
        except NoAnswer:
            raise
        except TrialFailed as failed:
            return str(failed) or type(failed).__name__
        return ""

    def _run_once(self, file: Deployable) -> None:
        with locked(self.device, "shared"):  # it gives way to the measurements of other processes
            run_once(self.device, file, self.config)

    def _patterns(
        self, network: Network, regions: Regions, patterns: Sequence[Pattern], folder: Path
    ) -> dict[Pattern, tuple[float, float]] | None:
        keys = {pattern: self._key("region", pattern.key) for pattern in patterns}
        found = {pattern: self._kept(key) for pattern, key in keys.items()}
        if any(seconds is None for seconds in found.values()):
            self._tell(0.0, "layers in float and in integers are timed")
            timed = time_regions(self.device, self.config, network, regions, folder)
            if timed is None:
                return None
            for pattern, seconds in timed.items():
                if found[pattern] is None:
                    found[pattern] = seconds
                    self.store.put(keys[pattern], {}, {"found": list(seconds)})
        return {pattern: (seconds[0], seconds[1]) for pattern, seconds in found.items() if seconds is not None}

    def _changes(self, network: Network, folder: Path) -> tuple[Change, Change] | None:
        key = self._key("changes", network.table.record())
        if (kept := self._kept(key)) is None:
            self._tell(0.3, "changes between float and integers are timed")
            timed = time_changes(self.device, self.config, network.table, folder)
            if timed is None:
                return None
            kept = [asdict(change) for change in timed]
            self.store.put(key, {}, {"found": kept})
        maps, rows = (Change(tuple(change["enter"]), tuple(change["leave"])) for change in kept)
        return maps, rows

    def _judged(self, network: Network, regions: Regions, costs: MeasuredCosts, folder: Path) -> MeasuredCosts:
        key = self._key("verdict", costs.key, _whole(network, regions))
        if (kept := self._kept(key)) is None:
            verdict, weight = self._verdict(network, regions, costs, folder)
            kept = [verdict, weight]
            self.store.put(key, {}, {"found": kept})
        return costs.judged(*kept)

    def _verdict(self, network: Network, regions: Regions, costs: MeasuredCosts, folder: Path) -> tuple[Verdict, float]:
        """The fastest whole file among integers, float, and the cuts for ``WEIGHTS``.

        Raises:
            _IntegersRefused: if the runtime refuses the integer file, with which all are compared.
        """
        integers = network.in_integers(folder / "integers.onnx")
        if why := self._refusal(integers):
            raise _IntegersRefused(why)
        tried: dict[frozenset[str], tuple[Verdict, float]] = {frozenset(): ("integers", 1.0)}
        everything = costs.judged("float").floats(regions)
        candidates: list[tuple[Verdict, float]] = [*(("cut", weight) for weight in WEIGHTS), ("float", 1.0)]
        least_expected = min(placement_time(regions, costs, floats) for floats in (frozenset[str](), everything))
        best: tuple[Verdict, float] = ("integers", 1.0)
        least = 1.0 - LEAST_GAIN
        for number, (verdict, weight) in enumerate(candidates):
            floats = costs.judged(verdict, weight).floats(regions)
            if floats in tried:
                continue
            tried[floats] = verdict, weight
            if placement_time(regions, costs, floats) > HOPELESS * least_expected:
                continue
            self._tell(0.4 + 0.1 * number, "whole files are timed beside the integer file")
            file = folder / "mixed.onnx"
            mixed = network.in_float(file) if floats == everything else network.in_integers(file, floats)
            try:
                found = measure(self.device, mixed, integers, self.config, seconds=SECONDS)
            except NoAnswer:  # nothing is known of this file, so no verdict may be kept
                raise
            except TrialFailed as failed:
                log.warning("a placement of integers was refused: %s", failed)
                continue
            if found.latency_ratio < least:
                best, least = (verdict, weight), found.latency_ratio
        return best

    def _key(self, *parts: Any) -> str:
        return digest("where integers pay", VERSION, self.where, *parts)

    def _kept(self, key: str) -> Any:
        found = self.store.get(key) if self.store.has(key) else None
        return None if found is None else found[1]["found"]

    def _tell(self, share: float, text: str) -> None:
        if self.progress is not None:
            self.progress(share, text)


def _whole(network: Network, regions: Regions) -> Any:
    """What whole files depend on: patterns, how they are connected, the operators on integers."""
    crossings = sorted(
        [crossing.source, sorted(crossing.readers), list(crossing.shape), crossing.on_grid]
        for crossing in regions.crossings
    )
    return [[region.layer, region.pattern.key] for region in regions.regions], crossings, network.table.record()
