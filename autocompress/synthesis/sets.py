"""From images to a transfer set, and how good they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from autocompress.contract import TransferSet
from autocompress.data import DataInfo, TensorSplit
from autocompress.data.split import stratified
from autocompress.files import digest
from autocompress.models import device_of
from autocompress.synthesis.frozen import frozen
from autocompress.synthesis.statistics import norm_layers, watching_norms
from autocompress.synthesis.terms import feature_distance
from autocompress.synthesis.view import View

CALIBRATION_IMAGES = 1024
"""At most, as of a user's own data."""
PAIRS_OF = 256
"""Diversity is measured among at most so many images."""


def teacher_logits(teacher: nn.Module, images: torch.Tensor, batch_size: int = 256) -> torch.Tensor:
    """What the teacher says of normalised images: float32 ``(N, K)`` on the CPU.

    The teacher stays as it is.
    """
    device = device_of(teacher)
    with frozen(teacher), torch.no_grad():
        found = [teacher(batch.to(device)).float().cpu() for batch in images.split(batch_size)]
    return torch.cat(found)


def transfer_set(
    images: torch.Tensor,
    logits: torch.Tensor,
    info: DataInfo,
    *,
    temperature: float = 1.0,
    demands: Sequence[str] = (),
    made_by: Sequence[Any] = (),
    stored: bool = True,
    held_out: int = 0,
    calibration_images: int = CALIBRATION_IMAGES,
    seed: int = 0,
) -> TransferSet:
    """Images with the teacher's answers as a transfer set.

    Labels are the teacher's own arg-max, not those that the images were made for; they are not the
    user's, and the set says so.

    Args:
        images: float32 ``(N, C, H, W)`` on the CPU, normalised.
        logits: of the teacher, float32 ``(N, K)``: see :func:`teacher_logits`.
        info: see :func:`data_info`.
        temperature: at which soft targets are meant.
        demands: what training on the images must respect.
        made_by: JSON values that belong to the content key beside the images and the targets.
        stored: the logits become the soft targets. False: there are none, and whoever trains asks
            the teacher again, on the images as they are augmented.
        held_out: so many images, of all classes, are kept out of ``train`` and are ``calibration``;
            0: calibration is a part of ``train``.
        calibration_images: the most of them where none are held out.
        seed: of that choice.
    """
    images, logits = images.detach().float().contiguous(), logits.detach().float()
    every = TensorSplit(images, logits.argmax(1), info)
    train, calibration, soft = every, every, logits
    if held_out:
        apart, rest = stratified(every.labels(), held_out, seed)
        train, calibration, soft = every.take(rest), every.take(apart), logits[rest]
    else:
        calibration = every.subset(calibration_images, seed)
    key = digest(
        every.digest, logits.numpy().tobytes(), temperature, sorted(demands), stored, held_out, seed, list(made_by)
    )
    return TransferSet(
        train=train,
        calibration=calibration,
        digest=key,
        soft_targets=soft if stored else None,
        temperature=temperature,
        labelled=False,
        demands=frozenset(demands),
    )


def quality(
    teacher: nn.Module, images: torch.Tensor, labels: torch.Tensor | None = None, batch_size: int = 256
) -> dict[str, float]:
    """How good images are, as far as the teacher can tell.

    No one figure suffices: images that mean nothing can have the teacher's full agreement.

    Args:
        images: float32 ``(N, C, H, W)``, normalised.
        labels: int64 ``(N,)`` that they were made for, if any.
        batch_size: statistics are taken of so many images at a time.

    Returns:
        agreement: percent of the images that the teacher gives their label (with ``labels``).
        confidence: mean of the teacher's highest probability, 0 to 1.
        feature_distance: R_feature, mean over the batches (of a teacher with batch norms).
        diversity: mean distance between two of the images, l2 over pixels, divided by the root of
            their number.
    """
    device, distances, answers = device_of(teacher), [], []
    has_norms = bool(norm_layers(teacher))
    with frozen(teacher), torch.no_grad(), watching_norms(teacher) as norms:
        for batch in images.split(batch_size):
            z = batch.to(device)
            answers.append(teacher(z).float().cpu())
            if has_norms:
                view = View(z, answers[-1], tuple(norms))
                distances.append((len(batch), float(feature_distance()(view))))
    logits = torch.cat(answers)
    found = {"confidence": float(logits.softmax(1).max(1).values.mean()), "diversity": diversity(images)}
    if labels is not None:
        found["agreement"] = 100 * float((logits.argmax(1) == labels).float().mean())
    if distances:
        found["feature_distance"] = sum(n * value for n, value in distances) / len(images)
    return found


def diversity(images: torch.Tensor) -> float:
    """Mean root-mean-square distance of two images; 0 for fewer than two."""
    some = images[:PAIRS_OF].flatten(1).double()
    return float(torch.pdist(some).mean()) / some.shape[1] ** 0.5 if len(some) > 1 else 0.0
