"""The form of URLs of storage: ``s3://bucket/prefix``."""

from __future__ import annotations

import re
from pathlib import Path

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://")
_WHOLE = re.compile(r"[a-z][a-z0-9+.-]*://[^\s?#]+")
_PASSWORD = re.compile(r"[a-z0-9+.-]+://[^/@]*:[^/@]*@")


def is_url(text: str) -> bool:
    """Whether ``text`` is a URL of storage, not a folder."""
    return _SCHEME.match(text) is not None


def checked_url(text: str) -> str:
    """A URL without a slash at its end.

    Raises:
        ValueError: if the URL cannot be used. The message does not repeat a URL with a password.
    """
    if _PASSWORD.match(text):
        raise ValueError("holds a password: give credentials by the environment")
    if not _WHOLE.fullmatch(text) or not text.isprintable() or ".." in text.split("/"):
        raise ValueError(f"cannot be {text!r}: write it like s3://bucket/prefix")
    return text.rstrip("/")


def joined(url: str, name: str) -> str:
    """The URL of ``name`` below ``url``."""
    return f"{url.rstrip('/')}/{name}"


_COLLAPSED = re.compile(r"([a-z][a-z0-9+.-]+):/+(.*)")
_LOCAL = ("file", "local")


def url_of(path: Path) -> str | None:
    """The URL from which a path was made (``s3:/bucket/prefix``); None for other paths."""
    found = _COLLAPSED.fullmatch(path.as_posix())
    if found is None:
        return None
    return f"{found[1]}://{'/' if found[1] in _LOCAL else ''}{found[2]}"
