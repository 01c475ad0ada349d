"""Uniform quantization of the whitepaper, with ranges found after or during training.

R. Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference: a whitepaper",
arXiv 1806.08342. Sections of the paper and where each is implemented:

    2.1, eq. 1-3      affine grids: scale and zero point of a range that contains 0
                      (quantization/scales.py)
    2.2, eq. 7-11     symmetric grids, weights without the lowest integer (quantization/scales.py)
    2.3               stochastic rounding: left out, as the paper advises against it
    2.4, eq. 12-15    simulated quantization and its straight-through gradient
                      (quantization/ops.py)
    2.4, eq. 16-17    float master weights (quantization/fakelayers.py)
    2.5               ranges: weights min/max, activations a moving average
                      (quantization/observers.py)
    3.1               weights per channel or per layer, activations per layer (here)
    3.2               training with simulated quantization: delay, freezing (compression/qat.py)
    3.2.1, eq. 20-21  batch norm folded first; one fake-quantizer per fused operator
                      (quantization/folding.py, quantization/placement.py)
    3.2.2, eq. 22-31  batch norm while training: correction, freezing (quantization/fakelayers.py)

Two corrections for quantization after training are from Nagel et al. 2019 (arXiv 1906.04721):
quantization/equalise.py and quantization/bias_correction.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, cast

import torch
from torch import nn

from autocompress.contract import Context, FakeQuantizer, Params, Quantizer, Space, TensorSpec
from autocompress.errors import InvalidRecipe
from autocompress.job import Job
from autocompress.quantization.fakequant import ACTIVATION_ESTIMATORS, WEIGHT_ESTIMATORS, UniformFakeQuantizer
from autocompress.repair import ROUNDINGS, Rounding


class Quantize(Quantizer):
    """Weights and activations of 2 to 8 bits on uniform grids.

    Parameters (``quantize.`` before each):
        weight_granularity: "per_channel", one scale for each output channel, or "per_tensor", one
            for the layer.
        weight_grid: "symmetric", without a zero point, or "asymmetric".
        depthwise_bits: weights of depthwise layers have 8 bits, or the "same" as their group.
        weight_range: the ends of the weights ("minmax"), or the range with the smallest squared
            error ("mse").
        activation_range: how ranges of activations are estimated: a moving average of each batch's
            ends ("ema_minmax"), the ends of all batches ("minmax"), a "percentile", the smallest
            squared error ("mse"), or the smallest divergence ("entropy").
        calibration_images: number of images for estimating ranges.
        rounding: the method that rounds a weight to a level if nothing is trained: "nearest",
            "gptq" or "descent" (docs/rounding.md); "auto" depends on the number of bits.
        equalise: ranges of neighbouring layers are equalised first.
        bias_correction: biases compensate for the mean error of rounding, if nothing is trained.
    """

    name = "quantize"
    version = "4"
    reference = (
        "R. Krishnamoorthi, Quantizing deep convolutional networks for efficient inference: a whitepaper, "
        "arXiv 1806.08342"
    )
    weight_bits: ClassVar[Sequence[int]] = (2, 3, 4, 5, 6, 7, 8)
    activation_bits: ClassVar[Sequence[int]] = (2, 3, 4, 5, 6, 7, 8)

    granularities: ClassVar[tuple[str, ...]] = ("per_channel", "per_tensor")
    grids: ClassVar[tuple[str, ...]] = ("symmetric", "asymmetric")

    def check(self, model: nn.Module, job: Job) -> list[str]:
        """Checks that there is a convolution or a linear layer, and that weights are finite."""
        del job
        layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
        if not layers:
            return ["the model has no convolution and no linear layer"]
        broken = [name for name, layer in layers.items() if not bool(torch.isfinite(layer.weight).all())]
        if broken:
            return [f"the model has weights that are not finite, in '{broken[0]}'"]
        return []

    def search_space(self, space: Space, model: nn.Module) -> Params:
        """Parameters of grids and ranges; QUANTIZE itself asks for the bits of tensors."""
        del model
        return {
            # One scale for each output channel, or one for the layer (section 3.1.2). Folded batch
            # norm gives channels very different ranges (appendix A), so one scale per layer fails
            # on MobileNets, but is a little faster.
            "weight_granularity": space.categorical(
                "weight_granularity", self.granularities, default="per_channel", cheapest="per_tensor"
            ),
            # In table 2, asymmetric is better on MobileNet-v1. ONNX Runtime (1.32, x86 with VNNI)
            # also fuses int8 weights with zero points into QLinearConv, even per channel, but they
            # are 14 % slower than symmetric ones.
            "weight_grid": space.categorical("weight_grid", self.grids, default="symmetric", cheapest="symmetric"),
            # A depthwise layer has few of a network's weights, and its errors affect single
            # channels. mobilenetv2_050 on digits with 4-bit weights has 41.9 % with "same", and
            # 49.4 with "8" (54.2 in float). The paper has no such exemption; its 4-bit MobileNets
            # (table 5) are at chance without training.
            "depthwise_bits": space.categorical("depthwise_bits", ("same", "8"), default="8", cheapest="same"),
            # The ends of the weights, or the range with the smallest squared error. The paper only
            # has the first.
            "weight_range": space.categorical("weight_range", WEIGHT_ESTIMATORS, default="minmax", structural=False),
            # Section 2.5 has the moving average of each batch's ends and names entropy; the others
            # are common practice.
            "activation_range": space.categorical(
                "activation_range", ACTIVATION_ESTIMATORS, default="ema_minmax", structural=False
            ),
            # The paper: about 100 batches are enough for ranges to settle.
            "calibration_images": space.categorical(
                "calibration_images", (64, 256, 1024), default=256, structural=False
            ),
            # By moments of the inputs of layers if nothing is trained (docs/rounding.md). The paper
            # rounds to nearest. "auto" chooses by bits, as in the tables there.
            "rounding": space.categorical(
                "rounding", ("auto", *ROUNDINGS), default="auto", structural=False, searched=False
            ),
            # Off by default, since there was no consistent gain. resnet10t on digits (98.9 % in
            # float) with 4-bit weights: per layer 91.9 -> 89.2 %, per channel 95.3 -> 96.7 %, with
            # bias correction 98.9 -> 99.2 %. mobilenetv2_050, which has two pairs because of its
            # ReLU6, per layer at 8 bits: 44.4 -> 45.6 % (54.2 in float). One scale per
            # channel alone gives most of the gain.
            "equalise": space.categorical("equalise", (False, True), default=False, structural=False),
            # resnet10t with 4-bit weights: 95.3 -> 98.9 % per channel, 91.9 -> 98.9 % per layer; at
            # 8 bits 98.9 % with and without. It only acts if nothing is trained.
            "bias_correction": space.categorical("bias_correction", (False, True), default=True, structural=False),
        }

    def calibration_images(self, params: Params) -> int:
        """The number in the recipe."""
        return int(params["calibration_images"])

    def equalises(self, params: Params) -> bool:
        """The choice of the recipe."""
        return bool(params["equalise"])

    def rounding(self, params: Params, bits: int) -> Rounding:
        """The rounding in the recipe; "auto" depends on the bits."""
        asked = params.get("rounding", "auto")
        if asked in ROUNDINGS:
            return cast(Rounding, asked)
        return "nearest" if bits > 4 else "gptq" if bits == 4 else "descent"

    def corrects_bias(self, params: Params) -> bool:
        """The choice of the recipe."""
        return bool(params["bias_correction"])

    def apply(self, spec: TensorSpec, params: Params, context: Context) -> FakeQuantizer:
        """The fake-quantizer of a tensor.

        Weights have signed integers, on the grid in the recipe. Activations have unsigned integers
        on an asymmetric grid, because a symmetric one would lose half of its levels behind a ReLU,
        and is not faster. They have one scale per tensor, since a scale for each channel cannot be
        factored out of the inner product (section 3.1.2).

        Raises:
            InvalidRecipe: for bits that are not offered.
        """
        del context
        offered = self.weight_bits if spec.role == "weight" else self.activation_bits
        if spec.bits not in offered:
            raise InvalidRecipe(
                f"{self.name} gives {spec.role}s {min(offered)} to {max(offered)} bits, not {spec.bits} ('{spec.name}')"
            )
        if spec.role == "activation":
            return UniformFakeQuantizer(
                spec,
                is_symmetric=False,
                estimator=params["activation_range"],
                images=params["calibration_images"],
            )
        if spec.operator == "depthwise" and params["depthwise_bits"] == "8":
            spec = replace(spec, bits=8)
        return UniformFakeQuantizer(
            spec,
            is_symmetric=params["weight_grid"] == "symmetric" or _leaves_kernel(spec, params),
            per_channel=params["weight_granularity"] == "per_channel",
            estimator=params["weight_range"],
        )


def _leaves_kernel(spec: TensorSpec, params: Params) -> bool:
    """Whether the runtime has no integer kernel for the weight with zero points per channel.

    Deliberate difference from the paper: with them, a depthwise convolution takes 40 times as long
    in ONNX Runtime (1.49 ms instead of 0.04 ms for 128 channels at 14x14), so such a weight stays
    symmetric.
    """
    return spec.operator == "depthwise" and params["weight_granularity"] == "per_channel"
