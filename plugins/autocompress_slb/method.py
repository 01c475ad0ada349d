"""The quantizer ``slb``: its space, and which tensor gets which quantizer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from autocompress import models
from autocompress.contract import Callback, Context, FakeQuantizer, Params, Quantizer, Space, TensorSpec
from autocompress.errors import InvalidRecipe
from autocompress.quantization.fakequant import UniformFakeQuantizer
from autocompress.repair import Rounding
from autocompress_slb import start
from autocompress_slb.activations import DoReFaFakeQuantizer, PactFakeQuantizer
from autocompress_slb.callback import SlbCallback
from autocompress_slb.fakequant import SlbFakeQuantizer
from autocompress_slb.schedule import KINDS
from autocompress_slb.settings import ACTIVATIONS, INITS, NORMS, SCALES, Settings
from autocompress_slb.values import MOST_BITS

if TYPE_CHECKING:
    from autocompress.job import Job


class Slb(Quantizer):
    """Weights of 1 to 4 bits, found by a search over their few values instead of by rounding.

    Parameters (``slb.`` before each; none changes the deployed structure):
        t_final: the final temperature T. Softmax gets T times the logits, so a large T makes the
            distributions sharp.
        activation: "pact", "dorefa" or "uniform", for tensors that cannot be negative; the others
            are always uniform.
        lr_scale: learning rate of the logits, relative to that of the other parameters.
        schedule: the form of the growth of the temperature.
        norm: how batch norms get the statistics of the discrete weights. With "none", for
            ablations, they keep those of the expected weights (softmax averages of the values).
        init: logits from the trained weights, from the trained weights after rounding, or random
            (He-normal).
        scale: factor of the values: none, a fixed scale for each channel, or a learned one.

    The paper also has activations of 1 bit. Its encoding of them is unknown, so they are not
    offered.
    """

    name = "slb"
    version = "4"
    reference = (
        "Yang et al., Searching for Low-Bit Weights in Quantized Neural Networks, NeurIPS 2020, arXiv 2009.08695"
    )
    weight_bits = (1, 2, 3, 4)
    activation_bits = tuple(range(2, 9))
    needs_training = True
    min_epochs = 1

    least_depthwise_bits: ClassVar[int] = 4
    """Minimum bits of depthwise weights: there are few of them, and each is important."""

    def check(self, model: nn.Module, job: Job) -> list[str]:
        """Reasons against: no epochs, weights that are not finite, too little memory for 1 bit."""
        if job.budget.epochs < self.min_epochs:
            return [f"it needs {self.min_epochs} epoch of training, and the budget has {job.budget.epochs}"]
        exempt = (*models.stem(model), *models.classifier(model))
        layers = [
            module
            for name, module in model.named_modules()
            if isinstance(module, nn.Conv2d | nn.Linear)
            and not any(name == prefix or name.startswith(f"{prefix}.") for prefix in exempt)
        ]
        if not layers:
            return ["the model has no convolution and no linear layer besides its stem and classifier"]
        if not all(bool(torch.isfinite(layer.weight).all()) for layer in layers):
            return ["the model has weights that are not finite"]
        reason = start.shortage((layer.weight.numel(), 1) for layer in layers)
        return [f"even at 1 bit it {reason}"] if reason else []

    def search_space(self, space: Space, model: nn.Module) -> Params:
        """Parameters of the search over values; QUANTIZE itself asks for the bits of groups."""
        del model
        default = Settings()
        return {
            # With the number of epochs, it determines the paper's factor f (1.02 .. 1.2).
            "t_final": space.float("t_final", 3e2, 1e4, default=default.t_final, log=True, structural=False),
            "activation": space.categorical("activation", ACTIVATIONS, default=default.activation, structural=False),
            "lr_scale": space.categorical("lr_scale", (1.0, 3.0, 10.0), default=default.lr_scale, structural=False),
            # These choices cover what the paper compares, and what its later code uses.
            "schedule": space.categorical("schedule", KINDS, default=default.schedule, structural=False),
            "norm": space.categorical("norm", NORMS, default=default.norm, structural=False, neutral=default.norm),
            "init": space.categorical("init", INITS, default=default.init, structural=False),
            "scale": space.categorical("scale", SCALES, default=default.scale, structural=False, neutral=default.scale),
        }

    def calibration_images(self, params: Params) -> int:
        """Number of images for ranges of activations."""
        return Settings.of(params).calibration_images

    def rounding(self, params: Params, bits: int) -> Rounding:
        """Used if nothing is trained, or if the search starts from it (``init: rounded``)."""
        del params, bits
        return "descent"

    def callbacks(self, model: nn.Module, params: Params, context: Context) -> list[Callback]:
        """Temperature, parameter groups and batch norms of the layers that search."""
        del model
        return [SlbCallback(Settings.of(params), context)]

    def apply(self, spec: TensorSpec, params: Params, context: Context) -> FakeQuantizer:
        """A search for weights of at most 4 bits.

        Weights with more bits (8 in stem and classifier) and activations that can be negative get a
        uniform grid.

        Raises:
            InvalidRecipe: if the search over this one weight tensor does not fit into memory.
        """
        settings = Settings.of(params)
        if spec.role == "activation":
            return _activation(spec, settings)
        bits = max(spec.bits, self.least_depthwise_bits) if spec.operator == "depthwise" else spec.bits
        if bits > MOST_BITS:
            return UniformFakeQuantizer(spec)
        elements = torch.Size(spec.shape).numel()
        if reason := start.shortage([(elements, bits)], context.device):
            raise InvalidRecipe(f"slb:{bits} for '{spec.name}' {reason}")
        return SlbFakeQuantizer(replace(spec, bits=bits), bits, settings, context.seed)


def _activation(spec: TensorSpec, settings: Settings) -> FakeQuantizer:
    images = settings.calibration_images
    if settings.activation == "uniform" or not spec.nonnegative:
        return UniformFakeQuantizer(
            spec, is_symmetric=False, estimator="ema_minmax" if spec.bits == 8 else "mse", images=images
        )
    return DoReFaFakeQuantizer(spec) if settings.activation == "dorefa" else PactFakeQuantizer(spec, images)
