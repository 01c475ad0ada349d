"""The settings of DeepInversion, with published values by image size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from autocompress.data import DataInfo
from autocompress.synthesis import Phase, PixelSettings, pixel_bounds

Preset = Literal["plain", "adaptive"]
Schedule = Literal["cosine", "constant"]
PRESETS: tuple[Preset, ...] = ("plain", "adaptive")
SCHEDULES: tuple[Schedule, ...] = ("cosine", "constant")

SMALL = 64
"""Largest side in pixels for the settings published for CIFAR.

Larger images use the settings for ImageNet, with a pooled phase first.
"""
POOL, POOLED_SHARE = 2, 2 / 3
"""The published runs spend 2000 of 3000 iterations at half the resolution."""


@dataclass(frozen=True)
class Settings:
    """Parameters of the method.

    Weights are not normalised, as in the paper: total variation grows with the root of batch and
    image size, the feature distance with depth and width of the teacher, and the class loss with
    neither. They only fit near the batch size, image size and teacher for which they were found.

    Attributes:
        preset: "plain" (DeepInversion), or "adaptive", which adds competition with the live
            student.
        images: number of images.
        batch_size: maximum number of images that are optimised together and share their statistics.
        iterations: iterations of each batch, all phases together.
        lr: learning rate of Adam.
        schedule: "cosine" with 100 iterations of warm-up, or "constant".
        feature: alpha_f, weight of the feature distance.
        tv, l2: alpha_tv and alpha_l2, weights of the priors.
        competition: alpha_c, weight of the competition with a student.
        first_norm: multiplier of the first batch norm in the feature distance; the official code
            later used 10.
        jitter: largest shift, relative to the shorter side.
        flip: the batch is mirrored in half of the iterations.
        clamp: pixels stay between black and white.
        pooled: above 64 pixels, a first phase at half the resolution.
    """

    preset: Preset = "plain"
    images: int = 512
    batch_size: int = 256
    iterations: int = 500
    lr: float = 0.3
    schedule: Schedule = "cosine"
    feature: float = 0.1
    tv: float = 2.5e-5
    l2: float = 0.0
    competition: float = 10.0
    first_norm: float = 1.0
    jitter: float = 1 / 16
    flip: bool = False
    clamp: bool = True
    pooled: bool = False

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Settings:
        """The settings in a recipe's parameters; missing ones have their defaults.

        Raises:
            TypeError: for a name that is not one of the above.
        """
        unknown = set(params) - {field.name for field in fields(cls)}
        if unknown:
            raise TypeError(f"deepinversion has no parameter {sorted(unknown)[0]!r}")
        return cls(**params)

    def pixels(self, info: DataInfo) -> PixelSettings:
        """Settings of ``optimise_pixels``, for images as in ``info``."""
        return PixelSettings(
            phases=self.phases,
            lr=self.lr,
            betas=(0.5, 0.9) if max(info.size) > SMALL else (0.9, 0.999),
            schedule=self.schedule,
            warmup=100 if self.schedule == "cosine" else 0,
            jitter=round(self.jitter * min(info.size)),
            flip=self.flip,
            bounds=pixel_bounds(info.mean, info.std) if self.clamp else None,
        )

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases of a batch, in order."""
        first = round(self.iterations * POOLED_SHARE)
        if not self.pooled or not 0 < first < self.iterations:
            return (Phase(1, self.iterations),)
        return Phase(POOL, first), Phase(1, self.iterations - first)


def defaults_for(size: tuple[int, int, int], fixed_size: bool = False) -> Settings:
    """Published settings for images of (channels, height, width).

    Small images follow the CIFAR-10 script: total variation 2.5e-5, no l2, batches of 256, shifts
    of 2 in 32 pixels, no flip. Three settings differ: the script's weight of the feature distance
    (10), its learning rate (0.05 to 0.1, constant) and its unclamped pixels suit a wide teacher and
    2000 iterations. The table shows a resnet10t of digits after 150 iterations on 128 images, one
    seed. The feature distance of noise is 690, that of real images 29:

        feature weight  lr                  images that get their class  feature distance
        10              0.1                 12 %                         78
        0.1             0.1                 94 %                         86
        0.1             0.1, unclamped      94 %                         96
        0.1             0.3                 97 %                         55
        0.1             0.3, constant rate  92 %                         86

    The fourth row is the default. Large images follow the multi-resolution setting of the ImageNet
    script (feature 0.01, total variation 1e-4, l2 1e-5, lr 0.25, shifts of 30 in 224 pixels, flips,
    competition 0.2).

    Args:
        size: size of one image.
        fixed_size: the teacher takes no other size, so there is no pooled phase.
    """
    if max(size[1:]) <= SMALL:
        return Settings()
    return Settings(
        images=1000,
        batch_size=64,
        iterations=3000,
        lr=0.25,
        feature=0.01,
        tv=1e-4,
        l2=1e-5,
        competition=0.2,
        jitter=30 / 224,
        flip=True,
        pooled=not fixed_size,
    )
