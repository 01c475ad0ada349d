"""SCOP compared with other criteria at the same share of the MACs and with the same recovery.

Accuracies are those of torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from autocompress.contract import Context
from autocompress.training import evaluate
from autocompress_scop import Scop
from autocompress_scop.scoring import ScoreSettings
from shared.orders import Claim, judged
from shared.pruned import CRITERIA, TorchPruning, context_of, left, nearest, recovered, removed, uniform
from shared.rows import Rows, packed, unpacked
from shared.trained import SLOW, Trained, environment, job_of, trained

SHARE = 0.5
"""Share of the MACs that is kept."""
TORCH_PRUNING = "torch-pruning group magnitude"
ROWS = (*CRITERIA, TORCH_PRUNING)
JUDGED = ("magnitude", "bn-scale", TORCH_PRUNING)
"""Criteria that SCOP must not be worse than. ``random`` is only shown."""
SPLITS = ("val", "test")


def run(
    models: Sequence[str],
    data: str,
    epochs: int,
    recovery_epochs: int,
    seeds: Sequence[int],
    *,
    mode: str,
    images: int | None,
    out: Path,
    keep: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """For each model a row a criterion and seed, and SCOP minus each rival.

    Args:
        models, data, epochs: float baselines, each trained once with seed 0.
        recovery_epochs: epochs of recovery of each pruned network.
        seeds: random seeds of scores and recovery.
        mode: mode of removal, "inner" or "group".
        images: number of training images for scores and recovery; None for all.
        out: file of the rows, from which an interrupted run is continued.
        keep: called with the part so far after each model.
    """
    head: dict[str, Any] = {
        "data": data,
        "epochs": epochs,
        "recovery_epochs": recovery_epochs,
        "mode": mode,
        "images": images,
        "share": SHARE,
    }
    # rows also depend on defaults of the method and on the baseline
    versions = {**environment()["versions"], "scop": Scop.version}
    slow = {name: SLOW[name] for name in models if name in SLOW}
    table = Rows(out, {**head, "versions": versions, "scores": asdict(ScoreSettings()), "slow_baselines": slow})
    part: dict[str, Any] = {**head, "seeds": list(seeds), "models": []}
    for name in models:
        _make(table, name, head, seeds)
        part["models"].append(_judged(table, name, seeds))
        part["met"] = all(found["met"] for found in part["models"])
        keep(part)
    return part


def _make(table: Rows, name: str, head: dict[str, Any], seeds: Sequence[int]) -> None:
    mode = head["mode"]

    # values that existing rows do not need are not computed
    @cache
    def baseline() -> Trained:
        return trained(job_of(name, head["data"], head["epochs"]))

    @cache
    def ours() -> tuple[float, float]:
        return nearest(lambda rate: left(baseline().model, rate, mode)[1], SHARE)

    @cache
    def theirs() -> tuple[TorchPruning, float, float]:
        pruner = TorchPruning(baseline().model, mode)
        return pruner, *nearest(
            pruner.share, ours()[1]
        )  # shares of widths are discrete, so the share of the MACs is not exactly a half

    @cache
    def context(seed: int) -> Context:
        return context_of(baseline(), seed=seed, images=head["images"])

    @cache
    def scores(seed: int) -> Any:
        teacher = context(seed).teacher
        assert teacher is not None
        return CRITERIA["scop"].prepare(teacher, context(seed))

    def of_float() -> dict[str, Any]:
        return _scored(baseline().model, baseline())

    def of(criterion: str, seed: int) -> dict[str, Any]:
        if criterion == TORCH_PRUNING:
            rival, rate, share = theirs()
            model = rival.removed(rate, context(seed))
        else:
            rate, share = ours()
            pruner, state = CRITERIA[criterion], scores(seed) if criterion == "scop" else None
            asked = uniform(pruner, baseline().model, rate, mode)
            model = removed(pruner, baseline().model, asked, replace(context(seed), state=state))
        before = evaluate(model, baseline().splits.test)[0]
        model = recovered(model, head["recovery_epochs"], context(seed))
        return {"rate": rate, "macs_share": share, "before_recovery": before, **_scored(model, baseline())}

    table.row(f"{name} / float", of_float)
    for seed in seeds:
        for criterion in ROWS:
            table.row(_key(name, criterion, seed), lambda c=criterion, s=seed: of(c, s))


def _scored(model: nn.Module, baseline: Trained) -> dict[str, Any]:
    flags = {split: evaluate(model, getattr(baseline.splits, split))[1] for split in SPLITS}
    return {
        **{split: 100.0 * float(found.mean()) for split, found in flags.items()},
        "correct": {split: packed(found) for split, found in flags.items()},
    }


def _key(name: str, criterion: str, seed: int) -> str:
    return f"{name} / {criterion} / seed {seed}"


def _judged(table: Rows, name: str, seeds: Sequence[int]) -> dict[str, Any]:
    rows = {criterion: [table.rows[_key(name, criterion, seed)] for seed in seeds] for criterion in ROWS}

    def flags(criterion: str, split: str) -> list[np.ndarray]:
        return [unpacked(row["correct"][split]) for row in rows[criterion]]

    orders = [
        {
            "split": split,
            **judged(
                Claim(f"SCOP beats {rival}", "scop", rival), flags("scop", split), flags(rival, split)
            ),
        }
        for rival in ROWS
        if rival != "scop"
        for split in SPLITS
    ]  # fmt: skip
    for order in orders:
        # "At least as accurate": the middle of the interval, rounded as shown, is not below 0.
        order["met"] = order["points"] >= 0.0 if order["second"] in JUDGED else None
    names = (*SPLITS, "before_recovery")
    return {
        "model": name,
        "float": {split: table.rows[f"{name} / float"][split] for split in SPLITS},
        "rows": [
            {
                "criterion": criterion,
                "rate": found[0]["rate"],
                "macs_share": found[0]["macs_share"],
                **{key: [round(row[key], 2) for row in found] for key in names},
            }
            for criterion, found in rows.items()
        ],
        "orders": orders,
        "met": all(order["met"] for order in orders if order["met"] is not None),
    }


def lines(part: dict[str, Any]) -> list[str]:
    """The table of this part."""
    shown = []
    for found in part["models"]:
        shown.append(f"{found['model']}  float val {found['float']['val']:.2f}  test {found['float']['test']:.2f}")
        shown += [
            f"  {row['criterion']:<30} rate {row['rate']:.3f}  MACs {row['macs_share']:.3f}  val {row['val']}  "
            f"test {row['test']}  before recovery {row['before_recovery']}"
            for row in found["rows"]
        ]
        shown += [
            f"  {order['claim']:<42} {order['split']:<5}"
            "{points:+.2f} ({low:+.2f}..{high:+.2f})  {verdict}".format(**order)
            + ("  not judged" if order["met"] is None else f"  target +0.0  {'yes' if order['met'] else 'no'}")
            for order in found["orders"]
        ]
    return shown
