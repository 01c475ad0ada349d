"""URLs of storage for studies: ``postgresql://user@host/name``, ``redis://host:port/0``."""

from __future__ import annotations

import re
from urllib.parse import unquote_plus

from autocompress.errors import HintedError
from autocompress.files import STORAGE_PASSWORD

_WHOLE = re.compile(
    r"(postgresql|rediss?)://([\w.%+-]+@)?([\w.-]+|\[[0-9a-fA-F:.]+\])?(:\d{1,5})?(/[\w.%-]*)?(\?[\w=&.%/-]*)?",
    re.ASCII,
)
_PASSWORD_OF_USER = re.compile(r"//[^@]*:[^@]*@")
_PASSWORD_NAME = re.compile(r"\s*(ssl_?)?(password|passwd)\s*", re.IGNORECASE)
"""Names of options with a password; ``passfile`` only says where one is."""


def checked_storage(url: str | None) -> str | None:
    """Returns the URL unchanged, if a study can be kept there.

    Raises:
        HintedError: if no study can be kept there. The message gives the reason but not the URL,
            which may contain a password.
    """
    if url is None:
        return None
    if _has_password(url):
        raise HintedError("holds a password", f"leave it out, and set {STORAGE_PASSWORD} in the environment")
    found = _WHOLE.fullmatch(url)
    if found is None or (found[1] != "postgresql" and not found[3]):
        hint = "without it the study is a file in the folder of the run"
        raise HintedError("must be like postgresql://USER@HOST/DATABASE or redis://HOST:PORT/0", hint)
    return url


def _has_password(url: str) -> bool:
    options = re.split("[&;]", url.partition("?")[2])
    names = [unquote_plus(option.partition("=")[0]) for option in options]
    return bool(_PASSWORD_OF_USER.search(url)) or any(map(_PASSWORD_NAME.fullmatch, names))
