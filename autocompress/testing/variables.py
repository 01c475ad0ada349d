"""Environment variables that a plugin must not change."""

from __future__ import annotations

import os
from collections.abc import Mapping

OF_TORCH = "TORCHINDUCTOR_"
"""Beginning of variables that torch itself sets, the first time that a network is exported."""


def variables() -> dict[str, str]:
    """The variables of this process, without those that torch sets."""
    return {name: value for name, value in os.environ.items() if not name.startswith(OF_TORCH)}


def changed(before: Mapping[str, str]) -> list[str]:
    """Names of the variables that are new, missing or different since ``before``."""
    return sorted({name for name, _ in before.items() ^ variables().items()})
