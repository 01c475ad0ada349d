"""Verdicts on single limits, and the verdict on a model that follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from autocompress.errors import ExitCode


class Verdict(StrEnum):
    """Whether a limit is met; ``UNDECIDED`` if it lies within the interval of the measurement."""

    MET = "met"
    UNDECIDED = "undecided"
    MISSED = "missed"


_CODES = {Verdict.MET: ExitCode.DONE, Verdict.UNDECIDED: ExitCode.UNDECIDED, Verdict.MISSED: ExitCode.NO_MODEL_FITS}


@dataclass(frozen=True)
class Judged:
    """One limit.

    Attributes:
        name: name of the quantity, or "operators".
        limit: as text.
        found: the figure as text.
        verdict: whether the limit is met.
        value, low, high: the figure and its 95 % interval, if any.
        note: further information; may be empty.
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
    """The result of a check.

    Attributes:
        subject: the file or the trial.
        judged: one entry for each limit.
        basis: a sentence that says how the figures were obtained; empty for a file whose latency
            is not limited.
    """

    subject: str
    judged: Sequence[Judged]
    basis: str

    @property
    def verdict(self) -> Verdict:
        """Missed if one limit is missed; else undecided if one is undecided; else met."""
        found = {one.verdict for one in self.judged}
        return next(verdict for verdict in (Verdict.MISSED, Verdict.UNDECIDED, Verdict.MET) if verdict in found)

    @property
    def exit_code(self) -> ExitCode:
        """The exit code: 0 met, 3 undecided, 4 missed."""
        return _CODES[self.verdict]

    def as_json(self) -> dict[str, Any]:
        """The result as JSON values."""
        judged = [asdict(one) | {"verdict": str(one.verdict)} for one in self.judged]
        told = {"subject": self.subject, "verdict": str(self.verdict), "exit_code": int(self.exit_code)}
        return told | {"basis": self.basis, "checks": judged}
