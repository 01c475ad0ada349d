"""The number of images to make, their batches and their classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class SynthesisBudget:
    """Limits of a synthesis.

    Attributes:
        images: number of all images.
        batch_size: maximum number of images that are optimised together.
        iterations: iterations of each batch.
        seconds: maximum seconds for all images; None for no limit.
    """

    images: int
    batch_size: int = 256
    iterations: int = 1000
    seconds: float | None = None

    @property
    def batches(self) -> list[int]:
        """Sizes of the batches, nearly equal, because statistics of a small batch are noisy."""
        count = max(-(-self.images // self.batch_size), 1)
        return [self.images // count + (number < self.images % count) for number in range(count)]


def balanced_labels(n: int, classes: int, generator: torch.Generator, first: int = 0) -> torch.Tensor:
    """``n`` int64 labels in random order; counts of classes differ by at most one.

    Args:
        first: the first class. If it is the number of images in earlier batches, all batches
            together are balanced too.
    """
    labels = torch.arange(first, first + n) % classes
    return labels[torch.randperm(n, generator=generator)]


def starting_noise(n: int, input_size: tuple[int, int, int], generator: torch.Generator) -> torch.Tensor:
    """Float32 ``(n, C, H, W)`` from N(0, 1), drawn on the CPU: the same for every device."""
    return torch.randn(n, *input_size, generator=generator)
