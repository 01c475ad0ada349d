"""Knockoff images: SCOP's control group, made without labels.

``gaussian`` is the default. It takes less than a second, needs no training, and keeps the second
moments by construction. In our comparisons, no other kind chose clearly better channels (resnet10t
on digits with all four kinds, on glyphs with ``permute``; accuracy before recovery), and the
trained ones took 70 s and more.

The generators of the paper are not published. The official code has weights of generators whose
only input is noise (``gan_uncond``).

All kinds give images in the normalised space of the loader. The official generators end in tanh,
[-1, 1], while the real images have values of about [-2.1, 2.6]; this defect is not repeated here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from autocompress.data import Split
from autocompress_scop.knockoffs_gan import ConditionalGan, UnconditionalGan
from autocompress_scop.knockoffs_gaussian import PatchGaussian

KINDS = ("gaussian", "gan_cond", "gan_uncond", "permute")
IMAGES = 1024
"""Maximum number of images to which a kind is fitted."""


class Knockoffs(Protocol):
    """X -> X~, both float32 ``(N, C, H, W)`` and normalised.

    All draws come from ``generator``, on the CPU.
    """

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor: ...


class Permute:
    """For each image another image of the batch, by a random rotation.

    It is cheap and independent of X, so it is a knockoff for the full swap only; an ablation.

    Args:
        split: images from which the partner for a batch of one image is drawn.
    """

    def __init__(self, split: Split) -> None:
        if len(split) < 2:
            raise ValueError("a permutation needs at least two images")
        self._split = split

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Image i gets image i + k, k drawn from 1 .. N - 1."""
        if len(images) > 1:
            return images.roll(-int(torch.randint(1, len(images), (), generator=generator)), 0)
        for place in torch.randperm(len(self._split), generator=generator).tolist():
            partner = next(iter(self._split.take(torch.tensor([place])).loader(1)))[0].to(images.device)
            if not torch.equal(partner, images):
                return partner
        raise ValueError("all images are the same")


def make(
    kind: str,
    split: Split,
    *,
    seed: int = 0,
    device: torch.device | None = None,
    shrinkage: float = 0.2,
    steps: int = 400,
    progress: Callable[..., None] | None = None,
) -> Knockoffs:
    """Knockoffs of one kind, fitted to (at most 1,024 of) the images of ``split``.

    Args:
        kind: one of :data:`KINDS`.
        split: images; labels are not used.
        seed: random seed.
        device: where a generator is trained.
        shrinkage: shrinkage of the correlations, where a covariance is taken.
        steps: steps of a generator's training.
        progress: called with the finished fraction and a word.

    Raises:
        ValueError: for another kind, or too few images.
    """
    if kind not in KINDS:
        raise ValueError(f"knockoffs must be one of {', '.join(KINDS)}, not {kind!r}")
    if len(split) < 2:
        raise ValueError(f"knockoffs need images, at least two of them, and there are {len(split)}")
    images = split.subset(IMAGES, seed)
    if kind == "gaussian":
        return PatchGaussian(images, shrinkage=shrinkage)
    if kind == "permute":
        return Permute(images)
    device = device or torch.device("cpu")
    if kind == "gan_uncond":
        return UnconditionalGan(images, steps=steps, seed=seed, device=device, progress=progress)
    return ConditionalGan(images, steps=steps, seed=seed, device=device, shrinkage=shrinkage, progress=progress)
