"""A recipe for a worker."""

from __future__ import annotations

from dataclasses import dataclass, field

from autocompress.contract.space import Value
from autocompress.results import Row


@dataclass(frozen=True)
class Asked:
    """A recipe to try.

    Attributes:
        number: number of its trial in the study.
        values: the recipe.
        label: label of a starting point, else "".
        rung: rung to which the recipe is trained.
        below: the row of the rung below, if ``rung`` is not 0.
        attempt: number of the attempt, from 1; a recipe whose worker was lost is tried again.
    """

    number: int
    values: dict[str, Value]
    label: str
    rung: int = 0
    below: Row | None = field(default=None, compare=False)
    attempt: int = field(default=1, compare=False)
