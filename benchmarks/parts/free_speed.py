"""Time of an iteration of DeepInversion, compared with plain passes, timed alternately."""

from __future__ import annotations

import copy
import time
from typing import Any

import torch

from autocompress import models
from autocompress.contract import Context
from autocompress.devices.timing import median_interval
from shared.asked import params_of
from shared.synthetic import source_named
from shared.trained import job_of, trained

TARGET = 1.2


def run(model: str, data: str, images: int, iterations: int, rounds: int) -> dict[str, Any]:
    """Ratios of the time an iteration, round by round.

    Args:
        model, data: the teacher; its weights are random.
        images: number of images in the batch.
        iterations: number of iterations of each in a round.
        rounds: number of rounds.
    """
    teacher = trained(job_of(model, data, 0)).model
    with torch.no_grad():  # its norms need recorded statistics
        teacher.train()(torch.randn(16, *models.input_size(teacher)))
    teacher.eval()
    source = source_named("deepinversion")
    values = {"preset": "plain", "images": images, "batch_size": images, "iterations": iterations}
    params = params_of(source, teacher, values)
    context = Context(models.input_size(teacher))
    ratios, plain_ms, ours_ms = [], [], []
    for _ in range(rounds):
        plain = _plain(teacher, images, iterations)
        started = time.perf_counter()
        source.apply(copy.deepcopy(teacher), params, context)
        ours = time.perf_counter() - started
        ratios.append(ours / plain)
        plain_ms.append(1e3 * plain / iterations)
        ours_ms.append(1e3 * ours / iterations)
    ratio, low, high = median_interval(ratios)
    return {
        "model": model,
        "images": images,
        "iterations": iterations,
        "rounds": rounds,
        "plain_ms": sorted(plain_ms)[rounds // 2],
        "ours_ms": sorted(ours_ms)[rounds // 2],
        "ratio": ratio,
        "low": low,
        "high": high,
        "target": TARGET,
        "met": ratio <= TARGET,
    }


def _plain(teacher: torch.nn.Module, images: int, iterations: int) -> float:
    """Seconds of ``iterations`` forward passes with the gradient of the images."""
    model = copy.deepcopy(teacher).eval().requires_grad_(False)
    x = torch.randn(images, *models.input_size(teacher), requires_grad=True)
    started = time.perf_counter()
    for _ in range(iterations):
        torch.autograd.grad(model(x).sum(), x)
    return time.perf_counter() - started


def lines(part: dict[str, Any]) -> list[str]:
    """The table of this part."""
    return [
        f"{part['model']}, {part['images']} images: {part['ours_ms']:.0f} ms an iteration, "
        f"plain {part['plain_ms']:.0f} ms, "
        f"ratio {part['ratio']:.2f} ({part['low']:.2f}..{part['high']:.2f}), target {part['target']:g}"
    ]
