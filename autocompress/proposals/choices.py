"""What a recipe chooses: one of several choices for each part of a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Choice = int | float | str
"""A JSON value: a fraction of channels that stay, a number of bits, the name of a replacement."""


@dataclass(frozen=True)
class Part:
    """Something of a network for which exactly one choice is made.

    Attributes:
        name: a coupling or a group of layers.
        axis: what is chosen, for example the structure or the bits of weights. Effects of different
            axes add.
        choices: the first leaves the network as it is. Where ``ordered``, each further one changes
            more.
        ordered: choices between two measured ones can be interpolated.
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
        """Names the part among all axes."""
        return f"{self.axis}:{self.name}"

    @property
    def neutral(self) -> Choice:
        """The choice that leaves the network as it is."""
        return self.choices[0]

    def at(self, share: float) -> int:
        """Index of the choice that is ``share`` (0 to 1) of the way through all of them."""
        return min(len(self.choices) - 1, round(share * (len(self.choices))))


Selection = Mapping[str, int]
"""For each part, by ``Part.key``, the index of its choice; parts that are missing are neutral."""
