"""The usual names of splits, as folders and data sets spell them."""

from __future__ import annotations

import re

NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "validate", "dev", "eval", "evaluation"),
    "test": ("test", "testing"),
}
"""The names of each role. As in timm, ``eval`` is validation."""

ENDINGS = ("set", "split", "data", "images")
"""What may follow a name: ``test_set``, ``trainset``, ``Validation Images``."""

_ROLES = {name + ending: role for role, names in NAMES.items() for name in names for ending in ("", *ENDINGS)}


def role_of(name: str) -> str | None:
    """``train``, ``val`` or ``test`` where ``name`` is a usual name of that split; else None."""
    return _ROLES.get(re.sub(r"[\W_]+", "", name.casefold()))


def roles_within(name: str) -> set[str]:
    """The roles whose names are words of ``name``: those of ``train2017``, ``my_test`` and
    ``valid.v1``. Words are runs of letters."""
    words = re.findall(r"[^\W\d_]+", name)
    return {role for word in words if (role := role_of(word)) is not None}
