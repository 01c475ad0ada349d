"""Waits for a server that is unreachable for a while."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from autocompress.errors import UserError

WAITS_S = 60.0
"""Maximum seconds for which a search waits for the server of its study."""
AGAIN_S = 0.25
"""Seconds between two attempts."""
T = TypeVar("T")
log = logging.getLogger("autocompress.search")


class StudyAway(UserError):
    """The server of the study does not answer, refuses, or has lost a part of the study."""


def insisted(action: Callable[[bool], T], is_outage: Callable[[Exception], bool], what: str) -> T:
    """The result of ``action``, which is repeated while the server is unreachable.

    Args:
        action: called with True after a failed attempt, which may still have made its changes.
        is_outage: whether an error means that the server is unreachable.
        what: the name of the server in messages.

    Raises:
        StudyAway: if the server stays unreachable.
    """
    ends = time.monotonic() + WAITS_S
    is_again = False
    while True:
        try:
            found = action(is_again)
        except Exception as error:
            if not is_outage(error):
                raise
            if not is_again:
                log.warning("%s does not answer; waiting for it: %s", what, told(error))
            if time.monotonic() > ends:
                raise away(what, error) from None
            is_again = True
            time.sleep(AGAIN_S)
        else:
            if is_again:
                log.info("%s is back", what)
            return found


def away(what: str, error: BaseException, hint: str = "'autocompress resume' continues") -> StudyAway:
    """The error that ends a search."""
    return StudyAway(f"{what}, which keeps the study, cannot be used: {told(error)}", hint)


def told(error: BaseException) -> str:
    """The error of a library as one short line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]
