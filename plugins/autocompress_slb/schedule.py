"""The temperature T over a training: exponential in the paper, linear or constant otherwise.

T multiplies the logits (it is 1 / tau of the paper), so it grows, and distributions get sharper.
Time is counted in units n = 1 .. N: steps (paper) or epochs (the released recipe). With s = int(N
start) and e = int(N end):

    T(n) = first                                   n <= s
    T(n) = first f^(min(n, e) - s)                 after, with f = (last / first)^(1 / (e - s))
    arg-max in training, too (the hard tail)       n >= e

The paper gives f (1.02 .. 1.2 by bits and epochs). Here f follows from ``last``, so that the
distributions of a short training become as sharp as those of a long one. As in the published code,
unit e already computes with the arg-max, so no step trains at ``last`` itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["exponential", "linear", "constant"]
KINDS: tuple[Kind, ...] = ("exponential", "linear", "constant")


@dataclass(frozen=True)
class TemperatureSchedule:
    """T for each unit.

    Attributes:
        kind: the form of the growth from ``first`` to ``last``; "constant" stays at ``first``.
        first: T before the growth begins (1 in the paper).
        last: T at the end of the growth; the paper's runs end between 3e2 and 1e7.
        start, end: start and end of the growth, as fractions of the training; ``start < end``.
        hard_tail: after ``end``, training computes with the arg-max, and logits do not change.

    Raises:
        ValueError: if the growth is not within the training, or the temperature would fall.
    """

    kind: Kind = "exponential"
    first: float = 1.0
    last: float = 1e3
    start: float = 0.3
    end: float = 0.9
    hard_tail: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end <= 1:
            raise ValueError(f"annealing from {self.start} to {self.end} of the training")
        if not 0 < self.first <= self.last:
            raise ValueError(f"the temperature T must grow, not go from {self.first} to {self.last}")

    def ends(self, units: int) -> tuple[int, int]:
        """The units (s, e) at which the growth of T starts and ends; it takes at least one unit."""
        s = int(units * self.start + 1e-9)
        return s, max(int(units * self.end + 1e-9), s + 1)

    def temperature(self, unit: int, units: int) -> float:
        """T in ``unit``, counted from 1, of ``units``."""
        s, e = self.ends(units)
        done = (min(max(unit, s), e) - s) / (e - s)
        if self.kind == "constant":
            return self.first
        if self.kind == "linear":
            return self.first + (self.last - self.first) * done
        return self.first * float(self.last / self.first) ** done

    def is_hard(self, unit: int, units: int) -> bool:
        """Whether training uses the arg-max in ``unit``; never in the first unit."""
        return self.hard_tail and unit > 1 and unit >= self.ends(units)[1]
