"""Measured times of regions, and of changes between integers and float, for any network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
from scipy.optimize import nnls

from autocompress.files import digest
from autocompress.quantization.cutting import cheapest_floats
from autocompress.quantization.regions import Crossing, Pattern, Region, Regions

FIXED, EACH = 5e-6, 2e-10
"""Typical seconds to convert a tensor: fixed, and for each of its values."""
Verdict = Literal["cut", "integers", "float"]
"""The regions that compute in float: those of the cut, none, or all."""


@dataclass(frozen=True)
class Change:
    """Seconds to convert a tensor between integers and float: ``fixed + each * values``.

    Attributes:
        enter: (fixed, each) from float to integers.
        leave: (fixed, each) from integers to float.
    """

    enter: tuple[float, float] = (0.0, 0.0)
    leave: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def fitted(cls, values: Sequence[int], enter: Sequence[float], leave: Sequence[float]) -> Change:
        """Fits by least squares without negative coefficients, weighted by the typical times."""
        return cls(_line(values, enter), _line(values, leave))


def _line(values: Sequence[int], seconds: Sequence[float]) -> tuple[float, float]:
    weights = 1.0 / (FIXED + EACH * np.asarray(values, float))
    columns = np.stack([np.ones(len(values)), np.asarray(values, float)], axis=1)
    scale = np.array([FIXED, EACH])
    found, _ = nnls(columns * scale * weights[:, None], np.asarray(seconds, float) * weights)
    return float(found[0] * scale[0]), float(found[1] * scale[1])


@dataclass(frozen=True)
class MeasuredCosts:
    """The times by which the placement of a job is chosen; constant while the job is open.

    Attributes:
        patterns: the timed patterns.
        seconds: (seconds in float, seconds in integers) of each of ``patterns``.
        maps: conversion of tensors of convolutions.
        rows: conversion of other tensors.
        verdict: the fastest choice by the times of whole files.
        weight: weight of conversions relative to regions, by the times of whole files.
    """

    patterns: Sequence[Pattern]
    seconds: Sequence[tuple[float, float]]
    maps: Change = field(default_factory=Change)
    rows: Change = field(default_factory=Change)
    verdict: Verdict = "cut"
    weight: float = 1.0

    def floats(self, regions: Regions) -> frozenset[str]:
        """The layers of a network that compute in float."""
        if self.verdict == "integers":
            return frozenset()
        if self.verdict == "float":
            return frozenset(region.layer for region in regions.regions if region.can_be_float)
        return cheapest_floats(regions, self)

    def region(self, region: Region) -> tuple[float, float]:
        """Seconds (in float, in integers), as timed or estimated from the most similar pattern.

        The most similar pattern has the same operators and the nearest amount of work. Its times
        are scaled in proportion to the work. If there is none, both times are 0.
        """
        pattern = region.pattern
        if (known := self._by_key.get(pattern.key)) is not None:
            return known
        for candidates in (self._by_kind.get(pattern.kind), self._by_family.get(pattern.family)):
            if candidates:
                place = min(candidates, key=lambda place: abs(math.log(self._work(place) / pattern.work)))
                factor = pattern.work / self._work(place)
                in_float, in_integers = self.seconds[place]
                return in_float * factor, in_integers * factor
        return 0.0, 0.0

    def crossing(self, crossing: Crossing) -> tuple[float, float]:
        """Seconds (from float to integers, from integers to float), times ``weight``.

        A tensor that an integer network also writes as floats is converted in any case.
        """
        if not crossing.on_grid:
            return 0.0, 0.0
        change, values = self.maps if crossing.is_map else self.rows, math.prod(crossing.shape)
        fixed, each = change.enter
        again, every = change.leave
        return self.weight * (fixed + each * values), self.weight * (again + every * values)

    def judged(self, verdict: Verdict, weight: float = 1.0) -> MeasuredCosts:
        """The same times with another verdict."""
        return replace(self, verdict=verdict, weight=weight)

    @cached_property
    def key(self) -> str:
        """Content key, for results that depend on the placement."""
        pairs = sorted(zip([pattern.key for pattern in self.patterns], self.seconds, strict=True))
        told = [[key, *seconds] for key, seconds in pairs]
        changes = [[*change.enter, *change.leave] for change in (self.maps, self.rows)]
        return digest("placement", told, changes, self.verdict, self.weight)

    @cached_property
    def _by_key(self) -> Mapping[str, tuple[float, float]]:
        return {pattern.key: seconds for pattern, seconds in zip(self.patterns, self.seconds, strict=True)}

    @cached_property
    def _by_kind(self) -> Mapping[tuple[object, ...], list[int]]:
        return self._grouped([pattern.kind for pattern in self.patterns])

    @cached_property
    def _by_family(self) -> Mapping[tuple[object, ...], list[int]]:
        return self._grouped([pattern.family for pattern in self.patterns])

    def _work(self, place: int) -> float:
        return max(self.patterns[place].work, 1.0)

    @staticmethod
    def _grouped(names: Sequence[tuple[object, ...]]) -> dict[tuple[object, ...], list[int]]:
        found: dict[tuple[object, ...], list[int]] = {}
        for place, name in enumerate(names):
            found.setdefault(name, []).append(place)
        return found
