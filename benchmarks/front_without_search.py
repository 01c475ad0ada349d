"""Makes a front of int8 models without training and without a search, in one process.

The steps, from a trained baseline, are: couplings, moments, orders, divergence tables, a latency
model from profiled probes, an allocation for each budget, one-shot repair, QUANTIZE, export. Any
scorer can compare the files with base.onnx.

    python benchmarks/front_without_search.py --checkpoint base.safetensors --files FOLDER
        [--model resnet18] [--data glyphs] [--count 8] [--check 20] [--out FILE]
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from autocompress import data, models
from autocompress.channels.couplings import couplings
from autocompress.channels.removal import remove
from autocompress.channels.widths import lost_inputs
from autocompress.compression import quantize
from autocompress.contract import Context, Quantizer, Space, manager
from autocompress.contract.coupling import Coupling
from autocompress.devices.profiling import layer_times
from autocompress.export import export
from autocompress.files import write_json
from autocompress.graph import facts
from autocompress.job import Job, load_job
from autocompress.opened.transfer import user_data
from autocompress.proposals import (
    LatencyModel,
    Problem,
    Profile,
    RemovedChannels,
    allocate,
    factors,
    keep_set,
    kept_shares,
    layer_widths,
    layers_of,
    measure,
    probe_points,
    propose,
)
from autocompress.quantization import LayerBits
from autocompress.recipes.choosers import Replay
from autocompress.recipes.recipe import Recipe, params_of
from autocompress.repair import Moments, choose_ridge, eliminate, gather, has_columns, readers, repair
from autocompress.repair.shifts import norm_scale
from autocompress.training import train_baseline, versions

STARTED = time.perf_counter()
MOMENT_IMAGES = 512
TABLE_IMAGES = 256
PROBES = 6
MOST_DIVERGENCE = 0.06
"""Maximum predicted divergence in nats. Above it, models lose more than about five points."""
QUANTIZER = "quantize"
WEIGHT_WORK = 8
"""Number of multiply-adds that take as long as reading a weight; for choosing probes."""
HELD_OUT = 8
"""Number of width vectors whose files are measured to check the latency model."""


class Front:
    """The baseline and its measured data."""

    def __init__(self, job: Job, multiple: int, seed: int, profile_seconds: float) -> None:
        self.log: list[tuple[str, float, float]] = []
        self.splits = data.load(job.data, **models.preprocessing(job))
        model = models.create(job, self.splits.info)
        if job.checkpoint is None:
            model = train_baseline(job, model, self.splits)
        self.model = models.reparameterise(model).eval()
        self.size = models.input_size(self.model)
        self.multiple, self.seed, self.profile_seconds = multiple, seed, profile_seconds
        images = self.splits.train.subset(min(MOMENT_IMAGES + TABLE_IMAGES, len(self.splits.train)), seed)
        batches = torch.cat([batch for batch, _ in images.loader(MOMENT_IMAGES)])
        held_out = len(batches) * TABLE_IMAGES // (MOMENT_IMAGES + TABLE_IMAGES)
        self.for_moments, self.for_tables = batches[held_out:], batches[:held_out]
        self.quantizer = next(method for method in manager().methods() if method.name == QUANTIZER)
        params = params_of(self.quantizer, Space(Replay({}), job.granularity, {}), self.model)
        self.recipe = Recipe(values={}, quantizers={QUANTIZER: params})
        self.context = Context(self.size, user_data(self.splits, seed), self.model, seed=seed)
        self.done("load")

    def done(self, phase: str) -> None:
        """Records and prints the end of a phase, with wall time and processor time."""
        self.log.append((phase, round(time.perf_counter() - STARTED, 1), round(time.process_time(), 1)))
        print(*self.log[-1], flush=True)

    def prepare(self) -> None:
        """Finds couplings, moments and orders."""
        self.network = facts(self.model, self.size)
        every = couplings(self.model, self.size, "group")
        self.couplings = [coupling for coupling in every if coupling.prunable]
        self.layers = layers_of(self.network, self.couplings)
        self.norms = {name: layer.norm for name, layer in self.network.layers.items()}
        self.done("couplings")
        names = dict.fromkeys(name for coupling in self.couplings for name in coupling.consumers)
        reading = [name for name in names if has_columns(self.model.get_submodule(name))]
        self.moments = gather(
            self.model, reading, lambda: self.for_moments.split(MOMENT_IMAGES), choose_ridge=choose_ridge
        )
        self.done("moments")
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # images of each of the pool
        with ThreadPoolExecutor(threads) as pool:
            wide_first = sorted(self.couplings, key=lambda coupling: -coupling.channels)
            orders = pool.map(lambda coupling: order(self.model, coupling, self.moments, self.norms), wide_first)
            self.orders = {coupling.name: found for coupling, found in zip(wide_first, orders, strict=True)}
        torch.set_num_threads(threads)
        self.done("orders")

    def measure(self, deadline: float) -> None:
        """Measures the table and the costs."""
        self.removed = RemovedChannels(
            self.model,
            self.network,
            self.couplings,
            self.orders,
            self.moments,
            self.for_tables.split(TABLE_IMAGES),
            multiple=self.multiple,
        )
        self.parts = self.removed.parts()
        errors = {part.key: self.removed.errors(part) for part in self.parts}
        self.done("error curves")
        self.table = measure(
            self.parts,
            lambda selection: self.removed.measure(self.removed.keep(self.parts, selection)),
            errors=errors,
            deadline=time.monotonic() + deadline,
        )
        self.done(f"table of {len(self.table.cells)} cells and {len(self.table.pairs)} pairs")

    def cost(self, folder: Path, probes: int) -> None:
        """Makes the latency model from ``count`` probes."""
        self.kept = {
            part.name: kept_shares(part, coupling, self.multiple)
            for part, coupling in zip(self.parts, self.couplings, strict=True)
        }
        divergences = {part.key: self.table.divergences(part) for part in self.parts}
        work = factors(self.layers, self.parts, self.kept, lambda widths: widths.macs + WEIGHT_WORK * widths.weights)
        known = Problem(tuple(self.parts), divergences, {"work": work}, {})
        points = probe_points(known, "work", probes, most_divergence=4 * MOST_DIVERGENCE, seed=self.seed)
        files = [
            self.file(self.pruned(indices, fit=False), folder / f"probe{number}.onnx", images=False)
            for number, indices in enumerate(points)
        ]
        self.done(f"{probes} probes written")
        self.probes = files, points
        profiles = self.profiles(files, points)
        self.latency = LatencyModel.fit(self.layers, profiles)
        self.done(f"{probes} probes, error {self.latency.error:.3f}")
        tables, fixed = self.latency.factors(self.layers, self.parts, self.kept)
        self.problem = Problem(
            tuple(self.parts),
            divergences,
            {"latency": tables},
            {"latency": fixed},
        )

    def widths(self, indices: Sequence[int]) -> dict[str, tuple[float, float]]:
        """The numbers of kept inputs and outputs of every layer."""
        share = {part.name: self.kept[part.name][at] for part, at in zip(self.parts, indices, strict=True)}
        return layer_widths(self.layers, share)

    def profiles(self, files: Sequence[Path], points: Sequence[Sequence[int]], sittings: int = 1) -> list[Profile]:
        """Times of files relative to the first one."""
        times = layer_times(files, list(self.network.layers), self.size, seconds=sittings * self.profile_seconds)
        return [Profile(self.widths(at), own.layers, own.total) for at, own in zip(points, times, strict=True)]

    def pruned(self, indices: Sequence[int], *, fit: bool = True) -> nn.Module:
        """The network with given widths, repaired."""
        keep = {
            part.name: keep_set(coupling, self.orders[part.name], float(part.choices[at]), self.multiple)
            for part, coupling, at in zip(self.parts, self.couplings, indices, strict=True)
            if at
        }
        model = copy.deepcopy(self.model)
        if fit:
            repair(model, lost_inputs(self.couplings, keep), self.moments, self.norms)
        return remove(model, keep, self.size, "group", couplings=self.couplings)

    def file(self, model: nn.Module, path: Path, *, images: bool = True) -> Path:
        """Quantizes and exports a network. Without images, its ranges mean nothing."""
        bits = {name: LayerBits(QUANTIZER) for name in self.network.layers}
        context = self.context if images else Context(self.size, dry_run=True)
        assert isinstance(self.quantizer, Quantizer)
        quantized, _ = quantize.quantize(model, bits, self.recipe, {QUANTIZER: self.quantizer}, context)
        export(quantized, path, self.size)
        return path


@torch.no_grad()
def order(
    model: nn.Module, coupling: Coupling, moments: Mapping[str, Moments], norms: Mapping[str, str | None]
) -> list[int]:
    """The channels of a coupling, least needed first, by the error after a refit."""
    consumers, scales = {}, {}
    for name, index in coupling.consumers.items():
        if name not in moments:
            continue
        matrix = moments[name].columns.weight(model.get_submodule(name))
        scale = norm_scale(model, norms[name], matrix.shape[0] * matrix.shape[1]).view(matrix.shape[:2]).square()
        consumers[name] = readers(matrix, moments[name], index, scale)
        scales[name] = max(float((moments[name].energy(matrix) * scale).sum()), 1e-30)
    return eliminate(coupling.channels, consumers, scales, coupling.blocks)


def check(front: Front, count: int, held_out: int, folder: Path) -> dict[str, Any]:
    """Checks the predictions of table and latency model.

    Random allocations of random budgets, and held-out width vectors.
    """
    from scipy.stats import spearmanr

    generator = np.random.default_rng(front.seed + 1)
    predicted: list[float] = []
    true: list[float] = []
    points: list[tuple[int, ...]] = []
    files: list[Path] = []
    full = front.problem.cost("latency", front.problem.neutral())
    for number in range(max(count, held_out)):
        tilts = {part.key: float(np.exp(0.7 * generator.standard_normal())) for part in front.parts}
        budget = full * float(np.exp(generator.uniform(np.log(0.15), np.log(0.9))))
        found = allocate(front.problem, {"latency": budget}, tilts=tilts)
        keep = front.removed.keep(front.parts, {p.key: at for p, at in zip(front.parts, found.indices, strict=True)})
        predicted.append(found.divergence)
        true.append(front.removed.measure(keep))
        if number < held_out:
            points.append(found.indices)
            name = folder / f"held_out{number}.onnx"
            files.append(front.file(front.pruned(found.indices, fit=False), name, images=False))
    # Probes are measured again together with the held-out files, because a busy machine changes
    # between two measurements.
    probes, probed = front.probes
    profiles = front.profiles([*probes, *files], [*probed, *points], sittings=2)
    model = LatencyModel.fit(front.layers, profiles[: len(probes)])
    relative = [model.predict(front.layers, held.widths) / held.total - 1 for held in profiles[len(probes) :]]
    errors = np.abs(relative)
    return {
        "spearman": float(spearmanr(predicted, true).statistic) if len(set(predicted)) > 1 else None,
        "true_over_predicted": [float(t / p) for t, p in zip(true, predicted, strict=True)],
        "latency_errors": [float(e) for e in relative],
        "latency_median_error": float(np.median(errors)),
        "latency_worst_error": float(errors.max()),
    }


def main() -> None:
    """Writes base.onnx, m0.onnx, m1.onnx ... to a folder, and the predictions for them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--data", default="glyphs")
    parser.add_argument(
        "--checkpoint", help="checkpoint of the baseline; by default it is trained, or read from the cache"
    )
    parser.add_argument("--baseline-epochs", type=int, default=12)
    parser.add_argument("--files", type=Path, help="folder for the ONNX files; a temporary one by default")
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--multiple", type=int, default=8)
    parser.add_argument("--table-seconds", type=float, default=30.0)
    parser.add_argument("--profile-seconds", type=float, default=0.3, help="seconds for timing the layers of each file")
    parser.add_argument("--probes", type=int, default=PROBES, help="number of files for fitting the latency model")
    parser.add_argument("--held-out", type=int, default=HELD_OUT, help="number of files for checking it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--check", type=int, default=0, help="number of random allocations whose predictions are checked"
    )
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/front_without_search.json"))
    asked = parser.parse_args()
    settings: dict[str, Any] = {"model": asked.model, "data": asked.data, "seed": asked.seed}
    settings |= (
        {"checkpoint": asked.checkpoint} if asked.checkpoint else {"baseline": {"epochs": asked.baseline_epochs}}
    )
    with tempfile.TemporaryDirectory() as folder:
        files = asked.files or Path(folder)
        files.mkdir(parents=True, exist_ok=True)
        front = Front(load_job(settings=settings), asked.multiple, asked.seed, asked.profile_seconds)
        report = {"model": asked.model, "data": asked.data, **made(front, files, asked)}
        if asked.check:
            report["check"] = check(front, asked.check, asked.held_out, files)
            print(report["check"])
    write_json(asked.out, {**report, "versions": versions()})


def made(front: Front, folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Makes the files of the front; returns phases with their seconds, models and table."""
    export(front.model, folder / "base.onnx", front.size)
    front.done("baseline exported")
    front.prepare()
    front.measure(asked.table_seconds)
    front.cost(folder, asked.probes)
    proposals = propose(front.problem, ["latency"], count=asked.count, most_divergence=MOST_DIVERGENCE)
    front.done(f"{len(proposals)} allocations")
    rows = []
    for number, proposal in enumerate(proposals):
        front.file(front.pruned(proposal.allocation.indices), folder / f"m{number}.onnx")
        rows.append(
            {
                "file": f"m{number}.onnx",
                "kept": dict(proposal.choices),
                "predicted_divergence": proposal.allocation.divergence,
                "predicted_ms": 1e3 * proposal.allocation.costs["latency"],
            }
        )
        front.done(f"model {number}")
    return {"phases": front.log, "models": rows, "table": list(front.table.rows(front.parts))}


if __name__ == "__main__":
    main()
