"""Source: where each key of a job or a space was written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from autocompress.errors import UserError


@dataclass(frozen=True)
class Source:
    """Where keys were written. All sources compare equal, so that jobs compare by value.

    Attributes:
        file: the file that was read; None for keyword arguments and flags alone.
        places: file and line (from 1) of each dotted key.
        flags: command-line flag of each dotted key that was set by a flag.
    """

    file: Path | None = field(default=None, compare=False)
    places: Mapping[str, tuple[Path, int]] = field(default_factory=dict, compare=False)
    flags: Mapping[str, str] = field(default_factory=dict, compare=False)

    def subject(self, key: str) -> str:
        """``key`` as the subject of an error sentence.

        Examples: ``job.yaml:7: 'budget.trials'``, ``--trials`` or ``'trials'``.

        If the key itself was not written, the place of the nearest section that was written is
        used.
        """
        if key in self.flags:
            return self.flags[key]
        # ``--set recover.epochs=20`` also gives ``recover``.
        inner = [flag for full, flag in self.flags.items() if full.startswith(f"{key}.")]
        if key and len(inner) == 1 and key not in self.places:
            return inner[0]
        parts = key.split(".") if key else []
        for end in range(len(parts), 0, -1):
            place = self.places.get(".".join(parts[:end]))
            if place is not None:
                return f"{place[0]}:{place[1]}: '{key}'"
        what = f"'{key}'" if key else "the job"
        return what if self.file is None else f"{self.file}: {what}"

    def holds(self, key: str) -> bool:
        """Whether ``key`` was written in the file, or given as a flag."""
        return key in self.places or key in self.flags

    def line(self, key: str) -> int:
        """The line of ``key``; 0 if it has none, so that keys can be sorted."""
        return self.places[key][1] if key in self.places else 0

    def error(self, key: str, text: str, hint: str = "") -> UserError:
        """The error ``<place>: '<key>' <text>`` with a hint."""
        return UserError(f"{self.subject(key)} {text}", hint)
