"""Common names of splits in folders and data sets."""

from __future__ import annotations

import re

NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "validate", "dev", "eval", "evaluation"),
    "test": ("test", "testing"),
}
"""Common names of each split. As in timm, ``eval`` is validation."""

ENDINGS = ("set", "split", "data", "images")
"""Suffixes that a name may have: ``test_set``, ``trainset``, ``Validation Images``."""

_ROLES = {name + ending: role for role, names in NAMES.items() for name in names for ending in ("", *ENDINGS)}


def role_of(name: str) -> str | None:
    """``train``, ``val`` or ``test`` where ``name`` is a common name of that split; else None."""
    return _ROLES.get(re.sub(r"[\W_]+", "", name.casefold()))


def roles_within(name: str) -> set[str]:
    """The splits whose names are words of ``name``: ``train2017``, ``my_test``, ``valid.v1``.

    A word is a sequence of letters.
    """
    words = re.findall(r"[^\W\d_]+", name)
    return {role for word in words if (role := role_of(word)) is not None}
