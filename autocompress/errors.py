"""Errors meant for users: one sentence and a hint, shown without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every command. The table in docs/commands.md explains them."""

    DONE = 0
    WRONG_USE = 2
    UNDECIDED = 3
    NO_MODEL_FITS = 4
    EVERY_TRIAL_FAILED = 5
    TERMINATED = 75
    INTERRUPTED = 130


class UserError(Exception):
    """An error that the user can correct.

    The command line prints it as one line and exits with code 2.

    Args:
        message: one sentence that says what is wrong, naming file, line and key where there is one.
        hint: how to correct it; optional.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


def clipped(text: str, longest: int = 60) -> str:
    """``text`` with at most ``longest`` characters, for a value in a sentence."""
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


class HintedError(ValueError):
    """An invalid value of a key. The message completes the sentence ``<key> ...``.

    Args:
        message: the end of the sentence.
        hint: how to correct it.
        key: the key, where the validator sees more than one.
    """

    def __init__(self, message: str, hint: str = "", key: str = "") -> None:
        super().__init__(message)
        self.hint = hint
        self.key = key


class Terminated(SystemExit):
    """The process received SIGTERM from a batch system, a container or a cluster.

    An uncaught one ends the process with exit code 75, "try again later". ``autocompress resume``
    continues the search.
    """

    def __init__(self) -> None:
        super().__init__(int(ExitCode.TERMINATED))


class InvalidRecipe(Exception):
    """A recipe cannot be built.

    The trial becomes a row with the message as its reason, and the search continues.
    """


class TrialFailed(Exception):
    """A trial failed (NaN, time-out, a wrong export). The message is the row's reason."""


class NoAnswer(TrialFailed):
    """A device does not know whether a file can be loaded, for a reason that may pass."""


class CannotWork(Exception):
    """A worker cannot open the job, or cannot measure. It ends, and another one gets its recipe."""


class TooLittleMemory(TrialFailed):
    """A network cannot be trained here, even on the smallest batch."""


def closest(name: str, known: Iterable[str], similarity: float = 0.75) -> str:
    """The known name that ``name`` probably misspells; empty if there is none.

    Args:
        name: a name that was found.
        known: the right names.
        similarity: least similarity of both (``difflib``), 0 to 1.
    """
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=similarity)), "")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint with the closest known names, or the first twelve.

    Example: ``did you mean 'resnet18'?``
    """
    candidates = list(known)
    close = difflib.get_close_matches(name, candidates, n=2, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(f"'{c}'" for c in close) + "?"
    if not candidates:
        return ""
    shown = ", ".join(candidates[:12])
    return f"known: {shown}" + (", ..." if len(candidates) > 12 else "")
