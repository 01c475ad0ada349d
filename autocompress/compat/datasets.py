"""The fingerprint of a Hugging Face data set."""

from __future__ import annotations

from typing import Any


def fingerprint_of(table: Any) -> str | None:
    """The fingerprint of ``table`` if it is a data set of the ``datasets`` library; else None.

    The library need not be installed. Private: ``Dataset._fingerprint``.
    """
    found = getattr(table, "_fingerprint", None)
    return None if found is None else str(found)
