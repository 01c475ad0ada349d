"""Other uses of synthetic images, compared with real ones.

The uses are ranges, training with quantization, and recovery of a pruned network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from autocompress.contract import TransferSet, Value
from autocompress.opened.transfer import user_data
from autocompress.training import evaluate
from autocompress_scop import Scop
from shared.orders import Claim, judged
from shared.pruned import context_of, left, nearest, recovered, removed, uniform
from shared.rows import Rows, packed, unpacked
from shared.simulate import Setting, simulate
from shared.synthetic import made
from shared.trained import Trained, environment, job_of, trained

REAL = "real"
SOURCES: Mapping[str, tuple[str, Mapping[str, Value]]] = {
    "deepinversion": ("deepinversion", {"preset": "plain"}),
    "bns+inception": ("knowledge_within", {"scheme": "bns+inception"}),
    "inception": ("knowledge_within", {"scheme": "inception"}),
    "gaussian": ("knowledge_within", {"scheme": "gaussian"}),
    "zskd": ("zskd", {}),
}
QAT_LR = 1e-3
SHARE = 0.5
"""Share of the MACs that is kept."""


@dataclass(frozen=True)
class Use:
    """One use of the images.

    Attributes:
        words: description for tables.
        sources: data sources to compare with real images.
        target: maximum points that the first source may lose to real images.
        claims: orders that the papers claim.
    """

    words: str
    sources: Sequence[str]
    target: float | None
    claims: Sequence[tuple[str, str]] = field(default=())


USES = {
    "calibrate": Use("8-bit ranges", ("deepinversion", "bns+inception", "gaussian", "zskd"), 0.5),
    "calibrate4": Use(
        "ranges of 4-bit activations, 8-bit weights",
        ("bns+inception", "inception", "gaussian", "deepinversion"),
        None,
        (("bns+inception", "inception"), ("inception", "gaussian")),
    ),
    "train4": Use("4-bit weights and activations, trained", ("deepinversion", "bns+inception"), 2.0),
    "prune": Use("pruned to half the MACs and recovered", ("deepinversion", "bns+inception"), 5.0),
}


@dataclass(frozen=True)
class Budget:
    """Amount of work for one set, and for training on it.

    Real images are used for as many steps.
    """

    images: int
    iterations: int
    epochs: int


def run(
    model: str,
    data: str,
    epochs: int,
    uses: Sequence[str],
    seeds: Sequence[int],
    budget: Budget,
    *,
    out: Path,
    keep: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """A row a use, source and seed.

    Args:
        model, data, epochs: the float baseline.
        uses: names in ``USES``.
        seeds: random seeds of sets and trainings.
        budget: amount of work for each set and training.
        out: the file of the rows.
        keep: called with the part so far after each row.
    """
    head = {
        "model": model,
        "data": data,
        "epochs": epochs,
        "budget": vars(budget),
        "versions": {**environment()["versions"], "scop": Scop.version},
    }
    table = Rows(out, head)

    @cache
    def baseline() -> Trained:
        return trained(job_of(model, data, epochs))

    def transfer(source: str, seed: int) -> TransferSet:
        if source == REAL:
            return user_data(baseline().splits, seed)
        name, values = SOURCES[source]
        values = {"images": budget.images, **values}
        if source != "gaussian":
            values["iterations"] = budget.iterations
        return made(name, values, baseline().model, seed)

    table.row("float", lambda: _flags(evaluate(baseline().model, baseline().splits.test)[1]))
    part: dict[str, Any] = {**head, "seeds": list(seeds), "float": table.rows["float"]["accuracy"], "uses": []}
    for use in uses:
        for seed in seeds:
            for source in (REAL, *USES[use].sources):
                table.row(
                    f"{use} / {source} / seed {seed}",
                    lambda u=use, s=source, n=seed: _flags(_used(u, baseline(), transfer(s, n), n, budget)),
                )
        part["uses"].append(_judged(table, use, seeds))
        part["met"] = all(found["met"] for found in part["uses"] if found["met"] is not None)
        keep(part)
    return part


def _flags(correct: np.ndarray) -> dict[str, Any]:
    return {"accuracy": 100.0 * float(correct.mean()), "correct": packed(correct)}


def _used(use: str, baseline: Trained, transfer: TransferSet, seed: int, budget: Budget) -> np.ndarray:
    """Whether each test image is classified correctly by the compressed network."""
    # The real set is larger. As many images are drawn from it by the seed, and trained on for as
    # many steps.
    if transfer.labelled:
        transfer = replace(transfer, train=transfer.train.subset(budget.images, seed))
    if use == "calibrate":
        return simulate(baseline, Setting(exempt=True), seed=seed, images=None, transfer=transfer)
    if use == "calibrate4":
        return simulate(baseline, Setting(activations=4, exempt=True), seed=seed, images=None, transfer=transfer)
    if use == "train4":
        schedule = {"epochs": budget.epochs, "lr": QAT_LR, "distill": 0.5}
        setting = Setting(weights=4, activations=4, exempt=True, qat=schedule)
        return simulate(baseline, setting, seed=seed, images=None, transfer=transfer)
    method, mode = Scop(), "group"
    context = context_of(baseline, seed=seed, transfer=transfer)
    assert context.teacher is not None
    rate, _ = nearest(lambda rate: left(baseline.model, rate, mode)[1], SHARE)
    context = replace(context, state=method.prepare(context.teacher, context))
    model = removed(method, baseline.model, uniform(method, baseline.model, rate, mode), context)
    return evaluate(recovered(model, budget.epochs, context), baseline.splits.test, context.device)[1]


def _judged(table: Rows, use: str, seeds: Sequence[int]) -> dict[str, Any]:
    what = USES[use]

    def rows(source: str) -> list[dict[str, Any]]:
        return [table.rows[f"{use} / {source} / seed {seed}"] for seed in seeds]

    def flags(source: str) -> list[np.ndarray]:
        return [unpacked(row["correct"]) for row in rows(source)]

    against = [judged(Claim(f"{s} against real", s, REAL), flags(s), flags(REAL)) for s in what.sources]
    best = max(found["points"] for found in against)
    return {
        "use": use,
        "words": what.words,
        "rows": [
            {"source": source, "accuracies": [round(row["accuracy"], 2) for row in rows(source)]}
            for source in (REAL, *what.sources)
        ],
        "against": against,
        "orders": [judged(Claim(f"{a} beats {b}", a, b), flags(a), flags(b)) for a, b in what.claims],
        "target": what.target,
        "best": best,
        "met": None if what.target is None else best >= -what.target,
    }


def lines(part: dict[str, Any]) -> list[str]:
    """The table of this part."""
    budget = part["budget"]
    text = [
        f"{part['model']} on {part['data']}, float {part['float']:.2f} %; sets of {budget['images']} images, "
        f"{budget['iterations']} iterations; trained {budget['epochs']} epochs of as many images; seeds {part['seeds']}"
    ]
    for found in part["uses"]:
        target = "" if found["target"] is None else f"  at most -{found['target']:g}: {'yes' if found['met'] else 'no'}"
        text.append(f"{found['words']}{target}")
        text += [f"  {row['source']:<16} {row['accuracies']}" for row in found["rows"]]
        text += [
            f"  {order['claim']:<32} {order['points']:+.2f} ({order['low']:+.2f}..{order['high']:+.2f})  "
            f"{order['verdict']}"
            for order in [*found["against"], *found["orders"]]
        ]
    return text
