"""TensorSpec (a tensor to quantize), FakeQuantizer, and Hardened (integers for the file)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn


@dataclass(frozen=True)
class TensorSpec:
    """One tensor to quantize, as in the traced graph.

    Attributes:
        name: name of the parameter or graph node; unique in the network.
        role: "weight" or "activation".
        group: its group of the baseline (see ``Space.groups``).
        operator: what makes or uses it: "conv", "depthwise", "linear", "input" (the image), or
            another word of ``graph.kinds`` ("add", "multiply", "concat", "global_pool",
            "activation", ...).
        shape: its shape; activations with a batch of 1.
        bits: the number of bits in the recipe, 1 to 8.
        channel_axis: for weights, the axis of the output channels; None for activations, which have
            one scale per tensor.
        nonnegative: values cannot be negative (behind a ReLU), so the zero point is 0.
        normed: for weights: a batch normalisation follows the layer, so the scale of the weight has
            no effect.
    """

    name: str
    role: Literal["weight", "activation"]
    group: str
    operator: str
    shape: tuple[int, ...]
    bits: int = 8
    channel_axis: int | None = None
    nonnegative: bool = False
    normed: bool = False


@dataclass(frozen=True)
class Hardened:
    """The result of a quantizer, as stored in the exported file.

    ``value = (integer - zero_point) * scale``.

    Attributes:
        scale: float32, scalar or ``(channels,)``, > 0.
        zero_point: int32, same shape as ``scale``.
        low, high: range of the integers, both included. Weights fit int8, activations uint8.
        bits: bits per integer on disk: at most ``2 ** bits`` different integers occur.
        step: difference of neighbouring integers: ``low, low + step, ...``; the file stores
            ``(integer - low) / step``.
        integers: int8, the shape of the weight; None for an activation.
        channel_axis: axis of ``scale`` in ``integers``; None for one scale per tensor.
    """

    scale: torch.Tensor
    zero_point: torch.Tensor
    low: int
    high: int
    bits: int
    integers: torch.Tensor | None = None
    channel_axis: int | None = None
    step: int = 1


@dataclass(frozen=True)
class Grid:
    """Constants of a quantized activation: ``value = (integer - zero_point) * scale``.

    Integers are between ``low`` and ``high``.
    """

    scale: float
    zero_point: int
    low: int
    high: int

    @property
    def bits(self) -> int:
        """The number of bits for its integers."""
        return (self.high - self.low).bit_length()


class FakeQuantizer(nn.Module, ABC):
    """Simulates a quantized tensor in float. The engine switches its states.

    - ``observing``: calibration collects ranges, and the tensor is returned unchanged.
    - ``enabled``: ``forward`` quantizes.
    - neither: the tensor is returned unchanged (quantization delay).
    - ``tracking``, with or without ``enabled``: in ``train()`` mode the range follows the tensors,
      until the engine freezes it.

    Calls run without autocast and pass at least float32 to ``forward``, because 16-bit floats
    cannot represent the grid of 8-bit integers.
    """

    folds_norm: ClassVar[bool] = True
    """Whether the batch normalisation behind a layer is folded into its weights.

    True: ``forward`` and ``harden`` get the weight scaled by the long-term statistics, ``gamma /
    sigma * W`` (whitepaper, eq. 23). False: they get the weight of the layer. The normalisation
    then follows the layer and becomes part of the hardened scale (SLB).
    """

    def __init__(self, spec: TensorSpec) -> None:
        super().__init__()
        self.spec = spec
        self.enabled = True
        self.observing = False
        self.tracking = False

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32)) if self.observing or self.enabled else x
        with torch.autocast(x.device.type, enabled=False):
            found: torch.Tensor = super().__call__(wide)
        return x if found is wide else found  # an observing quantizer returns tensors unchanged

    @abstractmethod
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` rounded to the values of its integers, in the same shape and at least float32.

        The gradient is that of the identity within the range, and zero outside.
        """

    @abstractmethod
    def harden(self, weight: torch.Tensor | None = None) -> Hardened:
        """The integers for the file; ``weight`` is the float tensor of a weight, else None."""

    def finish_observing(self) -> None:
        """Computes scale and zero point from the observed range; called once after calibration."""

    # -- rounding that the engine chooses
    # ----------------------------------------------------------------------------------------------

    @property
    def starts_from_rounding(self) -> bool:
        """Whether training starts from the rounded weight instead of the float weight.

        The engine rounds the weight by ``Quantizer.rounding``.
        """
        return False

    def levels(self) -> torch.Tensor | None:
        """The values of a weight in units of its scale: float32 ``(m,)``, ascending, evenly spaced.

        None for activations and for weights with a zero point, which the engine does not round.
        """
        return None

    def round_to(self, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """``weight`` rounded to the nearest levels at ``scale``, which broadcasts against it.

        Raises:
            ValueError: where there are no levels.
        """
        levels = self.levels()
        if levels is None:
            raise ValueError(f"'{self.spec.name}' has no levels to round to")
        step = levels[1] - levels[0]
        index = ((weight / scale - levels[0]) / step).round().clamp(0, len(levels) - 1)
        return (levels[0] + step * index) * scale

    def settle(self, scale: torch.Tensor) -> None:
        """Sets the scale of a weight that was rounded to :meth:`levels`.

        Later calibration does not change this scale.

        Args:
            scale: float32, one for each output channel, or a scalar.

        Raises:
            ValueError: where there are no levels.
        """
        raise ValueError(f"'{self.spec.name}' has no levels, and takes no scale of shape {tuple(scale.shape)}")

    @property
    def shares_scale(self) -> bool:
        """Whether all output channels have one scale."""
        return False
