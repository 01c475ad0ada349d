"""Chooses the regions that compute in float, by a minimum cut; exact for additive costs.

The time of a placement is the sum of two parts: the time of each region in its form, and the time
for each tensor that changes between integers and float. A choice of two forms with such costs is
a minimum cut between a source (integers) and a sink (float): D. M. Greig, B. T.
Porteous, A. H. Seheult: "Exact maximum a posteriori estimation for binary images", J. Royal
Statistical Society B 51(2), 1989.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from autocompress.quantization.regions import Crossing, Region, Regions

UNITS = 1e8
"""The time of the whole network is this many units, because capacities are 32-bit integers."""
LEAST = 1e-9
"""Minimum time of a network in seconds; a smaller one is treated as zero."""
NEVER = 1.5e9
"""A capacity above any sum of times."""


class RegionCosts(Protocol):
    """Seconds of regions, and of tensors that change between integers and float."""

    def region(self, region: Region) -> tuple[float, float]:
        """Seconds (in float, in integers) of a region."""

    def crossing(self, crossing: Crossing) -> tuple[float, float]:
        """Seconds (from float to integers, from integers to float) of a crossing."""


def cheapest_floats(regions: Regions, costs: RegionCosts) -> frozenset[str]:
    """The layers whose regions compute in float in the cheapest placement.

    If both forms cost the same, a region computes on integers.
    """
    times = {region.layer: costs.region(region) for region in regions.regions}
    changes = [costs.crossing(crossing) for crossing in regions.crossings]
    if not times:
        return frozenset()
    total = sum(max(pair) for pair in (*times.values(), *changes))
    graph = _Graph(UNITS / max(total, LEAST))
    for region in regions.regions:
        in_float, in_integers = times[region.layer]
        graph.add(_SOURCE, region.layer, in_float if region.can_be_float else None)
        graph.add(region.layer, _SINK, in_integers if region.can_be_integer else None)
    for number, (crossing, (enter, leave)) in enumerate(zip(regions.crossings, changes, strict=True)):
        left, entered = f"{number}>float", f"{number}>integers"
        graph.add(crossing.source, left, leave)
        graph.add(entered, crossing.source, enter)
        for reader in crossing.readers:
            graph.add(left, reader, None)
            graph.add(reader, entered, None)
    integers = graph.reaches_sink()
    return frozenset(layer for layer in times if layer not in integers)


def placement_time(regions: Regions, costs: RegionCosts, floats: frozenset[str]) -> float:
    """Seconds of the placement in which the regions of ``floats`` compute in float."""
    found = sum(costs.region(region)[0 if region.layer in floats else 1] for region in regions.regions)
    for crossing in regions.crossings:
        enter, leave = costs.crossing(crossing)
        read_as_float = [reader in floats for reader in crossing.readers]
        if crossing.source in floats:
            found += enter * (not all(read_as_float))
        else:
            found += leave * any(read_as_float)
    return found


_SOURCE, _SINK = "source>", "sink>"


class _Graph:
    """A flow network of named nodes; a capacity of None is never cut."""

    def __init__(self, units: float) -> None:
        self._units = units
        self._places: dict[str, int] = {_SOURCE: 0, _SINK: 1}
        self._edges: dict[tuple[int, int], float] = {}

    def add(self, start: str, end: str, seconds: float | None) -> None:
        edge = self._place(start), self._place(end)
        capacity = NEVER if seconds is None else max(round(seconds * self._units), 0)
        self._edges[edge] = min(self._edges.get(edge, 0) + capacity, NEVER)

    def reaches_sink(self) -> set[str]:
        """The nodes on the side of the source, for the minimum cut that is nearest to the sink."""
        size = len(self._places)
        rows, columns = np.array(list(self._edges)).T
        values = np.array(list(self._edges.values()), np.int32)
        capacities: Any = csr_array((values, (rows, columns)), shape=(size, size))
        flow = maximum_flow(capacities, 0, 1).flow
        residual = (capacities - flow).T.tocsr()  # backwards, from the sink: the nodes that can still reach it
        residual.eliminate_zeros()
        found = set(breadth_first_order(residual, 1, return_predecessors=False).tolist())
        return {name for name, place in self._places.items() if place not in found}

    def _place(self, name: str) -> int:
        return self._places.setdefault(name, len(self._places))
