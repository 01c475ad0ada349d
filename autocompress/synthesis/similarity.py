"""How close images are to what a network was trained on, read from its batch norms.

No original data is needed.

Haroush et al., "The Knowledge Within", CVPR 2020, arXiv 1912.01274: J(D; M) = L_BNS(D) for any data
set D.
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
    """Mean and biased variance of one layer's input over several batches, float64 ``(C,)``.

    The same as sum x and sum x^2 over all of them, merged so that nothing cancels where the mean is
    large.
    """

    last: NormInput
    images: int
    mean: torch.Tensor
    variance: torch.Tensor

    def add(self, norm: NormInput, images: int) -> None:
        # Every image has as many places in a layer as any other: images are weights enough.
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
    """Statistics over all of ``images`` taken together, float64: first the images themselves (under
    the name "input", beside N(0, 1)), then what each batch norm of ``model`` reads, in network
    order.

    Args:
        model: used in eval mode, as a copy; left as it is.
        images: a split, or batches of images float32 ``(N, C, H, W)``, normalised, with labels.
        device: where torch computes; None for where the model is.
        batch_size: of a split; it does not change the result.
        progress: called with the number of images seen.

    Raises:
        UserError: where the model has no usable batch norm, or there is no image.
    """
    if reasons := reasons_against_statistics(model):
        raise UserError(f"similarity cannot be read from this model: {reasons[0]}")
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
    """J(D; M) = L_BNS(D), in nats: how far what the batch norms of ``model`` read of ``images`` is
    from what they recorded in training. The images themselves count as one more layer, against N(0,
    1). 0 or more; lower is closer.

    The reading is relative: compare data sets on one model, never models, and data sets of equal
    size. Even images of the right distribution score about 1/n, n the number of independent places
    (about images in deep layers), so small sets are biased upward. Statistics are those of all
    images together, not averages over batches.

    Args:
        model: with batch norms that were trained; left as it is.
        images: a split, or batches of normalised images ``(N, C, H, W)`` with labels.
        divergence: "measured", the authors' KL(measured || recorded), or "recorded", the other
            direction. Readings of the two do not compare.
        device, batch_size, progress: as in :func:`pooled_statistics`.

    Raises:
        UserError: where the model has no usable batch norm, or there is no image.
    """
    pooled = pooled_statistics(model, images, device=device, batch_size=batch_size, progress=progress)
    return float(mean_divergence(pooled, divergence))
