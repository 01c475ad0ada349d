"""Makes a transfer set from images, and measures the quality of images."""

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
"""Maximum number of calibration images, as for data of the user."""
PAIRS_OF = 256
"""Maximum number of images among which diversity is measured."""


def teacher_logits(teacher: nn.Module, images: torch.Tensor, batch_size: int = 256) -> torch.Tensor:
    """Logits of the teacher for normalised images: float32 ``(N, K)`` on the CPU.

    The teacher is not changed.
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
    """A transfer set of images with the outputs of the teacher.

    Labels are the arg-max of the teacher, not the classes for which images were made. The set is
    marked as unlabelled.

    Args:
        images: float32 ``(N, C, H, W)`` on the CPU, normalised.
        logits: logits of the teacher, float32 ``(N, K)``; see :func:`teacher_logits`.
        info: see :func:`data_info`.
        temperature: temperature of the soft targets.
        demands: requirements on training with these images.
        made_by: JSON values for the content key, in addition to images and targets.
        stored: True: the logits become the soft targets. False: the targets in training are the
            outputs of the teacher for the augmented images.
        held_out: number of images, of all classes, that become ``calibration`` and are not in
            ``train``; with 0, calibration is a part of ``train``.
        calibration_images: maximum number of calibration images where none are held out.
        seed: random seed for the choice of calibration images.
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
    """Quality of images, measured with the teacher.

    No single figure is enough: meaningless images can have full agreement of the teacher.

    Args:
        images: float32 ``(N, C, H, W)``, normalised.
        labels: the classes for which they were made, int64 ``(N,)``, if any.
        batch_size: number of images per batch for statistics.

    Returns:
        agreement: percent of the images that the teacher assigns to their label (with ``labels``).
        confidence: mean of the highest probability of the teacher, 0 to 1.
        feature_distance: R_feature, mean over batches (for a teacher with batch norms).
        diversity: mean distance between two images: l2 norm over pixels, divided by the square root
            of their number.
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
    """Mean root-mean-square distance of two images; 0 for fewer than two images."""
    some = images[:PAIRS_OF].flatten(1).double()
    return float(torch.pdist(some).mean()) / some.shape[1] ** 0.5 if len(some) > 1 else 0.0
