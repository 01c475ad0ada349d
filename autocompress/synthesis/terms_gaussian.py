"""Terms that take what a batch norm reads for Gaussian, and a prior that likes smooth images.

Haroush, Hubara, Hoffer, Soudry, "The Knowledge Within: Methods for Data-Free Model Compression",
CVPR 2020, arXiv 1912.01274, and the authors' code (amishacorns/quantized.pytorch,
``Generator_m.py``), which decides where the paper is silent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F

from autocompress.synthesis.statistics import NormInput, input_statistics
from autocompress.synthesis.view import Term, View

Divergence = Literal["measured", "recorded"]
"""Which distribution stands first in the KL divergence.

"measured" is the authors' KL(measured || recorded), "recorded" is KL(recorded || measured), which
punishes a measured variance near 0 far harder."""


def gaussian_divergence(norm: NormInput, divergence: Divergence = "measured") -> torch.Tensor:
    """KL divergence of each channel between what was recorded and what is measured, in nats, float
    ``(C,)``.

    KL(N(m, v) || N(r, w)) = 1/2 [log(w / v) + (v + (m - r)^2) / w - 1]

    With "measured", m and v are the measured mean and variance, r and w the recorded ones; with
    "recorded" the other way round. The layer's ``eps`` is added to both variances, as in its
    forward pass, so that dead channels (variance 0) divide by something. The result has a gradient.
    """
    recorded = norm.reference_variance + norm.eps
    measured = norm.variance + norm.eps
    shift = (norm.reference_mean - norm.mean).square()
    first, second = (measured, recorded) if divergence == "measured" else (recorded, measured)
    return 0.5 * ((second / first).log() + (first + shift) / second - 1)


def mean_divergence(norms: Sequence[NormInput], divergence: Divergence = "measured") -> torch.Tensor:
    """Mean over the channels of a layer, then mean over the layers, as in the authors' code;
    scalar.

    Raises:
        ValueError: without a layer.
    """
    if not norms:
        raise ValueError("there is no batch norm to compare statistics with")
    return torch.stack([gaussian_divergence(norm, divergence).mean() for norm in norms]).mean()


def batch_norm_divergence(divergence: Divergence = "measured") -> Term:
    """L_BNS of a batch: :func:`mean_divergence` over the batch norms and, as one more layer, the
    normalised images themselves against N(0, 1)."""

    def loss(view: View) -> torch.Tensor:
        if not view.norms:
            return mean_divergence((), divergence)
        return mean_divergence((input_statistics(view.images), *view.norms), divergence)

    return loss


def blur_residual(sigma: float = 1.0, radius: int = 2) -> Term:
    """P(x) = mean ||x - G_sigma * x||^2 over all values: little for a smooth image, much for a
    checkerboard.

    The authors' kernel is 5x5 with sigma 1, on images padded with zeros.

    Args:
        sigma: of the Gaussian kernel, in pixels.
        radius: the kernel is ``2 radius + 1`` wide.
    """

    def residual(view: View) -> torch.Tensor:
        return (view.images - blurred(view.images, sigma, radius)).square().mean()

    return residual


def blurred(images: torch.Tensor, sigma: float = 1.0, radius: int = 2) -> torch.Tensor:
    """``images`` ``(B, C, H, W)`` under a Gaussian kernel, each channel by itself, with zeros
    around the image.
    """
    channels = images.shape[1]
    places = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    line = torch.exp(-places.square() / (2 * sigma**2))
    line = line / line.sum()
    for kernel, padding in ((line.view(1, 1, -1, 1), (radius, 0)), (line.view(1, 1, 1, -1), (0, radius))):
        images = F.conv2d(images, kernel.expand(channels, -1, -1, -1), padding=padding, groups=channels)
    return images
