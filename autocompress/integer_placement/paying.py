"""A table of the layers of a network, with the faster form of each: integers or float."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autocompress.integer_placement.costs import MeasuredCosts
from autocompress.quantization.regions import Regions


@dataclass(frozen=True)
class Paying:
    """One region: a layer and the operators after it.

    Attributes:
        layer: name.
        operator: "conv", "depthwise" or "linear".
        float_us, integer_us: microseconds in each form.
        computes: the chosen form, "integers" or "float".
    """

    layer: str
    operator: str
    float_us: float
    integer_us: float
    computes: str


def paying(regions: Regions, costs: MeasuredCosts) -> Sequence[Paying]:
    """A row for each region of the network, in order."""
    floats = costs.floats(regions)
    rows = []
    for region in regions.regions:
        in_float, in_integers = (1e6 * seconds for seconds in costs.region(region))
        form = "float" if region.layer in floats else "integers"
        rows.append(Paying(region.layer, region.pattern.operator, in_float, in_integers, form))
    return rows
