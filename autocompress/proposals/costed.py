"""The layers of a network and the shares kept by choices of parts, on which costs depend."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autocompress.contract import Coupling
from autocompress.proposals.choices import Part
from autocompress.proposals.factors import Factor, Layer, Widths, factors
from autocompress.proposals.structure import kept_shares

WEIGHT_WORK = 8
"""Multiply-adds that are taken as equivalent to reading one weight, when probes are chosen."""


@dataclass(frozen=True)
class CostedLayers:
    """Layers whose costs depend on the choices of parts.

    Attributes:
        layers: layers of the network, or of the files of candidates.
        parts: parts of the problem that choose the shares of channels to keep in couplings.
        kept: for each part, the share of channels that each of its choices keeps.
    """

    layers: Sequence[Layer]
    parts: Sequence[Part]
    kept: Mapping[str, Sequence[float]]

    @classmethod
    def of(
        cls, layers: Sequence[Layer], parts: Sequence[Part], couplings: Sequence[Coupling], multiple: int
    ) -> CostedLayers:
        """Computes ``kept``: the shares that couplings can keep at a multiple of channels."""
        by_name = {coupling.name: coupling for coupling in couplings}
        return cls(layers, parts, {part.name: kept_shares(part, by_name[part.name], multiple) for part in parts})

    def factors(self, cost: Callable[[Widths], np.ndarray]) -> list[Factor]:
        """The factors of a cost."""
        return list(factors(self.layers, self.parts, self.kept, cost))


def work(widths: Widths) -> np.ndarray:
    """The cost over which probes are spread."""
    return widths.macs + WEIGHT_WORK * widths.weights
