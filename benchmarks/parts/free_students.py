"""Students trained from scratch on images that a data source made from the teacher.

Accuracies are on real images.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from autocompress import models
from autocompress.contract import TransferSet, Value
from autocompress.opened.transfer import user_data
from autocompress.training import evaluate
from autocompress_zskd import networks  # noqa: F401 - makes the paper's networks known to timm
from shared.orders import Claim, judged
from shared.rows import Rows, packed, unpacked
from shared.synthetic import both, made, taught
from shared.trained import Trained, environment, job_of, trained

BATCH = 64
LENET = "lenet5"
HALF = "resnet10t:channels=[32,64,128,256]"
"""LeNet-5 with half its channels, as in the tables of other papers."""
REAL = "real images, unlabelled"


@dataclass(frozen=True)
class Way:
    """How a transfer set is made.

    By a source with parameters, or None for the real training images.
    """

    source: str | None
    values: Mapping[str, Value] = field(default_factory=dict)
    adaptive: bool = False


WAYS = {
    REAL: Way(None),
    "noise": Way("knowledge_within", {"scheme": "gaussian"}),
    "deepinversion, adaptive": Way("deepinversion", {"preset": "adaptive"}, adaptive=True),
    "deepinversion": Way("deepinversion", {"preset": "plain"}),
    "deepinversion without the feature term": Way("deepinversion", {"preset": "plain", "feature": 0.0}),
    "knowledge_within, inception": Way("knowledge_within", {"scheme": "inception"}),
    "knowledge_within, bns+inception": Way("knowledge_within", {"scheme": "bns+inception"}),
    "zskd": Way("zskd"),
}
"""Noise is also the scheme "gaussian" of The Knowledge Within."""
LENET_WAYS = (REAL, "noise", "zskd")
"""LeNet-5 has no batch norm."""
FLOORS: Mapping[tuple[str, str], Mapping[str, float]] = {
    ("digits", "resnet18"): {"deepinversion": 90.0, "knowledge_within, bns+inception": 85.0},
    ("digits", LENET): {"zskd": 85.0},
}
"""Targets in percent of the teacher's accuracy, by data and teacher.

ZSKD's is for LeNet-5, as in its paper.
"""
CLAIMS = (
    Claim("adaptive at least as good as plain", "deepinversion, adaptive", "deepinversion"),
    Claim("the feature term helps", "deepinversion", "deepinversion without the feature term"),
    Claim("bns+inception beats inception", "knowledge_within, bns+inception", "knowledge_within, inception"),
    Claim("deepinversion beats noise", "deepinversion", "noise"),
)


@dataclass(frozen=True)
class Budget:
    """Amount of work for one set and one student."""

    images: int
    iterations: int
    steps: int


def run(
    teachers: Sequence[tuple[str, str]],
    epochs: int,
    ways: Sequence[str],
    seeds: Sequence[int],
    budget: Budget,
    *,
    out: Path,
    command: str = "",
    keep: Callable[[Sequence[dict[str, Any]]], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """What is found of each teacher: a row a way and seed, and the orders.

    Args:
        teachers: data set and backbone of each.
        epochs: epochs of the training of teachers.
        ways: names in ``WAYS``; LeNet-5 has its own.
        seeds: random seeds of sets and students.
        budget: amount of work for each set and student.
        out: the JSON file; rows of each teacher are in a file beside it.
        command: the command of this run, for tables.
        keep: called with the results so far after each teacher.
    """
    found = []
    for data, backbone in teachers:
        head = {"budget": vars(budget), "epochs": epochs, "versions": environment()["versions"], "batch": BATCH}
        table = Rows(out.with_name(f"{out.stem}-{data}-{short(backbone)}.json"), head)
        chosen = [way for way in ways if way in LENET_WAYS] if backbone == LENET else list(ways)
        _make(table, data, backbone, epochs, chosen, seeds, budget)
        one = {**head, "seeds": list(seeds), "command": command, **_judged(table, data, backbone, chosen, seeds)}
        found.append(one)
        keep(found)
    return found


def part(before: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The results: earlier ones of other teachers, possibly with other budgets, and new ones."""
    data = list({(one["data"], one["teacher"]): one for one in (*before, *found)}.values())
    met = all(row["met"] for one in data for row in one["rows"] if row["met"] is not None)
    return {"data": data, "met": met}


def short(backbone: str) -> str:
    """A short name for files and tables."""
    return "resnet10t-half" if backbone == HALF else re.sub(r"[^\w.]+", "-", backbone).strip("-")


def _key(data: str, backbone: str, way: str, seed: int) -> str:
    return f"{data} / {backbone} / {way} / seed {seed}"


def _make(
    table: Rows, data: str, backbone: str, epochs: int, ways: Sequence[str], seeds: Sequence[int], budget: Budget
) -> None:
    @cache
    def teacher() -> Trained:
        return trained(job_of(backbone, data, epochs))

    def of_teacher() -> dict[str, Any]:
        return _scored(teacher().model, teacher())

    def of(way: str, seed: int) -> dict[str, Any]:
        student = _fresh(teacher(), seed)
        images = _teach(student, teacher(), WAYS[way], seed, budget)
        return {"images": images, **_scored(student, teacher())}

    table.row(_key(data, backbone, "teacher", 0), of_teacher)
    for seed in seeds:  # seed by seed, so that an interrupted run has complete seeds
        for way in ways:
            table.row(_key(data, backbone, way, seed), lambda w=way, s=seed: of(w, s))


def _teach(student: nn.Module, teacher: Trained, way: Way, seed: int, budget: Budget) -> int:
    """Trains the student; returns the number of images that it was trained on."""
    options: dict[str, Any] = {"batch_size": BATCH, "seed": seed}
    if way.source is None:
        found: TransferSet = user_data(teacher.splits, seed)
        taught(student, teacher.model, found, budget.steps, **options)
        return len(found.train)
    values: dict[str, Value] = {"images": budget.images, **way.values}
    if dict(way.values).get("scheme") != "gaussian":
        values["iterations"] = budget.iterations
    if not way.adaptive:
        found = made(way.source, values, teacher.model, seed)
        taught(student, teacher.model, found, budget.steps, **options)
        return len(found.train)
    # As in RECOVER: half of the training uses the first images, the rest also those made against
    # the student. The number of steps is the same.
    values["images"] = budget.images // 2
    first = made(way.source, values, teacher.model, seed)
    taught(student, teacher.model, first, budget.steps // 2, **options)
    second = made(way.source, values, teacher.model, seed + 1000, student)
    joined = both(first, second)
    taught(student, teacher.model, joined, budget.steps - budget.steps // 2, **options)
    return len(joined.train)


def _fresh(teacher: Trained, seed: int) -> nn.Module:
    """The student.

    The teacher's architecture with random weights; for LeNet-5, the half network of its paper.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 17)
        name = f"{LENET}_half" if teacher.job.model == LENET else teacher.job.model
        job = teacher.job.model_copy(update={"seed": seed + 17, "model": name})
        student = models.create(job, teacher.splits.info)
        models.silence_residual_branches(student)
        return student


def _scored(model: nn.Module, teacher: Trained) -> dict[str, Any]:
    accuracy, correct = evaluate(model, teacher.splits.test)
    return {"accuracy": accuracy, "correct": packed(correct)}


def _judged(table: Rows, data: str, backbone: str, ways: Sequence[str], seeds: Sequence[int]) -> dict[str, Any]:
    teacher = table.rows[_key(data, backbone, "teacher", 0)]["accuracy"]

    def found(way: str) -> list[dict[str, Any]]:
        return [table.rows[_key(data, backbone, way, seed)] for seed in seeds]

    def flags(way: str) -> list[np.ndarray]:
        return [unpacked(row["correct"]) for row in found(way)]

    floors = FLOORS.get((data, backbone), {})
    rows = []
    for way in ways:
        accuracies = [row["accuracy"] for row in found(way)]
        share = 100 * statistics.median(accuracies) / teacher
        least = floors.get(way)
        rows.append(
            {
                "way": way,
                "images": found(way)[0]["images"],
                "accuracies": [round(value, 2) for value in accuracies],
                "median": round(statistics.median(accuracies), 2),
                "share_of_teacher": round(share, 2),
                "floor": least,
                "met": None if least is None else share >= least,
            }
        )
    claims = [claim for claim in CLAIMS if {claim.first, claim.second} <= set(ways)]
    return {
        "data": data,
        "teacher": backbone,
        "teacher_accuracy": round(teacher, 2),
        "rows": rows,
        "orders": [judged(claim, flags(claim.first), flags(claim.second)) for claim in claims],
    }


def lines(part: dict[str, Any]) -> list[str]:
    """The table of this part."""
    text = []
    for found in part["data"]:
        budget = found["budget"]
        text.append(f"{found['data']}, teacher {found['teacher']} {found['teacher_accuracy']:.2f} %")
        text.append(
            f"  {budget['images']} images a set, {budget['iterations']} iterations, "
            f"{budget['steps']} steps of {found['batch']}, seeds {found['seeds']}"
        )
        for row in found["rows"]:
            target = "" if row["floor"] is None else f"  floor {row['floor']:g} %  {'yes' if row['met'] else 'no'}"
            text.append(
                f"  {row['way']:<40} {row['accuracies']!s:<24} {row['share_of_teacher']:6.1f} % of the teacher{target}"
            )
        for order in found["orders"]:
            text.append(
                f"  {order['claim']:<40} {order['points']:+.2f} ({order['low']:+.2f}..{order['high']:+.2f}) "
                f"{order['verdict']}"
            )
    return text
