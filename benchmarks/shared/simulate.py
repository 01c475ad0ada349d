"""Simulates one quantized network: fake-quantizers, training, accuracy.

It is for comparisons that no recipe has, such as quantized weights alone, or naive folding of batch
norm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from autocompress import models
from autocompress.compression import qat
from autocompress.compute import Compute
from autocompress.contract import (
    Context,
    FakeQuantizer,
    Hardened,
    Method,
    Params,
    Quantizer,
    Space,
    TensorSpec,
    TransferSet,
    manager,
)
from autocompress.graph import facts
from autocompress.opened.transfer import user_data
from autocompress.quantization import LayerBits, calibrate, quantize
from autocompress.quantization.network import QuantizedNetwork
from autocompress.recipes.choosers import Replay
from autocompress.training import default_device, evaluate
from shared.trained import Trained

CALIBRATION_BATCH = 64
QAT: Params = {
    "epochs": 1,
    "lr": 1e-3,
    "distill": 0.0,
    "norm": "corrected",
    "norm_freeze": 0.5,
    "range_freeze": 0.5,
    "delay": 0.0,
}
"""Training of QUANTIZE as in the whitepaper: labels only, correction and freezing."""
NEVER = 2.0
"""A freezing point after the end, so that nothing freezes."""


class Float(FakeQuantizer):
    """Keeps a tensor in float."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def harden(self, weight: torch.Tensor | None = None) -> Hardened:
        raise NotImplementedError("a tensor in float has no integers")


@dataclass(frozen=True)
class Setting:
    """How one network is quantized.

    Attributes:
        method: the quantizer of weights. Activations are quantized by it, or else by ``quantize``.
        weights, activations: numbers of bits; None for float.
        params: parameters of the method that differ from its defaults.
        qat: settings of the training that differ from ``QAT``; None for no training.
        exempt: whether stem and classifier have at least 8 bits.
    """

    method: str = "quantize"
    weights: int | None = 8
    activations: int | None = 8
    params: Mapping[str, Any] = field(default_factory=dict)
    qat: Mapping[str, Any] | None = None
    exempt: bool = False


def simulate(
    baseline: Trained, setting: Setting, *, seed: int, images: int | None, transfer: TransferSet | None = None
) -> np.ndarray:
    """Quantizes a copy of the baseline; whether each test image is correct, bool ``(images,)``.

    Args:
        baseline: the float network.
        setting: how it is quantized.
        seed: random seed of the training and of its images.
        images: number of training images that are used; None for all.
        transfer: images for calibration and training; None for the data of the baseline.
    """
    network, methods, params, context = prepared(baseline, setting, seed=seed, images=images, transfer=transfer)
    if setting.qat is not None:
        callbacks = [
            callback
            for name in params
            for callback in methods[name].callbacks(network, params[name], context)  # type: ignore[attr-defined]
        ]
        qat.run(network, {**QAT, **setting.qat}, context, callbacks)
    return evaluate(network, baseline.splits.test, context.device)[1]


def prepared(
    baseline: Trained, setting: Setting, *, seed: int, images: int | None, transfer: TransferSet | None = None
) -> tuple[QuantizedNetwork, Mapping[str, Method], dict[str, Params], Context]:
    """The calibrated network, methods by name, their parameters, and the context."""
    splits, model = baseline.splits, baseline.model
    methods = {method.name: method for method in manager().methods() if isinstance(method, Quantizer)}
    defaults = {
        name: methods[name].search_space(Space(Replay({}), "model", {}).scope(name), model)
        for name in dict.fromkeys([setting.method, "quantize"])
    }
    params = {**defaults, setting.method: {**defaults[setting.method], **setting.params}}
    transfer = user_data(splits, seed) if transfer is None else transfer
    if images is not None:
        transfer = replace(transfer, train=transfer.train.subset(images, seed))
    context = Context(
        input_size=models.input_size(model),
        transfer=transfer,
        teacher=model,
        compute=Compute.on(default_device()),
        seed=seed,
    )

    def make(quantizer: str, spec: TensorSpec) -> FakeQuantizer:
        bits = setting.weights if spec.role == "weight" else setting.activations
        return Float(spec) if bits is None else methods[quantizer].apply(spec, params[quantizer], context)

    network = quantize(
        model, _bits(model, setting), make, input_size=context.input_size, trainable=setting.qat is not None
    ).to(context.device)
    split = transfer.calibration
    calibrate(network, (batch.to(context.device) for batch, _ in split.loader(CALIBRATION_BATCH)))
    return network, methods, params, context


def _bits(model: nn.Module, setting: Setting) -> dict[str, LayerBits]:
    ends = (*models.stem(model), *models.classifier(model))
    found = {}
    for name in facts(model, models.input_size(model)).layers:
        is_end = setting.exempt and any(name == end or name.startswith(f"{end}.") for end in ends)
        least = 8 if is_end else 1
        found[name] = LayerBits(
            weight_quantizer="quantize" if is_end else setting.method,
            weight_bits=max(setting.weights or 8, least),
            activation_quantizer=setting.method,
            activation_bits=max(setting.activations or 8, least),
        )
    return found
