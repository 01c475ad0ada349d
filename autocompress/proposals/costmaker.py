"""Costs of widths for a job: exact formulas, and latency from profiled probes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from autocompress import proposals
from autocompress.compression.candidate import Candidate
from autocompress.compression.pipeline import Pipeline
from autocompress.contract import Coupling, Deployable, Device
from autocompress.devices import layer_times
from autocompress.devices.lock import MachineLock
from autocompress.export import tap_crop
from autocompress.files import digest
from autocompress.graph import NetworkFacts
from autocompress.job import Job
from autocompress.proposals import LatencyModel, Layer, Part, Profile, probes
from autocompress.proposals.costed import CostedLayers, work
from autocompress.proposals.helping import Helper
from autocompress.proposals.probes import ProbeBuilder
from autocompress.proposals.shares import ShareRecipes
from autocompress.recipes.pruning import Pruning
from autocompress.recipes.recipe import Recipe

PROBES_VERSION = "2"
"""Version of the profiles, part of their key."""
Progress = Callable[[float, str], None]


def _nothing() -> None:
    """The default of ``breathe``."""


def _silent(done: float, text: str) -> None:
    """The default of ``progress``."""


@dataclass
class CostMaker:
    """Measures the costs of widths.

    Attributes:
        job: the job of the search.
        recipes: makes recipes from shares of channels.
        pipeline: makes a candidate from a recipe.
        device: measures latency.
        baseline: the file of the baseline.
        export: writes the file of a candidate.
        costs_key: everything that decides costs on this machine.
        lock: the machine lock. Computing holds it shared and gives way to measurements.
        progress: called with the progress of long steps.
        breathe: called often, while the lock is held shared or not held.
        notes: notes for the user about the tables.
        helper: a forked process that builds probes and measures cells; None if there is none.
    """

    job: Job
    recipes: ShareRecipes
    pipeline: Pipeline
    device: Device
    baseline: Deployable
    export: Callable[[Candidate, Path], Deployable]
    costs_key: Any
    lock: MachineLock
    progress: Progress = _silent
    breathe: Callable[[], None] = _nothing
    notes: list[str] = field(default_factory=list)
    helper: Helper | None = None

    @property
    def builder(self) -> ProbeBuilder:
        """Builds the probes."""
        return ProbeBuilder(self.recipes, self.pipeline, self.export)

    def costs(
        self,
        neutral: Recipe,
        network: NetworkFacts,
        couplings: Sequence[Coupling],
        parts: Sequence[Part],
        pruning: Pruning,
    ) -> tuple[dict[str, Any], dict[str, float], dict[str, float]]:
        """Factors, constants and errors of each cost; latency comes first."""
        widths = CostedLayers.of(proposals.layers_of(network, couplings), parts, couplings, pruning.multiple)
        of_files = replace(widths, layers=self.layers_of_files(network, couplings))
        bits = 8.0 if neutral.bits else 32.0
        formulas = {"macs": proposals.macs, "params": proposals.parameters, "energy": proposals.macs}
        costs = {name: widths.factors(cost) for name, cost in formulas.items()}
        costs["size"] = of_files.factors(proposals.size_bytes(bits))
        fixed = dict.fromkeys(costs, 0.0)
        profiles = self._profiles(neutral, network, of_files, probes.points(parts, of_files.factors(work)))
        if len(profiles) < 2:
            self.notes.append("latency could not be profiled, so predictions take it as proportional to multiply-adds")
            whole = sum(float(factor.table[(0,) * factor.table.ndim]) for factor in costs["macs"])
            shares = [replace(factor, table=factor.table / whole) for factor in costs["macs"]]
            return {"latency": shares, **costs}, {"latency": 0.0, **fixed}, {}
        fitted = LatencyModel.fit(of_files.layers, profiles)
        factors, rest = fitted.factors(of_files.layers, parts, of_files.kept)
        return {"latency": factors, **costs}, {"latency": rest, **fixed}, {"latency": fitted.error}

    def layers_of_files(self, network: NetworkFacts, couplings: Sequence[Coupling]) -> list[Layer]:
        """The layers with the kernel taps that candidates' files have."""
        layers = proposals.layers_of(network, couplings)
        crop = tap_crop(network, self.pipeline.baseline).layers if self.job.search.crop else {}
        return [replace(layer, taps=crop[layer.name].taps) if layer.name in crop else layer for layer in layers]

    def _profiles(
        self, neutral: Recipe, network: NetworkFacts, widths: CostedLayers, points: Sequence[Sequence[int]]
    ) -> list[Profile]:
        """Layer times of the probes.

        Times are shares of the latency of the baseline, which is measured together with the probes.
        """
        parts, kept = widths.parts, widths.kept

        def make() -> Any:
            with tempfile.TemporaryDirectory() as folder:
                built = self._built(parts, points, Path(folder))
                files = [self.baseline, *(file for _, file in built)]
                times = layer_times(self.device, files, list(network.layers), self.job.device) or []
            whole = times[0].total if times else 1.0
            found = []
            for (indices, _), own in zip(built, times[1:], strict=False):
                shares = {part.name: kept[part.name][at] for part, at in zip(parts, indices, strict=True)}
                seconds = {name: value / whole for name, value in own.layers.items()}
                found.append([proposals.layer_widths(widths.layers, shares), seconds, own.total / whole])
            return {"profiles": found}

        return [
            Profile({name: (pair[0], pair[1]) for name, pair in own.items()}, seconds, total)
            for own, seconds, total in self.pipeline.store.made(
                self.probes_key(neutral, parts, points), make, self.breathe
            )["profiles"]
        ]

    def _built(self, parts: Sequence[Part], points: Sequence[Sequence[int]], folder: Path) -> probes.Built:
        """The files of the probes, from the forked process if there is one."""
        text = "profiling the latency of channel widths"
        self.progress(0.0, text)
        if self.helper is not None and (known := self.helper.probes(parts, points, self.breathe)):
            return known

        def tell(number: int) -> None:
            self.breathe()
            self.progress(number / len(points), text)

        return self.builder.build(parts, points, folder, self.lock, tell)

    def probes_key(self, neutral: Recipe, parts: Sequence[Part], points: Sequence[Sequence[int]]) -> str:
        """Content key of the profiles of the probes."""
        own = [list(part.choices) for part in parts]
        asked = [dict(neutral.values), own, [list(point) for point in points], self.job.search.crop]
        return digest("probes", PROBES_VERSION, self.pipeline.baseline_key, asked, self.costs_key)
