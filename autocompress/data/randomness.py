"""The random generators that timm's transforms use."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seeded(seed: int) -> None:
    """Seeds the random generators that timm's transforms use."""
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed CUDA's generators too


@contextmanager
def random_kept() -> Iterator[None]:
    """Context after which the random generators of this process are as they were before."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
