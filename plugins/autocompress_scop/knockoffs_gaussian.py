"""Second-order Gaussian knockoffs (Candes et al., "Panning for Gold", 2018, section 3.4.1).

    X~ | X  ~  N( X - D S^-1 (X - mu),  2D - D S^-1 D ),    D = diag(s),    0 <= D <= 2S

so that (X, X~) has the covariance [[S, S - D], [S - D, S]]: swapping any coordinates does not
change the second moments. They are equicorrelated: one s for all coordinates, in units of their
variance, s = min(2 lambda_min(R), 1), where R are the correlations.

On whole images lambda_min is nearly 0 and X~ nearly X, so the control scales would have no
gradient. So this is done on patches (with one S for all places, and a mean for each pixel) with
shrunk correlations, R <- (1 - r) R + r I. Both are approximations: patches of one image are drawn
independently of each other, given the image, and the moments are those of the shrunk model.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from autocompress.data import Split

BATCH = 128
LEAST_DISTANCE = 0.01
"""Minimum s for which knockoffs differ enough from the images."""
SAME = 1e-10
"""Largest variance of equal images by rounding, in squared units of normalised images."""


class SecondOrder:
    """Knockoffs of vectors with a known mean and covariance.

    Args:
        mean: mu, float ``(d,)`` or broadcastable to the vectors.
        covariance: S, float ``(d, d)``.
        shrinkage: r of the correlations, 0 to 1.

    Attributes:
        covariance: S after shrinkage, float64 ``(d, d)``.
        s: the equicorrelated s, in units of the variance.
        distance: D's diagonal, float64 ``(d,)``: s times the variances.
        conditional: covariance of X~ given X, 2D - D S^-1 D, float64 ``(d, d)``.
    """

    def __init__(self, mean: torch.Tensor, covariance: torch.Tensor, shrinkage: float = 0.0) -> None:
        covariance = covariance.double()
        deviation = covariance.diagonal().clamp_min(0).sqrt()
        # Almost constant pixels (a black margin) would have correlations of rounding errors.
        deviation = deviation.clamp_min(max(float(deviation.max()) * 1e-3, 1e-6))
        correlation = covariance / deviation.outer(deviation)
        correlation = (1 - shrinkage) * correlation + shrinkage * torch.eye(len(deviation), dtype=torch.float64)
        values, vectors = torch.linalg.eigh(correlation)
        self.s = min(2 * float(values[0].clamp_min(0)), 1.0)
        if self.s < LEAST_DISTANCE:
            raise ValueError(f"the knockoffs would be the images themselves (s = {self.s:.1e}): shrink more")
        self.covariance = correlation * deviation.outer(deviation)
        self.distance = self.s * deviation**2
        # In the eigenbasis of R: D S^-1 is s / lambda, and 2D - D S^-1 D is 2 s - s^2 / lambda.
        own = (2 * self.s - self.s**2 / values).clamp_min(0)
        self.conditional = (vectors * own) @ vectors.T * deviation.outer(deviation)
        pull = deviation[:, None] * ((vectors * (self.s / values)) @ vectors.T) / deviation
        root = deviation[:, None] * (vectors * own.sqrt()) @ vectors.T
        self._mean, self._pull, self._root = mean.float(), pull.float(), root.float()

    def __call__(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """X~ for vectors X, float32 ``(..., d)``; noise is drawn on the CPU from ``generator``."""
        self._mean, self._pull, self._root = (t.to(x.device) for t in (self._mean, self._pull, self._root))
        noise = torch.randn(x.shape, generator=generator).to(x.device)
        return x - (x - self._mean) @ self._pull.T + noise @ self._root.T


class PatchGaussian:
    """Second-order knockoffs of images, patch by patch.

    Args:
        split: images to take mean and covariance from, as its loader gives them (normalised).
        patch: side of a patch in pixels; at most the image's.
        shrinkage: shrinkage of the patches' correlations.
    """

    def __init__(self, split: Split, patch: int = 8, shrinkage: float = 0.2) -> None:
        self.patch = min(patch, *split.input_size[1:])
        total = torch.zeros(split.input_size, dtype=torch.float64)
        for images, _ in split.loader(BATCH):
            total += images.double().sum(0)
        self.mean = (total / len(split)).float()
        products, count = torch.zeros(()).double(), 0
        for images, _ in split.loader(BATCH):
            vectors = to_patches(images - self.mean, self.patch).flatten(0, 1).double()
            products = products + vectors.T @ vectors
            count += len(vectors)
        if float(products.diagonal().max()) <= SAME * count:
            raise ValueError("all images are the same, and so would their knockoffs be")
        self.law = SecondOrder(torch.zeros(()), products / count, shrinkage)

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Knockoffs of float32 images ``(N, C, H, W)``, in the same normalised space."""
        mean = self.mean = self.mean.to(images.device)
        vectors = self.law(to_patches(images - mean, self.patch), generator)
        return from_patches(vectors, self.patch, images.shape[1:]) + mean


def to_patches(images: torch.Tensor, patch: int) -> torch.Tensor:
    """``(N, C, H, W)`` to ``(N, places, C * patch^2)``; edges are repeated up to a multiple."""
    down, right = -images.shape[2] % patch, -images.shape[3] % patch
    padded = F.pad(images, (0, right, 0, down), mode="replicate") if down or right else images
    n, c, h, w = padded.shape
    blocks = padded.reshape(n, c, h // patch, patch, w // patch, patch).permute(0, 2, 4, 1, 3, 5)
    return blocks.reshape(n, (h // patch) * (w // patch), c * patch * patch)


def from_patches(vectors: torch.Tensor, patch: int, shape: torch.Size) -> torch.Tensor:
    """The reverse of :func:`to_patches`, for images of ``shape`` ``(C, H, W)``."""
    c, h, w = shape
    rows, columns = -(-h // patch), -(-w // patch)
    blocks = vectors.reshape(-1, rows, columns, c, patch, patch).permute(0, 3, 1, 4, 2, 5)
    return blocks.reshape(-1, c, rows * patch, columns * patch)[:, :, :h, :w]
