"""Observers that use the whole distribution of an activation, from a common histogram."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch

from autocompress.quantization.observers import Observer, Range, shrunken, squared_error
from autocompress.quantization.scales import Levels


class Histogram(Observer):
    """Counts of all values in ``BINS`` bins of equal width around 0.

    The width is a power of two. If a value falls outside, the width doubles and bins merge in
    pairs. So no value is ever clipped or counted twice, and the counts do not depend on the order
    of batches.
    """

    BINS = 8192
    counts: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.exponent: int | None = None  # a bin is 2^exponent wide; None while all values were 0
        self.low, self.high = math.inf, -math.inf
        self.register_buffer("counts", torch.zeros(self.BINS, dtype=torch.float64), persistent=False)

    @property
    def width(self) -> float:
        """The width of a bin."""
        return 2.0 ** (self.exponent or 0)

    @property
    def centres(self) -> torch.Tensor:
        """Middle of each bin, float64 ``(BINS,)``."""
        bins = torch.arange(self.BINS, dtype=torch.float64, device=self.counts.device)
        return (bins - self.BINS // 2 + 0.5) * self.width

    def _observe(self, x: torch.Tensor) -> None:
        low, high = (float(end) for end in torch.aminmax(x))
        if not (math.isfinite(low) and math.isfinite(high)):
            self.low = self.high = math.nan  # such values cannot be counted; the range stays NaN
            return
        self.low, self.high = min(self.low, low), max(self.high, high)
        needed = _exponent(max(-low, high), self.BINS // 2)
        if needed is not None and (self.exponent is None or needed > self.exponent):
            self._widen(needed)
        # This is exact, because the width is a power of two. torch.histc would round values
        # that are small relative to the range.
        bins = torch.floor(x.flatten() / self.width).to(torch.int32) + self.BINS // 2
        self.counts = self.counts + torch.bincount(bins, minlength=self.BINS)

    def _widen(self, exponent: int) -> None:
        """Merges neighbours until bins are ``2^exponent`` wide; 0 stays an edge between bins."""
        if self.exponent is not None:
            # After log2(bins) doublings, all counts are in the two bins at 0.
            for _ in range(min(exponent - self.exponent, self.BINS.bit_length())):
                below, above = (half.reshape(-1, 2).sum(1) for half in self.counts.chunk(2))
                room = torch.zeros_like(below)
                self.counts = torch.cat([room, below, above, room])
        self.exponent = exponent

    def _range(self) -> Range:
        low, high = self.low, self.high
        if low < high:  # two different finite values at least
            estimate = self._estimate()
            low, high = max(low, estimate[0]), min(high, estimate[1])
        ends = torch.tensor([low, high], dtype=torch.float32, device=self.counts.device)
        return ends[0], ends[1]

    @abstractmethod
    def _estimate(self) -> tuple[float, float]:
        """The estimated range, before it is limited to the observed values."""


class Percentile(Histogram):
    """Leaves out the share ``1 - percentile / 100`` of the values.

    Half of this share is left out at each end. If no value is negative, the whole share is left out
    at the upper end.
    """

    def __init__(self, percentile: float = 99.99) -> None:
        super().__init__()
        self.outside = 1.0 - percentile / 100.0

    def _estimate(self) -> tuple[float, float]:
        total = self.counts.cumsum(0) / self.counts.sum()
        if self.low >= 0.0:
            return self.low, self._edge(total, 1.0 - self.outside) + self.width
        return self._edge(total, self.outside / 2), self._edge(total, 1.0 - self.outside / 2) + self.width

    def _edge(self, total: torch.Tensor, share: float) -> float:
        """Lower edge of the bin in which the cumulated share reaches ``share``."""
        index = int(torch.searchsorted(total, share).clamp(max=self.BINS - 1))
        return (index - self.BINS // 2) * self.width


class MeanSquaredError(Histogram):
    """The fraction of the whole range whose grid gives the smallest squared error.

    Args:
        levels: the integers of the grid.
        is_symmetric: the zero point is fixed at the middle of the grid.
    """

    def __init__(self, levels: Levels, is_symmetric: bool = False) -> None:
        super().__init__()
        self.levels, self.is_symmetric = levels, is_symmetric

    def _estimate(self) -> tuple[float, float]:
        full = torch.tensor([self.low, self.high], dtype=torch.float32, device=self.counts.device)
        lows, highs = shrunken(full[0], full[1])
        low = high = self._best(lows, highs)
        if self.low < 0.0 < self.high and not self.is_symmetric:
            # The two ends may shrink by different factors, so one end is searched at a time.
            low = self._best(lows, highs[high].expand_as(highs))
            high = self._best(lows[low].expand_as(lows), highs)
        return float(lows[low]), float(highs[high])

    def _best(self, lows: torch.Tensor, highs: torch.Tensor) -> int:
        """Index of the range with the least error; each value is taken as the centre of its bin."""
        used = self.counts > 0
        values, counts = self.centres[used].float(), self.counts[used].float()
        errors = squared_error(values[None, :], lows, highs, self.levels, self.is_symmetric)
        return int((errors @ counts).argmin())


class Entropy(Histogram):
    """The threshold on ``abs(x)`` with the least KL divergence of clipped from quantized values.

    Migacz, "8-bit inference with TensorRT", GTC 2017; the whitepaper names it as an alternative in
    section 2.5.

    Args:
        levels: the integers of the grid. If both signs occur, half of them are for ``|x|``.
    """

    THRESHOLDS = 128
    """Number of thresholds to try."""

    def __init__(self, levels: Levels) -> None:
        super().__init__()
        self.levels = levels

    def _estimate(self) -> tuple[float, float]:
        below, above = self.counts.chunk(2)
        magnitude = below.flip(0) + above
        # Zero is exact on every grid. Counting the many zeros of a ReLU would only favour grids
        # with many levels near zero.
        magnitude[0] = magnitude[1]
        last = min(math.floor(max(-self.low, self.high) / self.width) + 1, len(magnitude))
        groups = self.levels.steps + 1
        if self.low < 0.0 < self.high:
            groups //= 2
        # With one level per bin the divergence would be 0, whatever is clipped. So the search
        # starts at two bins per level.
        thresholds = torch.linspace(min(2 * groups, last), last, self.THRESHOLDS).round().int().unique().tolist()
        best = min(thresholds, key=lambda bins: divergence(magnitude, bins, groups))
        return -best * self.width, best * self.width


def divergence(magnitude: torch.Tensor, bins: int, groups: int) -> float:
    """KL divergence between clipped counts and their average in ``groups`` groups.

    The first distribution is the first ``bins`` counts, with all counts beyond added to the last
    bin. The second lacks the counts beyond, and is averaged over the non-empty bins of each group.

    Args:
        magnitude: counts of ``|x|``, float64.
        bins: how many of them the grid covers.
        groups: levels of the grid.
    """
    inside = magnitude[:bins]
    clipped = inside.clone()
    clipped[-1] += magnitude[bins:].sum()
    group = torch.arange(bins, device=magnitude.device) * groups // bins
    occupied = (inside > 0).to(inside.dtype)
    empty = torch.zeros(groups, dtype=inside.dtype, device=inside.device)
    averages = empty.index_add(0, group, inside) / empty.index_add(0, group, occupied).clamp(min=1.0)
    averaged = averages[group] * occupied
    if not bool(averaged.any()):
        return math.inf
    # q may be 0 in the last bin, which may hold clipped values alone. A tiny probability there
    # makes the divergence large, but not infinite.
    p, q = clipped / clipped.sum(), (averaged / averaged.sum()).clamp(min=1e-12)
    return float(torch.special.xlogy(p, p / q).sum())


def _exponent(largest: float, bins: int) -> int | None:
    """The smallest exponent for which ``bins`` bins of width ``2^exponent`` exceed ``largest``.

    ``bins`` is a power of two. None if ``largest`` is 0.
    """
    if largest <= 0.0:
        return None
    # largest = fraction * 2^e with fraction < 1. Bins narrower than 2^-120 would have no width in
    # float32.
    return max(math.frexp(largest)[1] - (bins.bit_length() - 1), -120)
