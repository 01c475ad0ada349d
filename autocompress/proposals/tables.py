"""Divergence tables: the loss of each choice of each part alone, measured within a time limit.

A part is a coupling or a group of layers. Its choices are shares of channels or numbers of bits
(``choices.py``).
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from autocompress.proposals.choices import Choice, Part, Selection
from autocompress.proposals.interpolation import interpolate

FIRST = (0.5, 0.9)
"""Positions in the list of choices, 0 to 1, that are measured for every part."""
LATER = (0.75, 0.25)
"""Positions that are measured if there is time."""
PAIR = 0.5
"""Position at which two parts are measured together."""
ADDITIVE = 0.1
"""A pair is additive if its divergence differs from the sum by at most this share."""
MOST_SCALE = 4.0
"""Maximum of :meth:`Table.scale`; its minimum is the inverse."""
Measure = Callable[[Selection], float]
"""Divergence of the network with these choices; raises or returns NaN on failure."""


@dataclass(frozen=True)
class Cell:
    """A measured divergence.

    Attributes:
        axis, name: axis and name of the part, see :class:`Part`.
        choice: the choice of this part. All other parts are neutral.
        divergence: the divergence, in nats for a KL divergence.
    """

    axis: str
    name: str
    choice: Choice
    divergence: float


@dataclass(frozen=True)
class Pair:
    """A measurement of two parts of one axis together.

    Attributes:
        axis: axis of both parts.
        names, choices: names of the two parts, and their choices.
        together: divergence with both choices.
        added: sum of the divergences with each choice alone.
    """

    axis: str
    names: tuple[str, str]
    choices: tuple[Choice, Choice]
    together: float
    added: float

    @property
    def ratio(self) -> float:
        """Above 1 if both choices together lose more than the sum of the losses of each alone."""
        return self.together / self.added if self.added > 0 else 1.0


@dataclass(frozen=True)
class Failure:
    """One or two choices that could not be measured."""

    axis: str
    name: str
    choice: Choice
    reason: str


@dataclass(frozen=True)
class Table:
    """Measured cells, and the divergence of every choice from them.

    Attributes:
        cells: single choices.
        pairs: measured pairs, to check that divergences add.
        failures: choices that are left out, with reasons.
        unmeasured: keys of parts without a cell, which allocations cannot use.
        errors: output errors for the interpolation, by part key.
    """

    cells: tuple[Cell, ...] = ()
    pairs: tuple[Pair, ...] = ()
    failures: tuple[Failure, ...] = ()
    unmeasured: tuple[str, ...] = ()
    errors: Mapping[str, tuple[float, ...]] | None = None

    def known(self, part: Part) -> dict[int, float]:
        """Measured divergence by index of the choice."""
        own = {cell.choice: cell.divergence for cell in self.cells if (cell.axis, cell.name) == (part.axis, part.name)}
        return {at: own[choice] for at, choice in enumerate(part.choices) if choice in own}

    def scale(self, part: Part) -> float:
        """Factor of the divergences of a part from measured pairs; 1 where they add."""
        ratios = [pair.ratio for pair in self.pairs if pair.axis == part.axis and part.name in pair.names]
        if not ratios or any(ratio <= 0 for ratio in ratios):
            return 1.0
        mean = math.exp(sum(math.log(ratio) for ratio in ratios) / len(ratios))
        return 1.0 if abs(mean - 1) <= ADDITIVE else min(max(mean, 1 / MOST_SCALE), MOST_SCALE)

    def divergences(self, part: Part) -> np.ndarray:
        """Divergence of every choice, with :meth:`scale`; NaN for unknown ones.

        Choices of an ordered part between and beyond the measured ones are interpolated.
        """
        known = self.known(part)
        if part.ordered:
            errors = (self.errors or {}).get(part.key) or tuple(float(at) for at in range(len(part.choices)))
            found = interpolate(known, errors)
        else:
            found = np.array([0.0 if at == 0 else known.get(at, math.nan) for at in range(len(part.choices))])
        return found * self.scale(part)

    def rows(self, parts: Iterable[Part]) -> Iterator[dict[str, Any]]:
        """Rows for ``tables.csv``, one per choice."""
        for part in parts:
            known, scale = self.known(part), self.scale(part)
            for at, (choice, value) in enumerate(zip(part.choices, self.divergences(part), strict=True)):
                yield {
                    "axis": part.axis,
                    "name": part.name,
                    "choice": choice,
                    "divergence": float(value),
                    "measured": at in known,
                    "scale": scale,
                }

    def is_whole(self, parts: Iterable[Part]) -> bool:
        """Whether each part has its first cells, or failures in place of them."""
        tried = {(cell.axis, cell.name, cell.choice) for cell in self.cells}
        tried |= {(failure.axis, failure.name, failure.choice) for failure in self.failures}
        return all((part.axis, part.name, part.choices[at]) in tried for part in parts for at in _first_cells(part))

    def failed(self, part: Part) -> bool:
        """Whether a choice of the part could not be measured."""
        return any((own.axis, own.name) == (part.axis, part.name) for own in self.failures)

    def state(self) -> dict[str, Any]:
        """The table as JSON, for the store."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Table:
        """Restores the result of :meth:`state`."""
        pairs = [
            Pair(p["axis"], tuple(p["names"]), tuple(p["choices"]), p["together"], p["added"]) for p in state["pairs"]
        ]
        errors = state["errors"]
        return cls(
            tuple(Cell(**cell) for cell in state["cells"]),
            tuple(pairs),
            tuple(Failure(**failure) for failure in state["failures"]),
            tuple(state["unmeasured"]),
            None if errors is None else {key: tuple(values) for key, values in errors.items()},
        )


def measure(
    parts: Sequence[Part],
    divergence: Measure,
    *,
    errors: Mapping[str, Sequence[float]] | None = None,
    deadline: float = math.inf,
    known: Table | None = None,
    clock: Callable[[], float] = time.monotonic,
    keep: Callable[[Table], None] | None = None,
    thorough: bool = True,
) -> Table:
    """Measures a table until a deadline.

    The first cells of every part come first, then a pair of each part and the next one of its axis,
    then further cells. Parts that are not ordered are measured at every choice.

    Args:
        parts: the parts in network order, so that neighbouring parts share computation.
        divergence: measures the divergence of a selection. An exception, or a value that is not
            finite, is a failure: the cell is left out and recorded.
        errors: the output error of each choice, for the interpolation, by part key.
        deadline: by ``clock``. A cell is begun only if it would end before the deadline when it
            takes as long as the longest cell so far. The first two cells are always measured.
        known: an interrupted table; its cells are not measured again.
        clock: returns seconds.
        keep: called with the table after the first cells, after the pairs, and at the end.
        thorough: whether to measure further cells, after the first ones and the pairs.
    """
    known = known or Table()
    work = _Work(parts, divergence, deadline, clock, known)
    kept_errors = {key: tuple(float(value) for value in values) for key, values in (errors or {}).items()}

    def table() -> Table:
        return Table(
            tuple(work.cells.values()),
            tuple(work.pairs.values()),
            tuple(work.failures),
            tuple(part.key for part in parts if not any(key[0] == part.key for key in work.cells)),
            {**(known.errors or {}), **kept_errors} or None,
        )

    for step in (work.singles(FIRST), work.couples(), work.singles(LATER if thorough else ())):
        for _ in step:
            if work.late():
                return table()
        if keep is not None:
            keep(table())
    return table()


def _first_cells(part: Part) -> set[int]:
    """Indices of the choices of a part that are measured first."""
    every = {part.at(place) for place in FIRST} if part.ordered else set(range(1, len(part.choices)))
    return every - {0}


def planned(parts: Sequence[Part], *, thorough: bool = True) -> list[Selection]:
    """The selections that :func:`measure` asks for while none fails, in its order."""
    found: list[Selection] = []
    singles: list[list[Selection]] = [
        [
            {part.key: at}
            for place in places
            for part in parts
            for at in ([part.at(place)] if part.ordered else range(1, len(part.choices)))
            if at
        ]
        for places in (FIRST, LATER if thorough else ())
    ]
    pairs: list[Selection] = [{a.key: a.at(PAIR), b.key: b.at(PAIR)} for a, b in _neighbours(parts)]
    for selection in [*singles[0], *pairs, *singles[1]]:
        if selection not in found:
            found.append(selection)
    return found


def _neighbours(parts: Sequence[Part]) -> Iterator[tuple[Part, Part]]:
    """Each ordered part and the next one of its axis."""
    for axis in dict.fromkeys(part.axis for part in parts):
        yield from itertools.pairwise(part for part in parts if part.axis == axis and part.ordered)


class _Work:
    def __init__(
        self, parts: Sequence[Part], divergence: Measure, deadline: float, clock: Callable[[], float], known: Table
    ) -> None:
        self.parts, self._divergence, self._deadline, self._clock = parts, divergence, deadline, clock
        by_name = {(part.axis, part.name): part for part in parts}
        self.cells: dict[tuple[str, Choice], Cell] = {
            (by_name[cell.axis, cell.name].key, cell.choice): cell
            for cell in known.cells
            if (cell.axis, cell.name) in by_name
        }
        self.pairs = {pair.names: pair for pair in known.pairs}
        self.failures: list[Failure] = []
        self._longest = 0.0
        self._done = 0

    def late(self) -> bool:
        """Whether the next cell would end after the deadline."""
        return self._done >= 2 and self._clock() + self._longest > self._deadline

    def singles(self, places: Sequence[float]) -> Iterator[None]:
        """Measures the cells at these positions of each part, one per step."""
        for place in places:
            for part in self.parts:
                for at in [part.at(place)] if part.ordered else range(1, len(part.choices)):
                    choice = part.choices[at]
                    if at == 0 or (part.key, choice) in self.cells or self._failed(part, choice):
                        continue
                    value = self._timed({part.key: at}, part, choice)
                    if value is not None:
                        self.cells[part.key, choice] = Cell(part.axis, part.name, choice, value)
                    yield

    def couples(self) -> Iterator[None]:
        """Measures each part together with the next one of its axis, one pair per step."""
        for first, second in _neighbours(self.parts):
            at, other = first.at(PAIR), second.at(PAIR)
            alone = [self.cells.get((part.key, part.choices[place])) for part, place in ((first, at), (second, other))]
            if None in alone or (first.name, second.name) in self.pairs:
                continue
            added = sum(cell.divergence for cell in alone if cell is not None)
            choices = (first.choices[at], second.choices[other])
            value = self._timed({first.key: at, second.key: other}, first, choices[0])
            if value is not None:
                names = (first.name, second.name)
                self.pairs[names] = Pair(first.axis, names, choices, value, added)
            yield

    def _failed(self, part: Part, choice: Choice) -> bool:
        return any((f.axis, f.name, f.choice) == (part.axis, part.name, choice) for f in self.failures)

    def _timed(self, selection: Selection, part: Part, choice: Choice) -> float | None:
        began = self._clock()
        try:
            value = float(self._divergence(selection))
            reason = "" if math.isfinite(value) else f"its divergence is {value}"
        except Exception as error:  # an error of a plugin must not end the search
            value, reason = math.nan, f"{type(error).__name__}: {error}".split("\n")[0]
        self._longest = max(self._longest, self._clock() - began)
        self._done += 1
        if reason:
            self.failures.append(Failure(part.axis, part.name, choice, reason))
            return None
        return max(value, 0.0)
