"""TensorSpec (what a quantizer is asked about), FakeQuantizer, and Hardened (for the file)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn


@dataclass(frozen=True)
class TensorSpec:
    """One tensor to be quantized, as the traced graph knows it.

    Attributes:
        name: the parameter's or graph node's name; unique in the network.
        role: "weight" or "activation".
        group: the group of the baseline it belongs to (see ``Space.groups``).
        operator: what makes or uses it: "conv", "depthwise", "linear", "input" (the image), or
            another word of ``graph.kinds`` ("add", "multiply", "concat", "global_pool",
            "activation", ...).
        shape: its shape; activations with a batch of 1.
        bits: the width that the recipe asks for, 1 to 8.
        channel_axis: for weights the axis of the output channels; None for activations (always one
            scale a tensor).
        nonnegative: the values cannot be negative (behind a ReLU), so the zero point is 0.
        normed: for weights: a batch normalisation follows the layer, so the weight's own scale has
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
    """A finished quantizer: what the exported file holds.

    ``value = (integer - zero_point) * scale``.

    Attributes:
        scale: float32, scalar or ``(channels,)``, > 0.
        zero_point: int32, same shape as ``scale``.
        low, high: the integers' range, both included. Weights fit int8, activations uint8.
        bits: the width on disk: at most ``2 ** bits`` integers occur.
        step: between neighbouring integers: ``low, low + step, ...``; the file holds ``(integer -
            low) / step``.
        integers: int8, the weight's shape; None for an activation.
        channel_axis: axis of ``scale`` in ``integers``; None for one scale a tensor.
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

    Integers go from ``low`` to ``high``.
    """

    scale: float
    zero_point: int
    low: int
    high: int

    @property
    def bits(self) -> int:
        """The width that holds its integers."""
        return (self.high - self.low).bit_length()


class FakeQuantizer(nn.Module, ABC):
    """Simulates a quantized tensor in float. States, switched by the engine:

    ``observing`` (calibration: ranges are collected, ``forward`` returns its input unchanged),
    ``enabled`` (``forward`` quantizes), neither (``forward`` returns its input: a quantization
    delay), and ``tracking`` beside the last two (training: in ``train()`` mode the range follows
    the tensors that pass, until the engine freezes it).

    Calls run with autocast off and give ``forward`` at least float32: 16-bit floats cannot hold the
    grid of 8-bit integers. While neither observing nor enabled, the tensor passes as it is.
    """

    folds_norm: ClassVar[bool] = True
    """Weights with a batch normalisation behind them.

    True: ``forward`` and ``harden`` get the weight as the long-term statistics scale it, ``gamma /
    sigma * W`` (whitepaper, eq. 23). False: they get the layer's own weight, the normalisation acts
    behind the layer, and goes into the hardened scale (SLB)."""

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
        return x if found is wide else found  # what only observes passes tensors on as they are

    @abstractmethod
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` as its integers represent it, in the same shape and at least float32.

        The gradient passes straight through within the range, and is zero outside.
        """

    @abstractmethod
    def harden(self, weight: torch.Tensor | None = None) -> Hardened:
        """What the file holds; ``weight`` is the float tensor where ``spec.role`` is "weight"."""

    def finish_observing(self) -> None:
        """Turns what was observed into scale and zero point; called once when calibration ends."""
