"""Parts of a network, with one of several choices for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Choice = int | float | str
"""A JSON value: a share of channels to keep, a number of bits, the name of a replacement."""


@dataclass(frozen=True)
class Part:
    """A part of a network for which exactly one choice is made.

    Attributes:
        name: a coupling or a group of layers.
        axis: for example the structure or the bits of weights. Effects of different axes add up.
        choices: the first leaves the network unchanged. If ``ordered``, each further one changes
            more.
        ordered: whether choices between two measured ones can be interpolated.
    """

    name: str
    axis: str
    choices: tuple[Choice, ...]
    ordered: bool = True

    def __post_init__(self) -> None:
        if not self.choices or len(set(self.choices)) != len(self.choices):
            raise ValueError(f"{self.key} needs choices that differ")

    @property
    def key(self) -> str:
        """A name of the part that is unique among all axes."""
        return f"{self.axis}:{self.name}"

    @property
    def neutral(self) -> Choice:
        """The choice that leaves the network unchanged."""
        return self.choices[0]

    def at(self, share: float) -> int:
        """Index of the choice at ``share`` (0 to 1) of the list of choices."""
        return min(len(self.choices) - 1, round(share * (len(self.choices))))


Selection = Mapping[str, int]
"""Index of the choice of each part, by ``Part.key``; missing parts are neutral."""
