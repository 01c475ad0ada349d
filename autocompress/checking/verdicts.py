"""Verdicts on single limits, and the one that follows from all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from autocompress.errors import ExitCode


class Verdict(StrEnum):
    """Whether a limit is kept. ``UNDECIDED``: it lies within the interval of what was measured."""

    MET = "met"
    UNDECIDED = "undecided"
    MISSED = "missed"


_CODES = {Verdict.MET: ExitCode.DONE, Verdict.UNDECIDED: ExitCode.UNDECIDED, Verdict.MISSED: ExitCode.NO_MODEL_FITS}


@dataclass(frozen=True)
class Judged:
    """One limit.

    Attributes:
        name: of the quantity, or "operators".
        limit: in words.
        found: in words.
        verdict: whether it is kept.
        value, low, high: the figure that was judged, and its 95 % interval, where there is one.
        note: what else is worth knowing; may be empty.
    """

    name: str
    limit: str
    found: str
    verdict: Verdict
    value: float | None = None
    low: float | None = None
    high: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Checked:
    """What a check found.

    Attributes:
        subject: the file or the trial.
        judged: one entry for each limit.
        policy: how noise was dealt with, in a sentence.
    """

    subject: str
    judged: Sequence[Judged]
    policy: str

    @property
    def verdict(self) -> Verdict:
        """Missed where one limit is missed; else undecided where one is undecided."""
        found = {one.verdict for one in self.judged}
        return next(verdict for verdict in (Verdict.MISSED, Verdict.UNDECIDED, Verdict.MET) if verdict in found)

    @property
    def exit_code(self) -> ExitCode:
        """0 met, 3 undecided, 4 missed."""
        return _CODES[self.verdict]

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        judged = [asdict(one) | {"verdict": str(one.verdict)} for one in self.judged]
        told = {"subject": self.subject, "verdict": str(self.verdict), "exit_code": int(self.exit_code)}
        return told | {"policy": self.policy, "checks": judged}
