"""Opens the data sets that a job names, and makes three splits of one size and normalisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from autocompress.data.digits import Digits
from autocompress.data.folder import Folder
from autocompress.data.glyphs import Glyphs
from autocompress.data.idx import Idx
from autocompress.data.labelled import Labelled
from autocompress.data.overlap import copies_note
from autocompress.data.pictures import DatasetSplit
from autocompress.data.preprocessing import augmented_pixels
from autocompress.data.processes import Readers
from autocompress.data.provider import DatasetProvider, LoadOptions, Source
from autocompress.data.roles import WORDS, Roles
from autocompress.data.split import DataInfo, Split, Splits
from autocompress.data.timm_names import TimmNames
from autocompress.data.unlabelled import Unlabelled
from autocompress.data.unreadable import without_unreadable
from autocompress.data.wanted import Wanted
from autocompress.errors import UserError, did_you_mean
from autocompress.job import AugmentConfig, DataConfig
from autocompress.task import CLASSIFICATION, TaskRef


def builtin_providers() -> list[DatasetProvider]:
    """The data sets that come with the engine."""
    return [Digits(), Glyphs(), Folder(), Unlabelled(), Labelled(), Idx(), TimmNames()]


def load(
    config: DataConfig,
    providers: Sequence[DatasetProvider] | None = None,
    *,
    seed: int = 0,
    has_weights: bool = False,
    preview: bool = False,
    trials: int = 1,
    augment: AugmentConfig | None = None,
    task: TaskRef = CLASSIFICATION,
    **wanted: Any,
) -> Splits:
    """Loads the three splits of a job; :class:`Roles` says which images each role gets.

    Args:
        config: one name in ``train`` gives all three splits; ``val`` and ``test`` may name other
            data sets. Without ``train`` the training split is empty; with only ``test`` the
            validation split is empty too. Training images without labels also give the validation
            split where ``val`` is not named; the labels of that split have no meaning.
        providers: the providers of data sets; None for the built-in ones.
        seed: random seed for splits that are drawn from other splits.
        has_weights: the weights were trained elsewhere, maybe on these training images.
        preview: few images are read; see :class:`LoadOptions`.
        trials: number of trials of the job at the same time, which share the processors.
        augment: how training images are augmented; None for the way of the data set.
        task: what the labels are for.
        **wanted: requirements of the model on its images, the fields of :class:`Wanted`; by default
            the data decide.

    Raises:
        UserError: if a name is not known, a data set is missing or broken, or the splits do not fit
            each other.
    """
    providers = builtin_providers() if providers is None else providers
    if not config.words:
        raise UserError("the job names no data", "accuracy needs images: give data, or at least {val: ...}")
    words = {role: _provider(word, providers).rooted(word, config.root) for role, word in config.words.items()}
    sources = _opened(words, config, providers, preview)
    labelled = {word: source for word, source in sources.items() if source.labelled}
    first = next(iter(labelled.values()), sources[next(iter(words.values()))])
    _check_classes({word: source.info for word, source in labelled.items()})
    info = replace(Wanted(**wanted).applied(first.info), exif=config.exif, task=task)
    roles = Roles(_unite(words, sources, info), sources, info, seed, has_weights)
    splits, faults = roles.assign(), []
    if config.train_images is not None:
        splits["train"] = splits["train"].subset(config.train_images, seed)
    for role in splits if not preview else ():
        splits[role], fault = without_unreadable(splits[role], WORDS[role], config.skip_unreadable)
        faults += [] if fault is None else [fault]
    copies = None if preview else copies_note(splits)
    readers = None if preview else Readers.of(config.workers, trials)
    train, val, test = (_read_by(splits[role].prepared(info), readers) for role in ("train", "val", "test"))
    if augment is not None:
        train = train.prepared(replace(info, augment=augment))
        augmented_pixels(train.info)  # an unknown policy is an error now
    judging = val if config.val_images is None else val.subset(config.val_images, seed)
    whole, notes = None if judging is val else val, (*roles.notes, *faults, *((copies,) if copies else ()))
    unlabelled = len(labelled) < len(sources)
    by_agreement = unlabelled and "val" not in words
    return Splits(
        train, judging, test, info, whole_val=whole, unlabelled=unlabelled, by_agreement=by_agreement, notes=notes
    )


def _opened(
    words: Mapping[str, str], config: DataConfig, providers: Sequence[DatasetProvider], preview: bool
) -> dict[str, Source]:
    """The data sets of the job, by word."""
    sources = {}
    for word in dict.fromkeys(words.values()):
        options = LoadOptions(word == words.get("train"), config.exif, preview, skips=config.skip_unreadable > 0)
        sources[word] = _source(_provider(word, providers), word, options)
    return sources


def _source(provider: DatasetProvider, word: str, options: LoadOptions) -> Source:
    """The data set called ``word``; faults of a plugin are errors that name it."""
    try:
        found = provider.open(word, options)
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        raise UserError(f"the data set '{word}' cannot be loaded: {type(error).__name__}: {text}") from error
    if not isinstance(found, Source):
        raise UserError(f"the data set '{word}' gives a {type(found).__name__}, not a Source", "see docs/plugins.md")
    return found


def _read_by(split: Split, readers: Readers | None) -> Split:
    return split.read_by(readers) if readers is not None and isinstance(split, DatasetSplit) else split


def _provider(word: str, providers: Sequence[DatasetProvider]) -> DatasetProvider:
    for provider in providers:
        if provider.claims(word):
            return provider
    hint = did_you_mean(word, [provider.name for provider in providers])
    if Path(word).expanduser().is_dir():
        hint = f"for a folder of images write folder:{word}"
    raise UserError(f"unknown data set '{word}'", hint)


def _unite(words: Mapping[str, str], sources: Mapping[str, Source], info: DataInfo) -> dict[str, str]:
    """``words`` with one spelling per data set: ``folder:a`` and ``folder:a/`` are the same."""
    united = dict(words)
    known = list(sources)
    for number, word in enumerate(known):
        for earlier in known[:number]:
            if _is_same(sources[earlier], sources[word], info):
                united = {role: earlier if spelling == word else spelling for role, spelling in united.items()}
                break
    return united


def _is_same(one: Source, other: Source, info: DataInfo) -> bool:
    """Whether two data sets hold the same images.

    A data set that the job does not train on may have left out its training images.
    """
    if (one.val is None, one.test is None) != (other.val is None, other.test is None):
        return False
    pairs = [(one.train, other.train), (one.val, other.val), (one.test, other.test)]
    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    return bool(both) and all(a.prepared(info).digest == b.prepared(info).digest for a, b in both)


def _check_classes(infos: dict[str, DataInfo]) -> None:
    if not infos:
        return
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
