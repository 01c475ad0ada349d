"""Similarity of images to the training data of a network, computed from its batch norms.

The training data is not needed. Haroush et al., "The Knowledge Within", CVPR 2020, arXiv
1912.01274: J(D; M) = L_BNS(D) for any data set D.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import nn

from autocompress.data import Split
from autocompress.errors import UserError
from autocompress.synthesis.statistics import (
    NormInput,
    input_statistics,
    reasons_against_statistics,
    watching_norms,
)
from autocompress.synthesis.terms_gaussian import Divergence, mean_divergence

Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]


@dataclass
class _Pooled:
    """Mean and biased variance of the input of one layer over several batches, float64 ``(C,)``.

    Equivalent to sums of x and x^2, but without cancellation where the mean is large.
    """

    last: NormInput
    images: int
    mean: torch.Tensor
    variance: torch.Tensor

    def add(self, norm: NormInput, images: int) -> None:
        # All images have equally many positions in a layer, so batches are weighted by their
        # images.
        total, mean = self.images + images, norm.mean.double()
        shift = mean - self.mean
        part = images / total
        self.variance = (1 - part) * self.variance + part * norm.variance.double()
        self.variance += part * (1 - part) * shift.square()
        self.mean = self.mean + part * shift
        self.images = total

    def result(self) -> NormInput:
        return replace(
            self.last,
            mean=self.mean,
            variance=self.variance,
            reference_mean=self.last.reference_mean.double(),
            reference_variance=self.last.reference_variance.double(),
        )


@torch.no_grad()
def pooled_statistics(
    model: nn.Module,
    images: Split | Batches,
    *,
    device: torch.device | str | None = None,
    batch_size: int = 128,
    progress: Callable[[int], None] | None = None,
) -> list[NormInput]:
    """Statistics of ``images`` and of the inputs of all batch norms, float64, in network order.

    The images come first, under the name "input" and with reference N(0, 1).

    Args:
        model: copied and used in eval mode; not changed.
        images: a split, or batches of images float32 ``(N, C, H, W)``, normalised, with labels.
        device: where torch computes; None for the device of the model.
        batch_size: batch size of a split; it does not change the result.
        progress: called with the number of images so far.

    Raises:
        UserError: if the model has no usable batch norm, or there is no image.
    """
    if reasons := reasons_against_statistics(model):
        raise UserError(f"similarity cannot be computed with this model: {reasons[0]}")
    own = next(model.parameters()).device
    device = own if device is None else torch.device(device)
    model = copy.deepcopy(model).to(device).eval()
    pooled: list[_Pooled] = []
    seen = 0
    with watching_norms(model) as norms:
        for batch, _ in images.loader(batch_size) if isinstance(images, Split) else images:
            batch = batch.to(device)
            model(batch)
            read = [input_statistics(batch), *norms]
            if not pooled:
                pooled = [_Pooled(n, 0, torch.zeros_like(n.mean.double()), n.variance.double()) for n in read]
            for layer, norm in zip(pooled, read, strict=True):
                layer.add(norm, len(batch))
            seen += len(batch)
            if progress is not None:
                progress(seen)
    if not seen:
        raise UserError("there are no images to compare with the model")
    return [layer.result() for layer in pooled]


def similarity(
    model: nn.Module,
    images: Split | Batches,
    *,
    divergence: Divergence = "measured",
    device: torch.device | str | None = None,
    batch_size: int = 128,
    progress: Callable[[int], None] | None = None,
) -> float:
    """J(D; M) = L_BNS(D), in nats, at least 0; lower means more similar to the training data.

    It compares the statistics of the inputs of batch norms for ``images`` with the statistics that
    the batch norms recorded in training. The images are treated as one more layer, with reference
    N(0, 1). Statistics are those of all images together, not averages over batches.

    Values are relative: compare data sets of equal size on one model, and do not compare models.
    Even images of the same distribution have about 1/n, where n is the number of independent
    positions (in deep layers about the number of images). So small sets are biased upward.

    Args:
        model: model with trained batch norms; it is not changed.
        images: a split, or batches of normalised images ``(N, C, H, W)`` with labels.
        divergence: "measured", the authors' KL(measured || recorded), or "recorded", the other
            direction. Values of the two cannot be compared.
        device, batch_size, progress: as in :func:`pooled_statistics`.

    Raises:
        UserError: if the model has no usable batch norm, or there is no image.
    """
    pooled = pooled_statistics(model, images, device=device, batch_size=batch_size, progress=progress)
    return float(mean_divergence(pooled, divergence))
