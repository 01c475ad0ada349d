"""Rules for data sets."""

from __future__ import annotations

import hashlib
import itertools

import torch

from autocompress.data import DataInfo, DatasetProvider, LoadOptions, Source, Split
from autocompress.testing.rules import Report, require

SAMPLE = 8
"""The number of images of each split that are checked."""
UNNORMALISED = 50.0
"""An absolute value above this is an error, because a normalised image never reaches it."""
MOST_HASHED = 2048
"""The number of images of each split that are compared with those of the other splits."""
MOST_SHARED = 0.05
"""Share of images that two splits may have in common: some data sets repeat a picture."""


def check_dataset(provider: DatasetProvider, spec: str | None = None) -> None:
    """Loads a data set twice, and checks everything that the engine relies on.

    Args:
        provider: the provider of the data set.
        spec: the word in a job; the provider's name by default.

    Raises:
        ContractViolation: if a rule is broken; the message lists all broken rules.
    """
    spec = provider.name if spec is None else spec
    report = Report()
    report.check(_check_words, provider, spec)
    loaded = [report.check(provider.open, spec, LoadOptions()) for _ in range(2)]
    first, second = loaded
    if isinstance(first, Source) and isinstance(second, Source):
        report.check(_check_source, first)
        for role in ("train", "val", "test"):
            own, again = getattr(first, role), getattr(second, role)
            if own is not None:
                report.check(_check_labels, role, own, first.info)
                if not isinstance(own, Split) or not len(own):
                    continue
                report.check(_check_info, role, own.info, first.info)
                report.check(_check_images, role, own, first)
                report.check(_check_again, role, own, again)
        report.check(_check_normalised, first)
        report.check(_check_apart, first)
        for role in ("val", "test"):
            report.check(_check_classes, role, first)
    elif not report.rules:
        report.rules.append("load must return a Source")
    preview = report.check(provider.open, spec, LoadOptions(preview=True))
    if isinstance(first, Source) and isinstance(preview, Source):
        report.check(_check_preview, first, preview)
    report.end()


def _check_words(provider: DatasetProvider, spec: str) -> None:
    require(bool(provider.name.strip()), "a data set must have a name")
    require(provider.claims(spec) is True, f"claims must be True for the provider's own word, {spec!r}")
    require(provider.claims("no such data set") is False, "claims must be False for words of other data sets")
    require(isinstance(provider.anchored(spec), str), "anchored must return a text")


def _check_source(source: Source) -> None:
    there = [split for split in (source.train, source.val, source.test) if split is not None]
    require(bool(there), "a data set must have a split")
    info = source.info
    require(isinstance(info, DataInfo), "info must be a DataInfo")
    if source.labelled:
        is_regression = any(_is_of_another_task(split.labels()) for split in there)
        require(is_regression or info.num_classes >= 2, "a labelled data set must have two classes or more")
        require(len(info.class_names) == info.num_classes, "class_names must have one name for each class")
    channels = len(info.mean) == len(info.std) == info.channels
    require(channels and min(info.std) > 0, "mean and std must have one number for each channel, and std be above 0")
    in_units = all(0 <= mean <= 1 for mean in info.mean) and all(std <= 1 for std in info.std)
    require(in_units, "mean and std must be in units of pixels from 0 to 1: divide numbers of 0 to 255 by 255")
    require(all(isinstance(note, str) and note for note in source.notes), "notes must be sentences")


def _check_labels(role: str, split: Split, info: DataInfo) -> None:
    require(isinstance(split, Split) and len(split) > 0, f"{role} must be a Split with images")
    labels = split.labels()
    if _is_of_another_task(labels):
        require(len(labels) == len(split), f"labels of {role} must be one an image")
        return
    require(labels.dtype == torch.int64 and len(labels) == len(split), f"labels of {role} must be int64, one an image")
    fit = info.num_classes == 0 or bool((labels >= 0).all() and (labels < info.num_classes).all())
    require(fit, f"labels of {role} must lie between 0 and the number of classes")


def _check_info(role: str, own: DataInfo, info: DataInfo) -> None:
    """Checks that a split has the description of its source: all are normalised in one way."""
    names = ("num_classes", "class_names", "channels", "size", "mean", "std")
    other = [name for name in names if getattr(own, name) != getattr(info, name)]
    require(not other, f"info of {role} must be that of the data set: {', '.join(other)} differ")


def _check_normalised(source: Source) -> None:
    """Checks that float images are normalised by the mean and std of ``info``.

    Some pixels are darker than the mean, so some normalised numbers are below 0.
    """
    if max(source.info.mean, default=0) == 0:
        return
    there = [split for split in (source.train, source.val, source.test) if split is not None and len(split)]
    images = torch.cat([_some(split)[0].flatten() for split in there])
    low, high = float(images.min()), float(images.max())
    require(
        low < 0 or high > 1,
        f"images must be normalised by mean and std of info, (pixel - mean) / std; those looked at reach from "
        f"{low:.2g} to {high:.2g}, as pixels do: keep uint8 pixels, which the engine normalises, or give mean 0 and "
        "std 1",
    )


def _is_of_another_task(labels: torch.Tensor) -> bool:
    """Whether the labels are vectors, or no integers: targets of another task."""
    return labels.ndim > 1 or labels.is_floating_point()


def _check_images(role: str, split: Split, source: Source) -> None:
    images, labels = _some(split)
    info = source.info
    require(images.dtype == torch.float32, f"{role} must give float32 images")
    require(bool(images.isfinite().all()), f"{role} must give finite numbers")
    require(images.shape[1] == info.channels, f"{role} must give images of {info.channels} channels, as info says")
    require(
        tuple(images.shape[2:]) == tuple(info.size),
        f"{role} must give images of {info.size} pixels, as info says, not {tuple(images.shape[2:])}",
    )
    require(
        float(images.abs().max()) < UNNORMALISED,
        f"{role} must give normalised images, (pixel - mean) / std with pixels from 0 to 1; they reach "
        f"{float(images.abs().max()):.0f}: keep uint8 pixels, which the engine normalises, or divide by 255",
    )
    given = split.labels()
    require(
        not source.labelled or bool(torch.isin(labels, given).all()),
        f"labels() of {role} must be the labels that its batches give",
    )


def _check_again(role: str, split: Split, again: Split) -> None:
    own, other = _some(split), _some(again)
    same = torch.equal(own[0], other[0]) and torch.equal(own[1], other[1])
    require(same, f"{role} must give the same images each time that it is loaded")
    require(split.digest == again.digest, f"{role} must have the same digest each time that it is loaded")


def _some(split: Split) -> tuple[torch.Tensor, torch.Tensor]:
    """A few images and their labels."""
    return next(iter(split.subset(min(SAMPLE, len(split)), 0).loader(SAMPLE)))


def _check_apart(source: Source) -> None:
    splits = {role: split for role in ("train", "val", "test") if (split := getattr(source, role)) is not None}
    digests = [split.digest for split in splits.values()]
    require(len(set(digests)) == len(digests), "no two splits may hold the same images")
    seen = {role: _hashes(split) for role, split in splits.items()}
    for one, other in itertools.combinations(splits, 2):
        shared = len(seen[one] & seen[other]) / max(1, min(len(seen[one]), len(seen[other])))
        require(
            shared <= MOST_SHARED,
            f"{one} and {other} share images ({shared:.0%} of those looked at): accuracy would be that of images that "
            "were trained on",
        )


def _hashes(split: Split) -> set[bytes]:
    """Hashes of the first images of a split.

    Splits keep the order of their data set, so splits that overlap often share their first images.
    """
    found: set[bytes] = set()
    for images, _ in split.loader(64):
        found |= {hashlib.blake2b(image.numpy().tobytes(), digest_size=16).digest() for image in images}
        if len(found) >= MOST_HASHED:
            break
    return found


def _check_classes(role: str, source: Source) -> None:
    """Checks that the validation and test images have no class without training images."""
    split = getattr(source, role)
    if not source.train or not split or not source.labelled or not source.info.task.is_classification:
        return
    if any(_is_of_another_task(one.labels()) for one in (source.train, split)):
        return
    classes = set(split.labels().unique().tolist())
    unknown = sorted(classes - set(source.train.labels().unique().tolist()))
    require(not unknown, f"{role} has classes of which train has no image ({unknown[:5]}): split each class alike")
    require(len(classes) > 1, f"{role} has images of one class only: split each class alike, or shuffle first")


def _check_preview(whole: Source, preview: Source) -> None:
    for role in ("train", "val", "test"):
        one, other = getattr(whole, role), getattr(preview, role)
        same = (one is None) == (other is None) and (one is None or len(one) == len(other))
        require(same, f"a preview must have as many {role} images as the data set, though it may read few")
    require(whole.info.num_classes == preview.info.num_classes, "a preview must have the classes of the data set")
