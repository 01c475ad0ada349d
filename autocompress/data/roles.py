"""Assigns images to training, validation and test: one split for each role."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from autocompress.data.overlap import refuse_shared_files, same_files
from autocompress.data.provider import Source
from autocompress.data.split import DataInfo, Split, stratified
from autocompress.data.tensors import TensorSplit
from autocompress.errors import UserError

HELD_OUT = 0.1
"""Share of the training images that replaces a missing split."""

WORDS = {"train": "training", "val": "validation", "test": "test"}


@dataclass
class Roles:
    """Assigns images to the roles ``train``, ``val`` and ``test``, with notes for the user.

    The rules, in this order:

    - The data set for ``train`` also gives ``val`` and ``test``, unless the job names others.
    - A data set named only for ``val`` or ``test`` gives that split, else its other held-out split.
      A data set without held-out splits gives all its images.
    - A data set named for both ``val`` and ``test`` gives each role its split, else half of its
      held-out images, else half of its images.
    - Images that the job names for one role are never used for another.
    - Images without labels are for training. A held-out part of them is ``val`` where the job names
      nothing for ``val``. Images without labels are never the test images.
    - A role that is still missing gets an unused held-out split, else a part of the training
      images. But weights that were trained elsewhere may have seen the training images. With such
      weights, if only one of ``val`` and ``test`` is missing, it gets half of the other one.

    Args:
        words: the name of the data set in the job, by role.
        sources: the data set of each name.
        info: description of all splits.
        seed: random seed for drawing parts of splits.
        has_weights: the weights were trained elsewhere.
    """

    words: Mapping[str, str]
    sources: Mapping[str, Source]
    info: DataInfo
    seed: int
    has_weights: bool
    notes: list[str] = field(default_factory=list)
    _taken: set[str] = field(default_factory=set)

    def assign(self) -> dict[str, Split]:
        """Split by role; ``train`` and ``val`` are empty where the job names nothing for them.

        Raises:
            UserError: if there are too few images, or two roles share images.
        """
        for word in dict.fromkeys(self.words.values()):
            self.notes += self.sources[word].notes
        splits = self._assigned()
        refuse_shared_files(splits)
        return splits

    def _assigned(self) -> dict[str, Split]:
        found = self._named_apart()
        if "train" not in self.words:
            return self._without_training(found)
        source = self.sources[self.words["train"]]
        if source.train is None:
            hint = "name it for 'val' or 'test', and other images for 'train'"
            raise UserError(f"'{self.words['train']}' has held-out images only, no training images", hint)
        self._refuse_training_images(source.train, found)
        if not source.labelled:
            return self._without_labels(source, found)
        named = dict(found)
        unused: dict[str, Split] = {}
        for role in ("val", "test"):
            own = source.val if role == "val" else source.test
            if own is None:
                continue
            taken = next((name for name, split in named.items() if self._same(own, split)), None)
            if taken is None:
                (unused if role in named else found)[role] = own
            elif role != taken:
                self._taken.add(role)
                whole = f"the {WORDS[role]} images of '{self.words['train']}'"
                self.notes.append(f"{whole} are named for '{taken}', so '{role}' gets others")
        return self._complete(source.train, found, unused)

    def _same(self, one: Split, other: Split) -> bool:
        return one.prepared(self.info).digest == other.prepared(self.info).digest or same_files(one, other)

    def _named_apart(self) -> dict[str, Split]:
        """The splits from other data sets than that for ``train``."""
        apart = {role: word for role, word in self.words.items() if word != self.words.get("train")}
        if "val" in apart and apart["val"] == apart.get("test"):
            return self._both(apart["val"])
        found = {role: self._held_out(role, word) for role, word in apart.items()}
        if len(found) == 2 and self._same(found["val"], found["test"]):
            raise UserError(f"'{apart['val']}' and '{apart['test']}' hold the same images", "name one of them for both")
        return found

    def _both(self, word: str) -> dict[str, Split]:
        source = self.sources[word]
        if source.val is not None and source.test is not None:
            return {"val": source.val, "test": source.test}
        kind = "validation " if source.val is not None else "test " if source.test is not None else ""
        whole = _first(source.val, source.test, source.train, word)
        val, test = _carve(whole, len(whole) // 2, self.seed)
        self.notes.append(f"'val' and 'test' are half of the {len(whole):,} {kind}images of '{word}' each")
        return {"val": val, "test": test}

    def _held_out(self, role: str, word: str) -> Split:
        source = self.sources[word]
        own, other = (source.val, source.test) if role == "val" else (source.test, source.val)
        if own is None and other is not None:
            kind = WORDS["test" if role == "val" else "val"]
            self.notes.append(f"'{role}' is the {kind} images of '{word}', which has no {WORDS[role]} images")
        return _first(own, other, source.train, word)

    def _without_training(self, found: dict[str, Split]) -> dict[str, Split]:
        """The splits where there is no training data.

        Images named for ``test`` are used for the last report only. If no images are named for
        ``test``, those for ``val`` give both roles.
        """
        empty = TensorSplit.empty(self.info)
        if "val" not in found:
            return {"train": empty, "val": empty, "test": found["test"]}
        if "test" not in found:
            val = found["val"]
            found["val"], found["test"] = _carve(val, len(val) // 2, self.seed)
        return {"train": empty, **found}

    def _without_labels(self, source: Source, found: dict[str, Split]) -> dict[str, Split]:
        """``source`` is for training; its held-out part is ``val`` if the job names no ``val``."""
        assert source.train is not None
        assert source.val is not None
        empty = TensorSplit.empty(self.info)
        held_out = self._without_training(found) if found else {"val": empty, "test": empty}
        val = held_out["val"] if "val" in found else source.val
        return {"train": source.train, "val": val, "test": held_out["test"]}

    def _complete(self, train: Split, found: dict[str, Split], unused: dict[str, Split]) -> dict[str, Split]:
        share = max(round(HELD_OUT * len(train)), 1)
        word = self.words["train"]
        missing = [role for role in ("val", "test") if role not in found]
        for role in missing:
            other = "test" if role == "val" else "val"
            if other in unused:
                found[role] = unused[other]
                lack = "no other" if role in self._taken else "no"
                self.notes.append(
                    f"'{role}' is the {WORDS[other]} images of '{word}', which has {lack} {WORDS[role]} images"
                )
            elif self.has_weights and len(missing) == 1:
                whole = found[other]
                found[role], found[other] = _carve(whole, len(whole) // 2, self.seed)
                self.notes.append(
                    f"'{role}' is half of the {len(whole):,} {WORDS[other]} images: the model's weights were trained "
                    f"elsewhere and may have seen the training images of '{word}'"
                )
            else:
                found[role], train = _carve(train, share, self.seed)
        if self.has_weights and len(missing) == 2 and not unused:
            self.notes.append(
                f"'val' and 'test' are training images of '{word}': the model's weights were trained elsewhere and may "
                "have seen them, so accuracies may be too high; name other images for 'val' and 'test'"
            )
        return {"train": train, **found}

    def _refuse_training_images(self, train: Split, found: Mapping[str, Split]) -> None:
        """Refuses held-out images that are the training images under another name."""
        if not found:
            return
        for role, split in found.items():
            if self._same(train, split):
                word, own = self.words[role], self.words["train"]
                raise UserError(f"'{word}', named for '{role}', holds the training images of '{own}'", "name others")


def _first(first: Split | None, second: Split | None, third: Split | None, word: str) -> Split:
    for split in (first, second, third):
        if split is not None:
            return split
    raise UserError(f"the data set '{word}' has no images")


def _carve(split: Split, n: int, seed: int) -> tuple[Split, Split]:
    """``n`` images of ``split``, stratified by ``seed``, and the others.

    Raises:
        UserError: if one of them would be empty.
    """
    if not 0 < n < len(split):
        count = "1 image is" if len(split) == 1 else f"{len(split)} images are"
        raise UserError(f"{count} too few to split", "give more images, or name train, val and test")
    part, rest = stratified(split.labels(), n, seed)
    return split.take(part), split.take(rest)
