"""Uniform quantization after training, as in the whitepaper.

R. Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference: a whitepaper", arXiv 1806.08342.
What the paper says, and where it stands:

    section 2.1, eq. 1-3     affine grids: scale and zero point of a range that contains 0    quantization/scales.py
    section 2.2, eq. 7-10    symmetric grids, weights without the lowest integer              quantization/scales.py
    section 2.4, eq. 12-15   simulated quantization and its straight-through gradient         quantization/ops.py
    section 2.5              ranges: weights min/max, activations a moving average            quantization/observers.py
    section 3.1              weights per channel or per layer, activations per layer          here
    section 3.2.1, eq. 20-21 batch norm folded first; one fake-quantizer per fused operator   quantization/folding.py,
                                                                                              quantization/placement.py
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from autocompress.contract import Context, FakeQuantizer, Params, Quantizer, Space, TensorSpec
from autocompress.job import Job
from autocompress.quantization.fakequant import ACTIVATION_ESTIMATORS, WEIGHT_ESTIMATORS, UniformFakeQuantizer


class Quantize(Quantizer):
    """8-bit weights and activations, with ranges taken from the weights and from some calibration images."""

    name = "quantize"
    version = "1"
    reference = (
        "R. Krishnamoorthi, Quantizing deep convolutional networks for efficient inference: a whitepaper, "
        "arXiv 1806.08342"
    )
    weight_bits = (8,)
    activation_bits = (8,)

    granularities: ClassVar[tuple[str, ...]] = ("per_channel", "per_tensor")
    grids: ClassVar[tuple[str, ...]] = ("symmetric", "asymmetric")

    def check(self, model: nn.Module, job: Job) -> list[str]:
        """It needs a convolution or a linear layer, and finite weights."""
        del job
        layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
        if not layers:
            return ["the model has no convolution and no linear layer"]
        if not all(bool(torch.isfinite(layer.weight).all()) for layer in layers):
            return ["the model has weights that are not finite"]
        return []

    def search_space(self, space: Space, model: nn.Module) -> Params:
        """How grids and ranges are chosen; which tensors get how many bits is asked by QUANTIZE itself."""
        del model
        return {
            # One scale for each output channel, or one for the layer (section 3.1.2). Folded batch norm gives channels
            # wildly different ranges (appendix A), so per layer fails on MobileNets; it is a little faster, though.
            "weight_granularity": space.categorical(
                "weight_granularity", self.granularities, default="per_channel", cheapest="per_tensor"
            ),
            # Table 2 has asymmetric ahead on MobileNet-v1. ONNX Runtime (1.32, x86 with VNNI) fuses int8 weights with
            # zero points of their own into QLinearConv as well, per channel too: 14 % slower than symmetric ones.
            "weight_grid": space.categorical("weight_grid", self.grids, default="symmetric", cheapest="symmetric"),
            # The ends of the weights, or the range with the smallest squared error. The paper has the first only.
            "weight_range": space.categorical("weight_range", WEIGHT_ESTIMATORS, default="minmax", structural=False),
            # Section 2.5 has the moving average of each batch's ends and names entropy; the others are common practice.
            "activation_range": space.categorical(
                "activation_range", ACTIVATION_ESTIMATORS, default="ema_minmax", structural=False
            ),
            # The paper: about 100 batches are enough for ranges to settle.
            "calibration_images": space.categorical(
                "calibration_images", (64, 256, 1024), default=256, structural=False
            ),
        }

    def calibration_images(self, params: Params) -> int:
        """As many as the recipe says."""
        return int(params["calibration_images"])

    def apply(self, spec: TensorSpec, params: Params, context: Context) -> FakeQuantizer:
        """Weights: signed, on the grid asked for. Activations: unsigned, asymmetric, one scale a tensor, since a scale
        for each channel cannot be pulled out of the inner product (section 3.1.2)."""
        del context
        if spec.role == "activation":
            return UniformFakeQuantizer(
                spec,
                is_symmetric=False,
                estimator=params["activation_range"],
                images=params["calibration_images"],
            )
        return UniformFakeQuantizer(
            spec,
            is_symmetric=params["weight_grid"] == "symmetric" or _leaves_kernel(spec, params),
            per_channel=params["weight_granularity"] == "per_channel",
            estimator=params["weight_range"],
        )


def _leaves_kernel(spec: TensorSpec, params: Params) -> bool:
    """Whether a zero point for each channel would cost the weight its integer kernel. Deliberate difference from the
    paper: a depthwise convolution with one takes ONNX Runtime 40 times as long (1.49 ms instead of 0.04 for 128
    channels at 14x14), so such a weight stays symmetric."""
    return spec.operator == "depthwise" and params["weight_granularity"] == "per_channel"
