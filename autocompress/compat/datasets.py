"""What tells one Hugging Face data set from another."""

from __future__ import annotations

from typing import Any


def fingerprint_of(table: Any) -> str | None:
    """The fingerprint of ``table`` if it is a data set of the ``datasets`` library, which need not
    be installed.

    Other objects give None. Private: ``Dataset._fingerprint``.
    """
    found = getattr(table, "_fingerprint", None)
    return None if found is None else str(found)
