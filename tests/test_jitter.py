"""The fast colour jitter gives the values of torchvision and Pillow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import ColorJitter, Compose, Grayscale

from autocompress.data import DataInfo, jitter
from autocompress.data.jitter import Jitter, quickened
from autocompress.data.preprocessing import augmented_pixels
from autocompress.data.randomness import random_kept, seeded


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40), st.floats(0.01, 1.0))
def test_it_is_equal_to_the_last_bit(seed: int, height: int, width: int, strength: float) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image, like = Image.fromarray(pixels), ColorJitter(strength, strength, strength)
    with random_kept():
        seeded(seed)
        found = Jitter(like)(image)
        after = torch.rand(1)
        seeded(seed)
        expected = np.asarray(like(image))
        assert torch.equal(after, torch.rand(1)), "it draws as many random numbers"
    assert np.array_equal(found.permute(1, 2, 0).numpy(), expected)


def test_it_is_used_only_where_transforms_end_in_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    colour = DataInfo(2, 3, (16, 16), (0.5,) * 3, (0.5,) * 3, ("a", "b"))
    assert isinstance(augmented_pixels(colour).transforms[-1], Jitter)  # type: ignore[attr-defined]
    other = Compose([Grayscale(), ColorJitter(0.2, 0.2, 0.2)])
    assert quickened(other) is other
    monkeypatch.setattr(jitter, "is_exact", lambda: False)
    assert not isinstance(augmented_pixels(colour).transforms[-1], Jitter)  # type: ignore[attr-defined]
