"""The states of the recipes of a search between rungs.

A *rung* is a budget of training. Rung 0 only repairs. Each further rung starts from the kept model
of the rung below. A recipe is one trial of the study, for all rungs, and the sampler is only told
the result of rung 0.

| state | event | next |
|---|---|---|
| (none) | asked | ASKED |
| ASKED | kept: rung 0 has a row | KEPT at rung 0, told |
| ASKED | ended: its row has no model, or no rung can follow | ENDED, told |
| ASKED | lost: its worker died | ASKED; ENDED with the last attempt, told |
| KEPT at rung k | promoted | PROMOTED from rung k |
| PROMOTED from rung k | kept: rung k + 1 has a row | KEPT at rung k + 1 |
| PROMOTED from rung k | ended: it broke, gained nothing, or was the last rung | ENDED |
| PROMOTED from rung k | lost | PROMOTED from rung k; ENDED with the last attempt |
| any | resumed | the same; nothing has a worker |

Between any two events, the table can be restored from disk (:func:`standing_of`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

LAST_RUNG = 2
MOST_ATTEMPTS = 3
"""Maximum number of attempts at a rung of a recipe if its worker is lost each time."""


class State(Enum):
    """The state of a recipe; see the table above."""

    ASKED = "asked"
    KEPT = "kept"
    PROMOTED = "promoted"
    ENDED = "ended"


@dataclass(frozen=True)
class Standing:
    """The state of a recipe with its rungs.

    Attributes:
        state: see the table above.
        rung: rung of the kept model; None if there is none.
        reached: the highest finished rung; None if there is none.
        attempts: number of workers lost in the present attempt.
    """

    state: State
    rung: int | None = None
    reached: int | None = None
    attempts: int = 0

    @property
    def is_told(self) -> bool:
        """Whether the sampler was told its result."""
        return self.state is not State.ASKED

    @property
    def is_open(self) -> bool:
        """Whether a worker tries it, or will try it."""
        return self.state in (State.ASKED, State.PROMOTED)

    @property
    def tried(self) -> int:
        """The rung that is being tried.

        Raises:
            ValueError: if none is.
        """
        if not self.is_open:
            raise ValueError(f"a recipe that is {self.state.value} is not being tried")
        return 0 if self.rung is None else self.rung + 1

    # --- events -----------------------------------------------------------------------------------

    def kept(self) -> Standing:
        """The state after the rung got a row, if another rung can follow."""
        reached = self.tried
        if reached >= LAST_RUNG:
            raise ValueError(f"no rung can follow rung {reached}")
        return Standing(State.KEPT, reached, reached)

    def ended(self, rung: int | None) -> Standing:
        """The final state: the row has the model of ``rung``, or none.

        Raises:
            ValueError: if no rung is being tried, or the model is neither that of the tried rung
                nor of the rung below.
        """
        if rung not in (self.rung, self.tried):
            raise ValueError(f"the model cannot be that of rung {rung}: rung {self.tried} was tried")
        return Standing(State.ENDED, rung, self.tried)

    def lost(self) -> Standing:
        """The state after a loss of the worker: another attempt, or the end."""
        tried = replace(self, attempts=self.attempts + 1)
        if not self.is_open:
            raise ValueError(f"a recipe that is {self.state.value} has no worker")
        return self.ended(self.rung) if tried.attempts >= MOST_ATTEMPTS else tried

    def promoted(self) -> Standing:
        """The state after a promotion to the next rung."""
        if self.state is not State.KEPT:
            raise ValueError(f"a recipe that is {self.state.value} cannot be promoted")
        return replace(self, state=State.PROMOTED)

    def resumed(self) -> Standing:
        """The state for another driver, which counts lost workers from 0."""
        return replace(self, attempts=0)


ASKED = Standing(State.ASKED)


@dataclass(frozen=True)
class Kept:
    """The data of a recipe on disk.

    Attributes:
        rung: rung of the model in its row; None without a model or a row.
        is_told: it has a row.
        reached: the highest finished rung; None without a row.
        is_final: no rung can follow, by its row.
        promoted: the highest rung to which it was promoted; None if it never was.
    """

    rung: int | None = None
    is_told: bool = False
    reached: int | None = None
    is_final: bool = False
    promoted: int | None = None


def standing_of(kept: Kept) -> Standing:
    """The state of a recipe, restored from disk."""
    if not kept.is_told:
        return ASKED
    if kept.is_final or kept.rung is None or kept.reached is None:
        return Standing(State.ENDED, kept.rung, kept.reached)
    is_promoted = kept.promoted is not None and kept.promoted > kept.reached
    return Standing(State.PROMOTED if is_promoted else State.KEPT, kept.rung, kept.reached)


class RungTable:
    """The state of each recipe, by the number of its trial.

    The cost of each method does not grow with the number of recipes.
    """

    def __init__(self) -> None:
        self._standings: dict[int, Standing] = {}
        self._waiting: dict[int, None] = {}
        self._ready: dict[int, dict[int, None]] = {rung: {} for rung in range(LAST_RUNG)}
        self._reached = dict.fromkeys(range(LAST_RUNG + 1), 0)

    def __getitem__(self, number: int) -> Standing:
        return self._standings[number]

    def __contains__(self, number: int) -> bool:
        return number in self._standings

    def asked(self, number: int) -> None:
        """Adds a recipe that was drawn.

        Raises:
            ValueError: if it was added before.
        """
        if number in self._standings:
            raise ValueError(f"trial {number} was asked before")
        self.put(number, ASKED)

    def put(self, number: int, standing: Standing) -> None:
        """Sets a new state of a recipe, from an event method of its old state."""
        if (old := self._standings.get(number)) is not None:
            self._count(old, -1)
            self._waiting.pop(number, None)
            for ready in self._ready.values():
                ready.pop(number, None)
        self._standings[number] = standing
        self._count(standing, 1)
        if standing.state is State.PROMOTED:
            self._waiting[number] = None
        elif standing.state is State.KEPT and standing.rung is not None:
            self._ready[standing.rung][number] = None

    def _count(self, standing: Standing, sign: int) -> None:
        if standing.rung is not None and standing.reached is not None:
            for rung in range(standing.reached + 1):
                self._reached[rung] += sign

    def reached(self, rung: int) -> int:
        """Number of recipes that finished ``rung``, including failures there."""
        return self._reached[rung]

    def promotions(self, rung: int) -> int:
        """Number of promotions from ``rung``."""
        waiting = sum(self[number].rung == rung for number in self._waiting)
        return self.reached(rung + 1) + waiting

    def ready(self, rung: int) -> list[int]:
        """The recipes that can be promoted from ``rung``, in the order of arrival."""
        return list(self._ready[rung])

    def waiting(self) -> list[int]:
        """The promoted recipes that have no row of the next rung yet."""
        return list(self._waiting)
