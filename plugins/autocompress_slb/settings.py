"""The settings of SLB, with their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from autocompress_slb.schedule import Kind, TemperatureSchedule

Norm = Literal["calibrate_each_epoch", "two_statistics", "calibrate_end", "none"]
Init = Literal["from_trained", "rounded", "he_normal"]
Scale = Literal["none", "fixed", "learned"]
Activation = Literal["pact", "dorefa", "uniform"]
NORMS: tuple[Norm, ...] = ("calibrate_each_epoch", "two_statistics", "calibrate_end", "none")
INITS: tuple[Init, ...] = ("from_trained", "rounded", "he_normal")
SCALES: tuple[Scale, ...] = ("none", "fixed", "learned")
ACTIVATIONS: tuple[Activation, ...] = ("pact", "dorefa", "uniform")


@dataclass(frozen=True)
class Settings:
    """Parameters of the method. The space has some of them; the others have these values.

    Attributes:
        schedule, t_first, t_final, start, end, hard_tail: see TemperatureSchedule.
        every: the temperature changes each "step" (paper) or each "epoch" (published code).
        norm: how batch norms get the statistics of the discrete weights, see ``state_norm``. With
            "none" they keep those of the expectation, as an ablation.
        init: logits from the trained weights; or from trained weights rounded so that outputs of
            layers change least (docs/rounding.md); or random (He-normal, as in the published code).
        sharpness: sharpness of logits from trained weights; ``kappa = sharpness / (v_2 - v_1)^2``,
            see ``start``.
        scale: factor of the values, see ``fakequant``.
        activation: quantizer of activations that cannot be negative.
        lr_scale: learning rate of the logits, relative to that of the other parameters.
        weight_decay: weight decay of the logits. It pulls them towards the uniform distribution,
            against the annealing.
        calibration_images: number of images for ranges of activations.
        norm_images: number of images for statistics of batch norms.
    """

    schedule: Kind = "exponential"
    t_first: float = 1.0
    t_final: float = 1e3
    start: float = 0.3
    end: float = 0.9
    hard_tail: bool = True
    every: Literal["step", "epoch"] = "step"
    norm: Norm = "calibrate_each_epoch"
    init: Init = "from_trained"
    sharpness: float = 2.0
    scale: Scale = "fixed"
    activation: Activation = "pact"
    lr_scale: float = 1.0
    weight_decay: float = 0.0
    calibration_images: int = 256
    norm_images: int = 1024

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Settings:
        """The settings in a recipe's parameters; missing ones have their defaults.

        Raises:
            TypeError: for a name that is not one of the above.
        """
        unknown = set(params) - {field.name for field in fields(cls)}
        if unknown:
            raise TypeError(f"slb has no parameter {sorted(unknown)[0]!r}")
        return cls(**params)

    @property
    def temperature(self) -> TemperatureSchedule:
        """The schedule of T."""
        return TemperatureSchedule(self.schedule, self.t_first, self.t_final, self.start, self.end, self.hard_tail)
