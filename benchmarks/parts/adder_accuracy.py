"""Adder networks and the same networks with convolutions.

Accuracy, operations, and energy on a 45 nm profile.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from autocompress.contract import Deployable, OperatorCount, Value, manager
from autocompress.devices.cost_model import CostModel
from autocompress.job import load_job
from autocompress.objectives.intervals import wilson
from autocompress.opened.job import OpenedJob
from autocompress.recipes.choosers import Policy, Replay
from autocompress.recipes.recipe import Recipe
from autocompress.training import evaluate
from shared.orders import Claim, judged
from shared.rows import Rows, packed, unpacked
from shared.trained import baseline_of, environment

PROFILE = "45nm"
TARGETS = {"digits": 1.0, "glyphs": 2.0}
"""Maximum points that an adder network in float may lose, by data set."""


@dataclass(frozen=True)
class Way:
    """One row: adder layers or convolutions, and bits of weights and activations (32 for float)."""

    adder: bool
    bits: int


WAYS = {
    "convolution, float32": Way(False, 32),
    "convolution, int8": Way(False, 8),
    "adder, float32": Way(True, 32),
    "adder, int8": Way(True, 8),
    "adder, 4 bits": Way(True, 4),
}
KINDS = {"multiply-add": ("multiply", "add"), "accumulate": ("add",)}
"""The paper's words for the operations of a layer."""
TWIN, ADDER = "convolution, float32", "adder, float32"


@dataclass(frozen=True)
class Network:
    """A backbone of timm with its arguments, and epochs of its float training."""

    model: str
    args: Mapping[str, Any]
    epochs: int


def open_network(network: Network, data: str, recovery_epochs: int) -> OpenedJob:
    """The opened job of the network: adder layers and at most 8 bits, with the objective energy."""
    return OpenedJob.open(
        load_job(
            model=network.model,
            model_args=dict(network.args),
            data=data,
            methods=["adder", "quantize"],
            objectives=["accuracy", "energy"],
            cost_model=PROFILE,
            granularity="model",
            baseline=baseline_of(network.model, network.epochs),
            budget={"epochs": recovery_epochs},
        )
    )


def recipe_of(opened: OpenedJob, way: Way, values: Mapping[str, Value] | None = None) -> Recipe:
    """The recipe of a row.

    Replaced layers are recovered with defaults, 4 bits are trained, 8 bits are not.
    """
    rules = {"quantize": "default"}
    if way.adder:
        rules |= {"adder": "default", "recover": "default"}
    if way.bits < 32:
        rules |= {"bits": "default"}
    chosen = dict(opened.compose(Policy(rules)).values)
    if way.bits < 8:
        chosen |= {"bits.weight.model": f"quantize:{way.bits}", "bits.activation.model": way.bits}
        chosen |= {"qat.epochs": max(opened.job.budget.epochs // 2, 1)}
    return opened.compose(Replay({**chosen, **(values or {})}))


def run(
    networks: Mapping[str, Network],
    recovery_epochs: int,
    seeds: Sequence[int],
    *,
    ways: Sequence[str] = tuple(WAYS),
    out: Path,
    keep: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """A row a data set, way and seed.

    Args:
        networks: networks by data set. Each has one float baseline, with seed 0.
        recovery_epochs: epochs of recovery of the adder network.
        seeds: random seeds of conversion and recovery.
        ways: rows, by their names in ``WAYS``.
        out: the file of the rows.
        keep: called with the part so far after each row.
    """
    own = {method.name: method.version for method in manager().methods()}
    head = {
        "networks": {data: vars(network) for data, network in networks.items()},
        "recovery_epochs": recovery_epochs,
        "versions": {**environment()["versions"], "adder": own["adder"]},
    }
    table = Rows(out, head)
    part: dict[str, Any] = {**head, "seeds": list(seeds), "profile": PROFILE, "data": []}
    for data, network in networks.items():
        opened = cache(lambda n=network, d=data: open_network(n, d, recovery_epochs))
        for seed in seeds:
            for way in ways:
                table.row(f"{data} / {way} / seed {seed}", lambda w=way, s=seed, b=opened: _row(b(), WAYS[w], s))
        part["data"].append(_judged(table, data, ways, seeds))
        part["met"] = all(found["met"] for found in part["data"] if found["met"] is not None)
        keep(part)
    return part


def _row(opened: OpenedJob, way: Way, seed: int) -> dict[str, Any]:
    candidate = replace(opened.pipeline, seed=seed).run(recipe_of(opened, way))
    correct = evaluate(candidate.model, opened.splits.test)[1]
    return {**costs(candidate.operators, opened), "accuracy": 100.0 * float(correct.mean()), "correct": packed(correct)}


def costs(operators: Sequence[OperatorCount], opened: OpenedJob) -> dict[str, Any]:
    """Multiplications, additions and microjoules of one image.

    A multiply-add counts as one of each.
    """
    counted: Counter[str] = Counter()
    for one in operators:
        for kind in KINDS.get(one.kind, (one.kind,)):
            counted[kind] += one.operations
    device = manager().device(f"cost-model:{PROFILE}")
    assert isinstance(device, CostModel)
    base = opened.baseline.deployable
    joules = device.cost(Deployable(base.file, base.input_size, operators)).joules
    return {"multiplications": counted["multiply"], "additions": counted["add"], "microjoules": 1e6 * joules}


def _judged(table: Rows, data: str, ways: Sequence[str], seeds: Sequence[int]) -> dict[str, Any]:
    def found(way: str) -> list[dict[str, Any]]:
        return [table.rows[f"{data} / {way} / seed {seed}"] for seed in seeds]

    def flags(way: str) -> list[np.ndarray]:
        return [unpacked(row["correct"]) for row in found(way)]

    rows = []
    for way in ways:
        correct = np.mean([own.mean() for own in flags(way)])
        interval = wilson(round(correct * len(flags(way)[0])), len(flags(way)[0]))
        rows.append(
            {
                "way": way,
                "accuracy": round(statistics.fmean(row["accuracy"] for row in found(way)), 2),
                "low": round(interval.low, 2),
                "high": round(interval.high, 2),
                "by_seed": [round(row["accuracy"], 2) for row in found(way)],
                **{name: found(way)[0][name] for name in ("multiplications", "additions", "microjoules")},
            }
        )
    orders = [
        judged(Claim(f"{way} against its twin", way, TWIN), flags(way), flags(TWIN))
        for way in ways
        if way != TWIN and TWIN in ways
    ]
    target = TARGETS.get(data)
    lost = next((order["points"] for order in orders if order["first"] == ADDER), None)
    met = None if target is None or lost is None else lost >= -target
    return {"data": data, "rows": rows, "orders": orders, "target": target, "met": met}


def lines(part: dict[str, Any]) -> list[str]:
    """The table of this part."""
    text = [f"{part['recovery_epochs']} epochs of recovery, seeds {part['seeds']}, energy on {part['profile']}"]
    for found in part["data"]:
        network = part["networks"][found["data"]]
        text.append(f"{found['data']}, {network['model']} {dict(network['args'])}, {network['epochs']} epochs")
        for row in found["rows"]:
            text.append(
                f"  {row['way']:<22} {row['accuracy']:6.2f} % ({row['low']:.2f}..{row['high']:.2f}) {row['by_seed']}  "
                f"mul {row['multiplications'] / 1e6:7.2f}M  add {row['additions'] / 1e6:7.2f}M  "
                f"{row['microjoules']:7.2f} uJ"
            )
        for order in found["orders"]:
            target = f"  target -{found['target']:g}" if order["first"] == ADDER and found["target"] else ""
            text.append(
                f"  {order['claim']:<40} {order['points']:+.2f} ({order['low']:+.2f}..{order['high']:+.2f}){target}"
            )
    return text
