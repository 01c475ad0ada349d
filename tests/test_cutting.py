"""The minimum cut is the cheapest placement of all."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress.quantization.cutting import cheapest_floats, placement_time
from autocompress.quantization.regions import Crossing, Pattern, Region, Regions

PATTERN = Pattern("conv", (8, 4, 4), (8, 4, 4))
SECONDS = st.floats(0.0, 1e-3)


class Told:
    """Costs by the name of a layer, and by the shape of a tensor."""

    def __init__(self, regions: Mapping[str, tuple[float, float]], crossings: Mapping[int, tuple[float, float]]):
        self.regions, self.crossings = regions, crossings

    def region(self, region: Region) -> tuple[float, float]:
        return self.regions[region.layer]

    def crossing(self, crossing: Crossing) -> tuple[float, float]:
        return self.crossings[crossing.shape[0]]


@st.composite
def networks(draw: st.DrawFn) -> tuple[Regions, Told]:
    names = [f"layer{i}" for i in range(draw(st.integers(1, 6)))]
    regions = [Region(name, PATTERN, draw(st.booleans()) or i % 2 == 0) for i, name in enumerate(names)]
    crossings = []
    for i, name in enumerate(names[:-1]):
        readers = draw(st.sets(st.sampled_from(names[i + 1 :]), min_size=1, max_size=3))
        crossings.append(Crossing(name, frozenset(readers), (i,)))
    told = Told(
        {name: (draw(SECONDS), draw(SECONDS)) for name in names},
        {i: (draw(SECONDS), draw(SECONDS)) for i in range(len(names))},
    )
    return Regions(regions, crossings), told


@settings(max_examples=150, deadline=None)
@given(networks())
def test_no_placement_is_cheaper(drawn: tuple[Regions, Told]) -> None:
    regions, told = drawn
    forced = {region.layer for region in regions.regions if not region.can_be_integer}
    names = [region.layer for region in regions.regions]
    every = [
        frozenset(chosen)
        for count in range(len(names) + 1)
        for chosen in combinations(names, count)
        if forced <= set(chosen)
    ]
    found = cheapest_floats(regions, told)
    assert forced <= found
    total = sum(max(pair) for pair in (*told.regions.values(), *told.crossings.values()))
    least = min(placement_time(regions, told, floats) for floats in every)
    assert placement_time(regions, told, found) <= least + 1e-6 * total + 1e-12


def test_a_region_in_float_must_save_more_than_its_conversions_cost() -> None:
    regions = Regions(
        [Region(name, PATTERN) for name in ("a", "b", "c")],
        [Crossing("a", frozenset({"b"}), (0,)), Crossing("b", frozenset({"c"}), (1,))],
    )
    times = {"a": (3e-6, 1e-6), "b": (1e-6, 4e-6), "c": (3e-6, 1e-6)}
    dear, cheap = {0: (2e-6, 2e-6), 1: (2e-6, 2e-6)}, {0: (1e-6, 1e-6), 1: (1e-6, 1e-6)}
    assert cheapest_floats(regions, Told(times, dear)) == frozenset()
    assert cheapest_floats(regions, Told(times, cheap)) == {"b"}


def test_at_equal_costs_layers_stay_integers_and_layers_of_plugins_are_never_float() -> None:
    same = Regions([Region("a", PATTERN)], [])
    assert cheapest_floats(same, Told({"a": (1e-6, 1e-6)}, {})) == frozenset()
    whole = Regions([Region("a", PATTERN, can_be_float=False)], [])
    assert cheapest_floats(whole, Told({"a": (1e-6, 1.0)}, {})) == frozenset()
    assert cheapest_floats(Regions([], []), Told({}, {})) == frozenset()


def test_a_tensor_is_converted_once_for_all_its_readers() -> None:
    regions = Regions([Region(n, PATTERN) for n in ("a", "b", "c")], [Crossing("a", frozenset({"b", "c"}), (0,))])
    told = Told({"a": (9e-6, 1e-6), "b": (1e-6, 4e-6), "c": (1e-6, 4e-6)}, {0: (9e-6, 5e-6)})
    assert cheapest_floats(regions, told) == {"b", "c"}
    assert placement_time(regions, told, frozenset({"b", "c"})) == pytest.approx(8e-6)
