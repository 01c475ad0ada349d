"""Terms that model inputs of batch norms as Gaussian, and a prior for smooth images.

Haroush, Hubara, Hoffer, Soudry, "The Knowledge Within: Methods for Data-Free Model Compression",
CVPR 2020, arXiv 1912.01274, and the authors' code (amishacorns/quantized.pytorch,
``Generator_m.py``), which is followed where the paper has no detail.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F

from autocompress.synthesis.statistics import NormInput, input_statistics
from autocompress.synthesis.view import Term, View

Divergence = Literal["measured", "recorded"]
"""The first distribution in the KL divergence.

"measured" is the authors' KL(measured || recorded). "recorded" is KL(recorded || measured), which
is much larger for a measured variance near 0.
"""


def gaussian_divergence(norm: NormInput, divergence: Divergence = "measured") -> torch.Tensor:
    """KL divergence between recorded and measured statistics by channel, in nats, float ``(C,)``.

    KL(N(m, v) || N(r, w)) = 1/2 [log(w / v) + (v + (m - r)^2) / w - 1]

    With "measured", m and v are the measured mean and variance, and r and w are the recorded ones;
    with "recorded" they are exchanged. The ``eps`` of the layer is added to both variances, as in
    its forward pass, to avoid division by 0 for dead channels. The result has a gradient.
    """
    recorded = norm.reference_variance + norm.eps
    measured = norm.variance + norm.eps
    shift = (norm.reference_mean - norm.mean).square()
    first, second = (measured, recorded) if divergence == "measured" else (recorded, measured)
    return 0.5 * ((second / first).log() + (first + shift) / second - 1)


def mean_divergence(norms: Sequence[NormInput], divergence: Divergence = "measured") -> torch.Tensor:
    """Mean over channels of a layer, then over layers, as in the authors' code; scalar.

    Raises:
        ValueError: without a layer.
    """
    if not norms:
        raise ValueError("there is no batch norm to compare statistics with")
    return torch.stack([gaussian_divergence(norm, divergence).mean() for norm in norms]).mean()


def batch_norm_divergence(divergence: Divergence = "measured") -> Term:
    """L_BNS of a batch: :func:`mean_divergence` over all batch norms and the images.

    The normalised images are treated as one more layer, with reference N(0, 1).
    """

    def loss(view: View) -> torch.Tensor:
        if not view.norms:
            return mean_divergence((), divergence)
        return mean_divergence((input_statistics(view.images), *view.norms), divergence)

    return loss


def blur_residual(sigma: float = 1.0, radius: int = 2) -> Term:
    """P(x) = mean ||x - G_sigma * x||^2: small for smooth images, large for a checkerboard.

    The authors use a 5x5 kernel with sigma 1, on images padded with zeros.

    Args:
        sigma: sigma of the Gaussian kernel, in pixels.
        radius: the kernel is ``2 radius + 1`` wide.
    """

    def residual(view: View) -> torch.Tensor:
        return (view.images - blurred(view.images, sigma, radius)).square().mean()

    return residual


def blurred(images: torch.Tensor, sigma: float = 1.0, radius: int = 2) -> torch.Tensor:
    """``images`` ``(B, C, H, W)`` blurred by a Gaussian kernel, padded with zeros."""
    channels = images.shape[1]
    places = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    line = torch.exp(-places.square() / (2 * sigma**2))
    line = line / line.sum()
    for kernel, padding in ((line.view(1, 1, -1, 1), (radius, 0)), (line.view(1, 1, 1, -1), (0, radius))):
        images = F.conv2d(images, kernel.expand(channels, -1, -1, -1), padding=padding, groups=channels)
    return images
