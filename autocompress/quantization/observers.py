"""Observers: the range of a quantizer, estimated from observed values (section 2.5).

This module has the observers that store two numbers; ``histograms`` has those that use the whole
distribution. An observer gets one batch at a time. Its range is read once, when calibration ends.
Weights are known completely and need no observer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn

from autocompress.quantization.ops import fake_quant
from autocompress.quantization.scales import Levels, affine, along, symmetric

Range = tuple[torch.Tensor, torch.Tensor]
"""Smallest and largest value to cover: float32, scalars or ``(channels,)``.

It may exclude 0; the scales include it later.
"""


class Observer(nn.Module, ABC):
    """Collects activations, and returns one range for the whole tensor.

    ``seen`` is True after the first value.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    @torch.no_grad()
    def observe(self, x: torch.Tensor) -> None:
        """Observes the values of one batch; an empty tensor has no effect."""
        if x.numel():
            self._observe(x.detach().float())
            self.seen = True

    def range(self) -> Range:
        """The range so far; not finite if a value was not finite.

        Raises:
            RuntimeError: if nothing was observed.
        """
        if not self.seen:
            raise RuntimeError("an observer was asked for its range before it saw a tensor")
        return self._range()

    @abstractmethod
    def _observe(self, x: torch.Tensor) -> None:
        """:meth:`observe` for a tensor that has values, float32."""

    @abstractmethod
    def _range(self) -> Range:
        """:meth:`range`, after the first value."""


class _TwoEnds(Observer):
    low: torch.Tensor
    high: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        # Not persistent: an artifact keeps the scale that follows from the range.
        self.register_buffer("low", torch.zeros(()), persistent=False)
        self.register_buffer("high", torch.zeros(()), persistent=False)

    def _range(self) -> Range:
        return self.low, self.high


class MinMax(_TwoEnds):
    """The smallest and the largest value of all."""

    def _observe(self, x: torch.Tensor) -> None:
        low, high = minmax(x)
        self.low = torch.minimum(self.low, low) if self.seen else low
        self.high = torch.maximum(self.high, high) if self.seen else high


class MovingAverage(_TwoEnds):
    """Exponential moving average of batch minimum and maximum; the paper's choice for activations.

    Deliberate differences from TensorFlow's tool: the first batch initialises the average (not the
    range (-6, 6)), and the decay is 0.9. TensorFlow's 0.999 needs thousands of batches to settle,
    and calibration has some tens.
    """

    def __init__(self, decay: float = 0.9) -> None:
        super().__init__()
        self.decay = decay

    def _observe(self, x: torch.Tensor) -> None:
        low, high = minmax(x)
        self.low = torch.lerp(low, self.low, self.decay) if self.seen else low
        self.high = torch.lerp(high, self.high, self.decay) if self.seen else high


# --- ranges of weights ----------------------------------------------------------------------------


def minmax(x: torch.Tensor, axis: int | None = None) -> Range:
    """Smallest and largest value of ``x``: scalars, or ``(channels,)`` along ``axis``.

    This is the choice of the paper for weights.
    """
    low, high = torch.aminmax(x) if axis is None else torch.aminmax(x.movedim(axis, 0).flatten(1), dim=1)
    return low, high


def least_squares(x: torch.Tensor, levels: Levels, is_symmetric: bool, axis: int | None = None) -> Range:
    """The shrunken range of ``x`` (per channel along ``axis``) with the smallest squared error.

    The full range is one of the candidates.

    Returns:
        Ranges as :func:`minmax`.
    """
    rows = x.detach().float()
    rows = rows.reshape(1, -1) if axis is None else rows.movedim(axis, 0).flatten(1)
    lows, highs = zip(*(_best_rows(part, levels, is_symmetric) for part in rows.split(_ROWS)), strict=True)
    low, high = torch.cat(lows), torch.cat(highs)
    return (low[0], high[0]) if axis is None else (low, high)


_ROWS = 32
"""Channels that are searched at a time, so that repeated computations stay in the cache."""


def _best_rows(rows: torch.Tensor, levels: Levels, is_symmetric: bool) -> Range:
    """:func:`least_squares` of each row."""
    lows, highs = shrunken(*torch.aminmax(rows, dim=1), steps=33)
    pairs = zip(lows, highs, strict=True)
    errors = torch.stack([squared_error(rows, low, high, levels, is_symmetric).sum(1) for low, high in pairs])
    best = errors.argmin(0, keepdim=True)
    return lows.gather(0, best)[0], highs.gather(0, best)[0]


def squared_error(
    rows: torch.Tensor, low: torch.Tensor, high: torch.Tensor, levels: Levels, is_symmetric: bool
) -> torch.Tensor:
    """Squared error of each value of ``rows`` on the grid over the range of its row.

    ``rows`` is ``(n, values)`` or ``(1, values)``.

    Args:
        low, high: ``(n,)``.

    Returns:
        ``(n, values)``.
    """
    scale, zero_point = (symmetric if is_symmetric else affine)(low, high, levels)
    rows = rows.expand(len(low), -1)
    simulated: torch.Tensor = fake_quant(rows, scale, zero_point, levels.low, levels.high, 0)
    return simulated.sub_(rows).square_()


def shrunken(low: torch.Tensor, high: torch.Tensor, steps: int = 80, smallest: float = 0.2) -> Range:
    """``steps`` versions of one or several ranges, from the whole range to ``smallest`` of it.

    Both ends are ``(steps, *low.shape)``.
    """
    factors = along(torch.linspace(1.0, smallest, steps, dtype=low.dtype, device=low.device), low.ndim + 1, 0)
    return factors * low, factors * high
