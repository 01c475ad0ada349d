"""Settings of the optimisation of pixels: phases, optimiser, schedule and views."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Bounds = tuple[Sequence[float], Sequence[float]]
"""Lowest and highest value of each channel."""


@dataclass(frozen=True)
class Phase:
    """A number of iterations at one resolution.

    Attributes:
        pool: the teacher reads averages of ``pool`` x ``pool`` pixels.
        iterations: number of iterations.
    """

    pool: int = 1
    iterations: int = 1000


@dataclass(frozen=True)
class PixelSettings:
    """Settings of :func:`optimise_pixels`.

    Attributes:
        phases: the phases in order. Each has a new optimiser, and the result is from the last one.
        lr, betas, eps: settings of Adam.
        schedule: "cosine" (falls to 0 in each phase) or "constant".
        warmup: iterations of linear growth of the learning rate, at most a quarter of the phase.
        jitter: largest circular shift in pixels at full resolution, equal for the whole batch and
            new in each iteration.
        flip: the batch is mirrored in half of the iterations.
        bounds: bounds of the pixels of each channel, applied at the start and after each step; None
            for no bounds.
        normalise: (mean, std) of each channel if pixels are raw values, so that the teacher reads
            ``(x - mean) / std``; None if pixels are normalised already. ``bounds`` are for pixels.
        autocast: bfloat16 on CUDA devices that support it.
    """

    phases: tuple[Phase, ...] = (Phase(),)
    lr: float = 0.1
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: int = 100
    jitter: int = 0
    flip: bool = False
    bounds: Bounds | None = None
    normalise: tuple[Sequence[float], Sequence[float]] | None = None
    autocast: bool = True

    def __post_init__(self) -> None:
        if not self.phases or any(phase.pool < 1 or phase.iterations < 1 for phase in self.phases):
            raise ValueError("there must be at least one phase, with pool and iterations of at least 1")

    @property
    def iterations(self) -> int:
        """Number of iterations in all phases."""
        return sum(phase.iterations for phase in self.phases)


def pixel_bounds(mean: Sequence[float], std: Sequence[float]) -> Bounds:
    """Pixel values 0 and 1 after normalisation: [-mean / std, (1 - mean) / std] by channel."""
    pairs = list(zip(mean, std, strict=True))
    return tuple(-m / s for m, s in pairs), tuple((1 - m) / s for m, s in pairs)


def learning_rate(settings: PixelSettings, step: int, steps: int) -> float:
    """The learning rate at iteration ``step`` (from 0) of a phase of ``steps`` iterations.

    Its factor is (step + 1) / w in the first w iterations, then half a cosine from 1 to 0. w is 100
    in the published code. Here it is a quarter of the phase if the phase is shorter than 400.
    """
    warmup = min(settings.warmup, steps // 4)
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    if settings.schedule == "constant":
        return settings.lr
    return settings.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def phase_deadlines(phases: Sequence[Phase], seconds: float | None) -> list[float]:
    """The deadline of each phase in seconds from the start, in proportion to its work.

    The last phase gives the images, so earlier phases must not use its time.
    """
    if seconds is None:
        return [math.inf] * len(phases)
    work = [phase.iterations / phase.pool**2 for phase in phases]
    return [seconds * sum(work[: number + 1]) / sum(work) for number in range(len(phases))]
