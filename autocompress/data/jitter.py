"""torchvision's ColorJitter and timm's step to a tensor behind it, several times as fast.

The values are those of Pillow. numba may round differently on some processors, so a process
compares both on a few images first, and uses torchvision's transform if they differ.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image

from autocompress.data.randomness import random_kept, seeded


class Jitter:
    """A colour picture to uint8 ``(3, height, width)`` with other brightness, contrast, saturation.

    Args:
        like: torchvision's transform, without a change of hue.
    """

    def __init__(self, like: Any) -> None:
        self._like = like

    def __call__(self, image: Image.Image) -> torch.Tensor:
        from autocompress.data.jitter_kernels import jittered

        own = self._like
        order, *factors, _hue = own.get_params(own.brightness, own.contrast, own.saturation, own.hue)
        pixels = np.array(image)
        jittered(pixels, order.numpy(), np.array(factors, np.float32))
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def quickened(transform: Any) -> Any:
    """``transform``, a Compose, with the fast jitter if it ends with a jitter and a tensor."""
    from timm.data.transforms import MaybePILToTensor
    from torchvision.transforms import ColorJitter, Compose

    steps = list(transform.transforms)
    if len(steps) < 2 or not isinstance(steps[-1], MaybePILToTensor) or not isinstance(steps[-2], ColorJitter):
        return transform
    jitter = steps[-2]
    if None in (jitter.brightness, jitter.contrast, jitter.saturation) or jitter.hue is not None or not is_exact():
        return transform
    return Compose([*steps[:-2], Jitter(jitter)])


@cache
def is_exact() -> bool:
    """Whether the fast jitter gives Pillow's values on this machine."""
    from torchvision.transforms import ColorJitter

    like = ColorJitter(0.5, 0.5, 0.5)
    draw = np.random.default_rng(0)
    with random_kept():
        for number in range(8):
            image = Image.fromarray(draw.integers(0, 256, (16, 16, 3), dtype=np.uint8))
            seeded(number)
            quick = Jitter(like)(image)
            seeded(number)
            if not np.array_equal(quick.permute(1, 2, 0).numpy(), np.asarray(like(image))):
                return False
    return True
