"""Schedule of training: when each layer becomes an adder, and with which exponent.

Everything depends only on the finished fraction of the steps, so a paused training needs no state
for it. From ``SETTLED`` on, every layer has its deployed form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Exponents = Literal["l1", "l2-to-l1"]
Order = Literal["at-once", "late-first"]

SETTLED = 0.5
"""Fraction of the steps after which every layer is trained in its deployed form."""


@dataclass(frozen=True)
class State:
    """The state of one layer at one step: a convolution, or an adder with the exponent ``p``."""

    as_convolution: bool
    p: float


FINISHED = State(False, 1.0)


@dataclass(frozen=True)
class Turns:
    """The schedule of a network.

    Attributes:
        stages: names of layers, stage by stage in network order.
        order: "at-once", or "late-first": one stage at a time from the last, at equal distances.
        exponents: "l1", or "l2-to-l1": p falls linearly from 2 to 1. It falls from the turn of the
            layer until ``SETTLED`` if all turn at once, else until the turn of the next stage. With
            p = 2, the layer is almost a convolution. Up to a factor of 2, it computes
            -|x - w|^2 / 2 = x w - x^2 / 2 - w^2 / 2. The term with x^2 is the same for all output
            channels at a position, and the term with w^2 is a constant of each output channel.
    """

    stages: Sequence[Sequence[str]]
    order: Order = "at-once"
    exponents: Exponents = "l1"

    @property
    def plain(self) -> bool:
        """Whether every layer has its deployed form from the first step."""
        return self.order == "at-once" and self.exponents == "l1"

    def at(self, done: float) -> dict[str, State]:
        """The state of each layer after the fraction ``done`` of the steps."""
        states: dict[str, State] = {}
        count = len(self.stages)
        for index, names in enumerate(self.stages):
            waits = count - 1 - index if self.order == "late-first" else 0
            length = SETTLED / count if self.order == "late-first" else SETTLED
            states.update(dict.fromkeys(names, self._state(done, waits * length, length)))
        return states

    def _state(self, done: float, turn: float, length: float) -> State:
        if done < turn:
            return State(True, 1.0)
        if self.exponents == "l1" or done >= turn + length:
            return FINISHED
        return State(False, 2.0 - (done - turn) / length)
