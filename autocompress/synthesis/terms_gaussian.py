"""Terms that take what a batch norm reads for Gaussian, and a prior that likes smooth images.

Haroush, Hubara, Hoffer, Soudry, "The Knowledge Within: Methods for Data-Free Model Compression", CVPR 2020,
arXiv 1912.01274, sections 3.2 and 3.3 of the digest of the paper that these were written from.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from autocompress.synthesis.statistics import NormInput
from autocompress.synthesis.view import Term, View


def gaussian_divergence(norm: NormInput) -> torch.Tensor:
    """KL divergence of each channel from what was recorded to what is measured, in nats, float ``(C,)``, with gradient.

    KL(N(m^, s^2) || N(m~, s~2)) = log(s~ / s^) - 1/2 [1 - (s^2 + (m^ - m~)^2) / s~2],   ^ recorded, ~ measured

    The recorded one stands first, so a measured spread that collapses is punished without bound. The layer's ``eps``
    is added to both variances, as its forward pass does: dead channels (variance 0) would divide by nothing.
    """
    recorded = norm.reference_variance + norm.eps
    measured = norm.variance + norm.eps
    shift = norm.reference_mean - norm.mean
    return 0.5 * (measured / recorded).log() - 0.5 * (1 - (recorded + shift.square()) / measured)


def mean_divergence(norms: list[NormInput] | tuple[NormInput, ...]) -> torch.Tensor:
    """L_BNS: mean over the channels of a layer, then mean over the layers, scalar. (The paper's order of averaging is
    not known to us; this one lets each layer count the same.)

    Raises:
        ValueError: without a batch norm.
    """
    if not norms:
        raise ValueError("there is no batch norm to compare statistics with")
    return torch.stack([gaussian_divergence(norm).mean() for norm in norms]).mean()


def batch_norm_divergence(view: View) -> torch.Tensor:
    """L_BNS of the batch, scalar (see :func:`mean_divergence`)."""
    return mean_divergence(tuple(view.norms))


def blur_residual(sigma: float = 1.0, radius: int = 1) -> Term:
    """P(x) = mean ||x - G_sigma * x||^2 over all values: nothing for a flat image, much for a checkerboard.

    Args:
        sigma: of the Gaussian kernel, in pixels.
        radius: the kernel is ``2 radius + 1`` wide; less where an image is too small to be reflected that far.
    """

    def residual(view: View) -> torch.Tensor:
        return (view.images - blurred(view.images, sigma, radius)).square().mean()

    return residual


def blurred(images: torch.Tensor, sigma: float = 1.0, radius: int = 1) -> torch.Tensor:
    """``images`` ``(B, C, H, W)`` under a Gaussian kernel, each channel by itself, reflected at the border."""
    channels = images.shape[1]
    for dim in (2, 3):
        reach = min(radius, images.shape[dim] - 1)  # reflecting needs that many pixels beyond the border's
        places = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
        line = torch.exp(-places.square() / (2 * sigma**2))
        line = line / line.sum()
        shape = (channels, 1, -1, 1) if dim == 2 else (channels, 1, 1, -1)
        kernel = line.view(1, 1, *shape[2:]).expand(channels, -1, -1, -1)
        pad = (0, 0, reach, reach) if dim == 2 else (reach, reach, 0, 0)
        images = F.conv2d(F.pad(images, pad, mode="reflect"), kernel, groups=channels)
    return images
