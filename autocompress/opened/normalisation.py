"""Checks whether weights of the user were trained with another normalisation of images.

A state dict does not contain the normalisation, and a wrong mean and std lowers accuracy by some
points without an error. Two signs are computed from the same images under each common
normalisation:

- The first batch norm recorded mean and variance of its input in training. Under the right
  normalisation, the input has similar statistics (the divergence of Haroush et al., "The Knowledge
  Within", CVPR 2020, for this layer).
- Accuracy, compared image by image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.data import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_INCEPTION_MEAN,
    IMAGENET_INCEPTION_STD,
)
from torch import nn

from autocompress.data import Split
from autocompress.data.wanted import spread
from autocompress.files import digest
from autocompress.graph import evaluating
from autocompress.models import device_of
from autocompress.store import Store
from autocompress.synthesis.statistics import NormInput, channel_statistics, norm_layers
from autocompress.synthesis.terms_gaussian import gaussian_divergence

VERSION = 1
"""Version of this comparison, part of its key."""
MOST_IMAGES, LEAST_IMAGES = 512, 64
MOST_VALUES = 2**25
"""Maximum number of values of the images in memory."""
MULTIPLY_ADDS = 4e11
"""Maximum number of multiply-accumulates for accuracies of all normalisations.

``LEAST_IMAGES`` images are scored even if they need more.
"""
LEAST_GAIN_NATS = 0.02
"""Minimum gain of divergence in the first batch norm, more than the effect of augmentation."""
LARGEST_SHARE = 0.25
"""Maximum divergence under the better normalisation, as a share of that under the present one."""
CHANCE, CHANCE_WITH_NORM = 1e-3, 0.05
"""Largest p-value (sign test) of the better accuracy: alone, and with a gain in the batch norm.

The first batch norm alone does not decide: frozen statistics from other data may fit a
normalisation that was not used for training the weights.
"""
LEAST_GAIN_POINTS = 1.0
"""Minimum gain for a note, in percentage points."""


@dataclass(frozen=True)
class Normalisation:
    """A mean and a std, with one number per channel, and a description of their use."""

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def note_on_normalisation(model: nn.Module, split: Split, macs: int, store: Store, key: str) -> str:
    """A note if another normalisation clearly fits ``model`` better than that of ``split``.

    Empty if there is none. The result is stored in ``store``.

    Args:
        model: model with weights from elsewhere, in eval mode.
        split: labelled images of the classes of the model.
        macs: multiply-accumulates of the model for one image.
        store: stores the result.
        key: content key of the model.
    """
    kept = digest("normalisation", VERSION, key, split.digest)
    if store.has(kept) and (found := store.get(kept)) is not None:
        return str(found[1]["note"])
    with torch.no_grad(), evaluating(model):
        note = _note(model, split, macs)
    store.put(kept, {}, {"note": note})
    return note


def _note(model: nn.Module, split: Split, macs: int) -> str:
    held = MOST_VALUES // math.prod(split.input_size)
    some = split.subset(min(max(held, LEAST_IMAGES), MOST_IMAGES))
    own = Normalisation("", split.info.mean, split.info.std)
    raw = [(_raw(images, own), labels) for images, labels in some.loader(64)]
    others = _common(torch.cat([images for images, _ in raw]), own)
    divergences = _divergences(model, raw, [own, *others])
    suspects = others
    if divergences is not None:
        mine, *rest = divergences
        fitting = [(theirs, other) for other, theirs in zip(others, rest, strict=True) if _is_closer(theirs, mine)]
        suspects = [min(fitting, key=lambda pair: pair[0])[1]] if fitting else []
    if not suspects:
        return ""
    affordable = MULTIPLY_ADDS / (max(macs, 1) * (len(suspects) + 1))
    few = _first(raw, int(min(max(affordable, LEAST_IMAGES), MOST_IMAGES)))
    right = _right(model, few, own)
    answers = [(other, _right(model, few, other)) for other in suspects]
    best, best_right = max(answers, key=lambda pair: int(pair[1].sum()))
    better, worse = int((best_right & ~right).sum()), int((right & ~best_right).sum())
    gain = 100 * (better - worse) / len(right)
    limit = CHANCE if divergences is None else CHANCE_WITH_NORM
    if gain < LEAST_GAIN_POINTS or _sign_test(better, worse) >= limit or _is_guess(best_right, few):
        return ""
    told = f"{100 * float(best_right.float().mean()):.1f} instead of {100 * float(right.float().mean()):.1f} % of"
    return (
        f"the weights were probably trained with another normalisation: with {best.name} they classify {told} "
        f"{len(right)} images correctly; to use it, set model_args: {{mean: {_listed(best.mean)}, "
        f"std: {_listed(best.std)}}}"
    )


def _is_closer(theirs: float, mine: float) -> bool:
    return mine - theirs > LEAST_GAIN_NATS and theirs < LARGEST_SHARE * mine


def _raw(images: torch.Tensor, own: Normalisation) -> torch.Tensor:
    """The images with values from 0 to 1."""
    return images * _column(own.std, images) + _column(own.mean, images)


def _common(images: torch.Tensor, own: Normalisation) -> list[Normalisation]:
    """Common normalisations of training scripts, without those that are similar to ``own``."""
    channels = images.shape[1]
    mean = tuple(round(float(v), 4) for v in images.mean((0, 2, 3)))
    std = tuple(round(max(float(v), 1e-3), 4) for v in images.transpose(0, 1).flatten(1).std(1))
    known = [
        Normalisation("the mean and std of these images", mean, std),
        Normalisation("timm's default", IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
        Normalisation("values from -1 to 1", IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD),
        Normalisation("values from 0 to 1", (0.0,), (1.0,)),
        Normalisation("values from 0 to 255", (0.0,), (1 / 255,)),
    ]
    found = []
    for one in known:
        same = Normalisation(one.name, spread(one.mean, channels), spread(one.std, channels))
        if not _alike(same, own):
            found.append(same)
    return found


def _alike(one: Normalisation, other: Normalisation) -> bool:
    """Whether both are almost equal: std within 2 %, and mean within 2 % of a std."""
    return all(
        math.isclose(s, t, rel_tol=0.02) and abs(m - n) < 0.02 * s
        for m, n, s, t in zip(one.mean, other.mean, one.std, other.std, strict=True)
    )


class _Enough(Exception):
    """The first batch norm was reached."""


def _divergences(
    model: nn.Module, raw: Sequence[tuple[torch.Tensor, torch.Tensor]], all_of_them: Sequence[Normalisation]
) -> list[float] | None:
    """For each normalisation, the divergence of the inputs of the first batch norm.

    It is relative to the recorded statistics, in nats per channel. None for a network without batch
    norm.
    """
    layers = norm_layers(model)
    if not layers:
        return None
    return [_divergence(model, layers, [_given(images, one) for images, _ in raw]) for one in all_of_them]


def _divergence(model: nn.Module, layers: Mapping[str, nn.Module], batches: Sequence[torch.Tensor]) -> float:
    read: list[tuple[str, Any, torch.Tensor]] = []

    def stop(name: str, layer: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        read.append((name, layer, inputs[0]))
        raise _Enough

    handles = [
        layer.register_forward_pre_hook(lambda module, inputs, name=name: stop(name, module, inputs))
        for name, layer in layers.items()
    ]
    try:
        for batch in batches:
            try:
                model(batch.to(device_of(model)))
            except _Enough:
                continue
    finally:
        for handle in handles:
            handle.remove()
    if not read:
        return 0.0
    name, layer, _ = read[0]
    moments = [channel_statistics(x) for _, _, x in read]
    weights = torch.tensor([len(x) for _, _, x in read], dtype=torch.float64)
    weights = (weights / weights.sum()).view(-1, 1)
    means, variances = (torch.stack(list(values)).double().cpu() for values in zip(*moments, strict=True))
    mean = (weights * means).sum(0)
    variance = (weights * (variances + (means - mean).square())).sum(0)
    recorded = layer.running_mean.double().cpu(), layer.running_var.double().cpu()
    read_all = NormInput(name, mean, variance, *recorded, float(getattr(layer, "eps", 1e-5)))
    return float(gaussian_divergence(read_all).mean())


def _right(model: nn.Module, raw: Iterator[Any] | Sequence[Any], one: Normalisation) -> torch.Tensor:
    """Whether each image is classified correctly under ``one``: bool ``(N,)``."""
    device = device_of(model)
    found = [model(_given(images, one).to(device)).argmax(1).cpu() == labels for images, labels in raw]
    return torch.cat(found)


def _first(raw: Sequence[tuple[torch.Tensor, torch.Tensor]], most: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """At most ``most`` images, evenly spread, because splits are sorted by class."""
    images, labels = (torch.cat(parts) for parts in zip(*raw, strict=True))
    if len(images) > most:
        chosen = torch.linspace(0, len(images) - 1, most).long()
        images, labels = images[chosen], labels[chosen]
    return list(zip(images.split(64), labels.split(64), strict=True))


def _given(images: torch.Tensor, one: Normalisation) -> torch.Tensor:
    return (images - _column(one.mean, images)) / _column(one.std, images)


def _column(values: Sequence[float], images: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=images.dtype).view(1, -1, 1, 1)


def _is_guess(right: torch.Tensor, raw: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> bool:
    """Whether the number of correct images may be chance, so that no normalisation can fit."""
    labels = torch.cat([labels for _, labels in raw])
    share = float(labels.bincount().max()) / len(labels)
    return float(right.float().mean()) <= share + 3 * math.sqrt(share * (1 - share) / len(labels))


def _sign_test(better: int, worse: int) -> float:
    """Probability of at least ``better`` heads in ``better + worse`` tosses of a coin."""
    n = better + worse
    return sum(math.comb(n, k) for k in range(better, n + 1)) / 2**n


def _listed(values: Sequence[float]) -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in values) + "]"
