"""The cost of SCOP's scores compared with float training, and of a second rate on one baseline."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np

import int8
from autocompress import models
from autocompress.training import Training, baseline_settings
from autocompress_scop import Scop
from autocompress_scop.control import ScaleSettings
from autocompress_scop.scoring import ScoreSettings
from shared.pruned import context_of, removed, uniform
from shared.trained import job_of, trained

TARGETS = {"score_over_training": 3.0, "second_rate_seconds": 5.0}
MODE = "group"
"""A mode in which couplings have all layers."""
FIRST, RATES = 0.3, (0.2, 0.4, 0.5, 0.6)
"""The rate that computes what later rates share, and these rates."""


def run(name: str, data: str, images: int, rounds: int) -> dict[str, Any]:
    """A score epoch and a float training epoch on the same images take turns.

    Then rates, one after the other.

    Knockoffs, fitted anew, are part of the score epoch. The weights are random: they change no
    cost.

    Args:
        name, data: the network, with random weights, and the data set.
        images: number of training images.
        rounds: number of rounds with an epoch of each; the first of several does not count.
    """
    baseline = trained(job_of(name, data, 0))
    context = context_of(baseline, seed=0, images=images)
    assert context.transfer is not None
    assert context.teacher is not None
    method = Scop(ScoreSettings(scales=ScaleSettings(epochs=1)))
    started = time.perf_counter()
    uniform(method, baseline.model, FIRST, MODE)  # couplings depend on the structure and are found once per network
    structure_seconds = time.perf_counter() - started
    settings = replace(baseline_settings(baseline.job), epochs=rounds + 1)
    model = models.create(baseline.job, baseline.splits.info)
    training = Training(model, context.transfer.train, settings, device=context.device)
    seconds: dict[str, list[float]] = {"training": [], "score": []}
    state: Any = None
    for turn in range(1, rounds + 1):
        started = time.perf_counter()
        training.run(until=turn)
        seconds["training"].append(time.perf_counter() - started)
        started = time.perf_counter()
        state = method.prepare(context.teacher, context)
        seconds["score"].append(time.perf_counter() - started)
    counted = {key: np.array(values[1:] or values) for key, values in seconds.items()}
    scored = replace(context, state=state)
    each = {}
    for rate in (FIRST, *RATES):
        started = time.perf_counter()
        removed(method, baseline.model, uniform(method, baseline.model, rate, MODE), scored)
        each[rate] = time.perf_counter() - started
    part: dict[str, Any] = {
        "model": name,
        "data": data,
        "images": len(context.transfer.train),
        "rounds": rounds,
        "targets": TARGETS,
        "structure_seconds": structure_seconds,
        "training_seconds": float(np.median(counted["training"])),
        "score_seconds": float(np.median(counted["score"])),
        "score_over_training": int8.ratio(counted["score"], counted["training"]),
        "rate_seconds": {str(rate): value for rate, value in each.items()},
        "second_rate_seconds": float(np.median([each[rate] for rate in RATES])),
    }
    part["met"] = (
        part["score_over_training"]["median"] <= TARGETS["score_over_training"]
        and part["second_rate_seconds"] <= TARGETS["second_rate_seconds"]
    )
    return part


def lines(part: dict[str, Any]) -> list[str]:
    """The table of this part."""
    targets, ratio, second = part["targets"], part["score_over_training"], part["second_rate_seconds"]
    return [
        f"score epoch {part['score_seconds']:.1f} s, training epoch {part['training_seconds']:.1f} s: "
        "{median:.2f} ({low:.2f}..{high:.2f})".format(**ratio)
        + f"  target {targets['score_over_training']:.1f}  "
        + ("yes" if ratio["median"] <= targets["score_over_training"] else "no"),
        f"couplings, once: {part['structure_seconds']:.1f} s",
        f"second rate {second:.2f} s  target {targets['second_rate_seconds']:.0f}  "
        + ("yes" if second <= targets["second_rate_seconds"] else "no"),
    ]
