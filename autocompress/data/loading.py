"""From the job's words to three splits: finds the provider, carves what it lacks, makes all three agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from autocompress.data.digits import Digits
from autocompress.data.folder import Folder
from autocompress.data.glyphs import Glyphs
from autocompress.data.provider import DatasetProvider, Source
from autocompress.data.split import DataInfo, Split, Splits, stratified
from autocompress.data.tensors import TensorSplit
from autocompress.data.timm_names import TimmNames
from autocompress.errors import UserError, did_you_mean
from autocompress.job import DataConfig

HELD_OUT = 0.1
"""Part of the images that a missing split takes."""


def builtin_providers() -> list[DatasetProvider]:
    """The data sets that come with the engine."""
    return [Digits(), Glyphs(), Folder(), TimmNames()]


def load(
    config: DataConfig,
    providers: Sequence[DatasetProvider] | None = None,
    *,
    input_size: int | tuple[int, int] | None = None,
    default_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
) -> Splits:
    """Loads the three splits of a job.

    Args:
        config: one name in ``train`` gives all three splits; ``val`` and ``test`` may name their own. Without ``train``
            the training split is empty; with ``test`` alone the validation split is empty too.
        providers: where to look; None for the engine's own.
        input_size: (height, width) that the loaders must give; None for the data's own.
        default_size: what to use instead of ``input_size`` where the images vary in size.
        channels: 1 or 3; None for the data's own.
        mean, std: of a pretrained model; None for the data's own.
        seed: by which missing splits are carved from ``train``.

    Raises:
        UserError: if a name is not known, a data set is missing or broken, or the splits do not fit each other.
    """
    providers = builtin_providers() if providers is None else providers
    words = {role: word for role, word in config.model_dump().items() if word not in (None, "none")}
    if not words:
        raise UserError("the job names no data", "accuracy is measured on images: give data, or at least {val: ...}")
    sources = {word: _provider(word, providers).load(word) for word in dict.fromkeys(words.values())}
    first = sources[next(iter(words.values()))]
    _check_classes({word: source.info for word, source in sources.items()})
    info = _override(first.info, input_size, default_size, channels, mean, std)
    splits = _roles(words, sources, seed)
    train, val, test = (splits[role].prepared(info) for role in ("train", "val", "test"))
    return Splits(train, val, test, info)


def _provider(word: str, providers: Sequence[DatasetProvider]) -> DatasetProvider:
    for provider in providers:
        if provider.claims(word):
            return provider
    hint = did_you_mean(word, [provider.name for provider in providers])
    if Path(word).expanduser().is_dir():
        hint = f"for a folder of images write folder:{word}"
    raise UserError(f"unknown data set '{word}'", hint)


def _roles(words: dict[str, str], sources: dict[str, Source], seed: int) -> dict[str, Split]:
    """Each role's split. One that is not named comes from the training source, or is carved from its images."""
    val, test = _named(words, sources, seed)
    if "train" not in words:
        return _without_training(val, test, seed)
    source = sources[words["train"]]
    train: Split = source.train
    val = source.val if val is None else val
    test = source.test if test is None else test
    share = max(round(HELD_OUT * len(train)), 1)
    if val is None:
        val, train = _carve(train, share, seed)
    if test is None:
        test, train = _carve(train, share, seed)
    return {"train": train, "val": val, "test": test}


def _named(words: dict[str, str], sources: dict[str, Source], seed: int) -> tuple[Split | None, Split | None]:
    """The validation and test splits that the job names; None for one that it leaves to the training data."""
    val, test = (
        sources[words[role]] if role in words and words[role] != words.get("train") else None
        for role in ("val", "test")
    )
    if val is not None and val is test and val.val is None and val.test is None:
        return _carve(val.train, len(val.train) // 2, seed)  # one plain folder for both: a half each
    return (None if val is None else _whole(val, val.val), None if test is None else _whole(test, test.test))


def _whole(source: Source, own: Split | None) -> Split:
    """The source's own split for a role; a plain folder that is named for one role is that role, all of it."""
    return source.train if own is None else own


def _without_training(val: Split | None, test: Split | None, seed: int) -> dict[str, Split]:
    """The user has images to measure on but none to train on. Test images serve the last report alone, so nothing is
    taken from them; a split that is named for validation gives both."""
    if val is None:
        assert test is not None
        val = TensorSplit.empty(test.info)
    elif test is None:
        val, test = _carve(val, len(val) // 2, seed)
    return {"train": TensorSplit.empty(val.info), "val": val, "test": test}


def _carve(split: Split, n: int, seed: int) -> tuple[Split, Split]:
    """``n`` images of ``split``, stratified by ``seed``, and the others.

    Raises:
        UserError: if one of them would be empty.
    """
    if not 0 < n < len(split):
        raise UserError(f"{len(split)} images are too few to split", "give more, or name train, val and test")
    part, rest = stratified(split.labels(), n, seed)
    return split.take(part), split.take(rest)


def _check_classes(infos: dict[str, DataInfo]) -> None:
    (first, reference), *others = infos.items()
    for word, info in others:
        if info.class_names != reference.class_names:
            raise UserError(
                f"'{word}' has other classes than '{first}': {_difference(reference.class_names, info.class_names)}",
                "all splits need the same classes",
            )


def _difference(expected: tuple[str, ...], found: tuple[str, ...]) -> str:
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    parts = [f"{what} {', '.join(names[:5])}" for what, names in (("without", missing), ("with", extra)) if names]
    return " and ".join(parts) or "in another order"


def _override(
    info: DataInfo,
    input_size: int | tuple[int, int] | None,
    default_size: int | tuple[int, int] | None,
    channels: int | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> DataInfo:
    if input_size is None and not info.fixed_size:
        input_size = default_size
    if input_size is not None:
        info = replace(info, size=(input_size, input_size) if isinstance(input_size, int) else input_size)
    if channels is not None and channels != info.channels:
        info = replace(info, channels=channels, mean=_spread(info.mean, channels), std=_spread(info.std, channels))
    # A model pretrained on colour tells nothing about the normalisation of one channel but the average.
    if mean is not None:
        info = replace(info, mean=_spread(tuple(mean), info.channels))
    if std is not None:
        info = replace(info, std=_spread(tuple(std), info.channels))
    return info


def _spread(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return values if len(values) == channels else (sum(values) / len(values),) * channels
