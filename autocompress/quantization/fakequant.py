"""The uniform fake-quantizer rounds a tensor to a grid, in float (whitepaper section 2)."""

from __future__ import annotations

from typing import Literal

import torch

from autocompress.contract import FakeQuantizer, Hardened, TensorSpec
from autocompress.errors import TrialFailed
from autocompress.quantization.histograms import Entropy, MeanSquaredError, Percentile
from autocompress.quantization.observers import MinMax, MovingAverage, Observer, Range, least_squares, minmax
from autocompress.quantization.ops import fake_quant
from autocompress.quantization.scales import affine, quantize, signed_levels, symmetric, unsigned_levels

Estimator = Literal["ema_minmax", "minmax", "percentile", "mse", "entropy"]
ACTIVATION_ESTIMATORS: tuple[Estimator, ...] = ("ema_minmax", "minmax", "percentile", "mse", "entropy")
WEIGHT_ESTIMATORS: tuple[Estimator, ...] = ("minmax", "mse")
TRAINING_DECAY = 0.99
"""Decay of the moving averages in training.

It is larger than in calibration, because training has more steps and smaller batches. TensorFlow's
0.999 is for trainings with more steps.
"""
SEARCH_EVERY = 32
"""Training steps between two searches for the range with the least squared error of a weight."""


class UniformFakeQuantizer(FakeQuantizer):
    """A grid with scale and zero point over an observed range.

    Weights: signed integers, symmetric and narrow (-127 .. 127) or asymmetric (-128 .. 127), with
    one scale per output channel or per tensor. Without calibration, the range is that of the first
    weight that is quantized.

    Activations: 0 .. 2^bits - 1, with one scale per tensor, asymmetric (zero point 0 if the tensor
    cannot be negative) or symmetric. Without calibration, as in a dry run, their range is (-6, 6)
    or (0, 6), the initial range of TensorFlow.

    Args:
        spec: the tensor; 2 to 8 bits for weights, 1 to 8 for activations.
        is_symmetric: the zero point is fixed at the middle of the grid.
        per_channel: weights only; ignored where ``spec`` has no channel axis.
        estimator: the method for finding the range; one of WEIGHT_ESTIMATORS or
            ACTIVATION_ESTIMATORS.
        images: activations only; number of images to observe, later ones are ignored. None for all.

    Raises:
        ValueError: for a number of bits or an estimator that does not fit the role.
    """

    scale: torch.Tensor
    """float32, scalar or ``(channels,)``; 0 for a weight without a range so far."""
    zero_point: torch.Tensor
    """int32, of the same shape."""

    def __init__(
        self,
        spec: TensorSpec,
        *,
        is_symmetric: bool | None = None,
        per_channel: bool = True,
        estimator: Estimator | None = None,
        images: int | None = None,
    ) -> None:
        super().__init__(spec)
        self.is_weight = spec.role == "weight"
        self.is_symmetric = self.is_weight if is_symmetric is None else is_symmetric
        self.axis = spec.channel_axis if self.is_weight and per_channel else None
        self.estimator: Estimator = estimator or ("minmax" if self.is_weight else "ema_minmax")
        if self.estimator not in (WEIGHT_ESTIMATORS if self.is_weight else ACTIVATION_ESTIMATORS):
            raise ValueError(f"the estimator '{self.estimator}' cannot be used for a {self.spec.role}")
        self.codes = (
            signed_levels(spec.bits, narrow=self.is_symmetric) if self.is_weight else unsigned_levels(spec.bits)
        )
        self._images_left = images
        self._weight: torch.Tensor | None = None  # the last weight that was observed
        self._fitted = not self.is_weight
        self._settled = False  # the engine chose the scale
        self._tracked = 0
        self.observer = None if self.is_weight else self._make_observer()
        shape = () if self.axis is None else (spec.shape[self.axis],)
        self.register_buffer("scale", torch.zeros(shape))
        self.register_buffer("zero_point", torch.zeros(shape, dtype=torch.int32))
        if not self.is_weight:
            self._set_range(torch.tensor(-6.0), torch.tensor(6.0))

    def _make_observer(self) -> Observer:
        match self.estimator:
            case "ema_minmax":
                return MovingAverage()
            case "minmax":
                return MinMax()
            case "percentile":
                return Percentile()
            case "mse":
                return MeanSquaredError(self.codes, self.is_symmetric)
            case "entropy":
                return Entropy(self.codes)

    # --- ranges -----------------------------------------------------------------------------------

    def _observe(self, x: torch.Tensor) -> None:
        if self.observer is None:
            self._weight = x.detach()
            return
        if self._images_left is not None and x.ndim:  # a single number is the same for all images
            x = x[: self._images_left]
            self._images_left -= len(x)
        self.observer.observe(x)

    def levels(self) -> torch.Tensor | None:
        """The integers of a symmetric weight; None for other tensors, whose zero point varies."""
        if not self.is_weight or not self.is_symmetric:
            return None
        return torch.arange(self.codes.low, self.codes.high + 1, dtype=torch.float32)

    def settle(self, scale: torch.Tensor) -> None:
        """Sets the scale to ``scale``."""
        self.scale.copy_(scale.reshape(-1)[0] if self.scale.ndim == 0 else scale)
        self.zero_point.zero_()
        self._fitted = self._settled = True

    @property
    def shares_scale(self) -> bool:
        """Whether there is one scale for the whole tensor."""
        return self.axis is None

    def finish_observing(self) -> None:
        """Sets scale and zero point from the observations; without any, they are unchanged.

        Raises:
            TrialFailed: if a value was not finite.
        """
        if self._weight is not None:
            if not self._settled:
                self._fit(self._weight)
            self._weight = None
        elif self.observer is not None and self.observer.seen:
            self._set_range(*self.observer.range())

    def _track(self, x: torch.Tensor) -> None:
        if self.is_weight:
            if self.estimator == "minmax" or self._tracked % SEARCH_EVERY == 0:
                self._fit(x)
            self._tracked += 1
        elif isinstance(self.observer, MinMax | MovingAverage):
            if isinstance(self.observer, MovingAverage) and self.observer.seen:
                self.observer.decay = TRAINING_DECAY
            self.observer.observe(x)
            if self.observer.seen:
                self._set_range(*self.observer.range())

    def _fit(self, weight: torch.Tensor) -> None:
        """Sets the range of a weight."""
        self._set_range(*self._weight_range(weight.detach().float()))
        self._fitted = True

    def _weight_range(self, weight: torch.Tensor) -> Range:
        if self.estimator == "mse":
            return least_squares(weight, self.codes, self.is_symmetric, self.axis)
        return minmax(weight, self.axis)

    def _set_range(self, low: torch.Tensor, high: torch.Tensor) -> None:
        if not bool(torch.isfinite(low).all() and torch.isfinite(high).all()):
            raise TrialFailed(f"the values of '{self.spec.name}' are not finite")
        if self.spec.nonnegative:
            low = low.clamp(min=0.0)
        scale, zero_point = (symmetric if self.is_symmetric else affine)(low, high, self.codes)
        self.scale.copy_(scale)
        self.zero_point.copy_(zero_point)

    def _require_range(self, x: torch.Tensor) -> None:
        """Gives a weight without observations its own range, unless a state dict has one."""
        if not self._fitted:
            if not bool((self.scale > 0).all()):
                self._fit(x)
            self._fitted = True

    # --- the tensor -------------------------------------------------------------------------------

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` rounded to the grid (eq. 12 and 13, signs corrected); gradient of eq. 14 and 15."""
        if self.observing:
            self._observe(x)
            return x
        if self.tracking and self.training:
            self._track(x.detach())
        if not self.enabled:
            return x
        self._require_range(x)
        levels = self.codes
        quantized: torch.Tensor = fake_quant(x, self.scale, self.zero_point, levels.low, levels.high, self.axis)
        return quantized

    def harden(self, weight: torch.Tensor | None = None) -> Hardened:
        """The integers and constants for the file; ``weight`` is given for a weight only.

        Raises:
            ValueError: if ``weight`` is missing.
        """
        integers = None
        if self.is_weight:
            if weight is None:
                raise ValueError(f"'{self.spec.name}' is a weight: its integers need the float tensor")
            self._require_range(weight)
            with torch.no_grad():
                codes = quantize(weight.detach().float(), self.scale, self.zero_point, self.codes, self.axis)
            integers = codes.to(torch.int8)
        return Hardened(
            scale=self.scale.detach().clone(),
            zero_point=self.zero_point.detach().clone(),
            low=self.codes.low,
            high=self.codes.high,
            bits=self.spec.bits,
            integers=integers,
            channel_axis=self.axis,
        )

    def extra_repr(self) -> str:
        kind = "symmetric" if self.is_symmetric else "asymmetric"
        return f"{self.spec.name}, {self.spec.bits} bits, {kind}, axis={self.axis}, {self.estimator}"
