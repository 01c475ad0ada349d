"""Convolution and linear layers with simulated integers, trained together with their batch norm.

Batch normalisation is treated as in the whitepaper (Krishnamoorthi 2018, arXiv 1806.08342, section
3.2.2, eq. 22-31). Per output channel, ``mu_B`` and ``sigma_B`` are statistics of the batch, ``mu``
and ``sigma`` long-term statistics, and ``Q`` is the quantizer:

    W_Q = Q(gamma / sigma * W)                       always scaled by the long-term sigma (eq. 23)
    y   = conv(W_Q, x)
    not frozen:  out = y / c + beta - gamma * mu_B / sigma_B,  c = sigma_B / sigma (eq. 22, 24-27)
    frozen:      out = y + beta - gamma * mu / sigma         (eq. 28-31, the two biases added up)

Without quantization, the output before freezing is that of batch norm in training, and the output
after freezing is that of batch norm in evaluation.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import nn

from autocompress.contract import FakeQuantizer
from autocompress.quantization.folding import affine
from autocompress.quantization.ops import fake_quant

NormTreatment = Literal["corrected", "naive"]
"""Treatment of batch norm: ``corrected`` as above, or ``naive``, which scales by the batch sigma.

With ``naive``, weights fluctuate (the ablation of Fig. 14). With both, statistics are frozen while
the norm is in eval mode.
"""
INT32 = 2**31 - 1


class FakeLayer(nn.Module):
    """Common part of fake-quantized convolution and linear layers; see :func:`with_fake_weight`."""

    weight: nn.Parameter
    bias: nn.Parameter | None
    weight_quantizer: FakeQuantizer
    norm: nn.BatchNorm1d | nn.BatchNorm2d | None
    """The batch normalisation behind a layer in training; the layer updates its statistics."""
    norm_treatment: NormTreatment
    input_quantizer: FakeQuantizer | None = None
    """The quantizer of its input; it is a child of the network, not of the layer."""

    def operate(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """The layer's own operation with another weight and bias."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.norm is None:
            return self.operate(x, self.weight_quantizer(self.weight), self._rounded(self.bias))
        if not self.weight_quantizer.folds_norm:
            return self.norm(self.operate(x, self.weight_quantizer(self.weight), self.bias))
        if self.norm.training:
            return self._with_batch_statistics(x, self.norm)
        weight, bias = self.deployed_weight(), self.deployed_bias()
        return self.operate(x, self.weight_quantizer(weight), self._rounded(bias))

    def deployed_weight(self) -> torch.Tensor:
        """The float weight; if the layer has a norm, its statistics are folded in (eq. 20)."""
        return self.weight if self.norm is None else self._scaled(affine(self.norm)[0])

    def deployed_bias(self) -> torch.Tensor | None:
        """The float bias with the norm folded in (eq. 21); ``bias`` if there is none."""
        if self.norm is None:
            return self.bias
        factor, offset = affine(self.norm)
        return offset if self.bias is None else offset + self.bias * factor

    def quantized_weight(self) -> torch.Tensor:
        """The input of ``weight_quantizer`` (see ``FakeQuantizer.folds_norm``)."""
        return self.deployed_weight() if self.weight_quantizer.folds_norm else self.weight

    def _scaled(self, factor: torch.Tensor) -> torch.Tensor:
        return self.weight * factor.reshape(-1, *[1] * (self.weight.ndim - 1))

    def _with_batch_statistics(self, x: torch.Tensor, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> torch.Tensor:
        # The unquantized layer is only computed for its statistics. Gradients flow through these,
        # as in batch norm.
        plain = self.operate(x, self.weight, self.bias)
        # In float32 at least, as in torch's batch norm: under autocast, outputs have 8 bits of
        # precision.
        wide = plain.to(torch.promote_types(plain.dtype, torch.float32))
        variance, mean = torch.var_mean(wide, [d for d in range(plain.ndim) if d != 1], correction=0)
        _update(norm, mean.detach(), variance.detach(), plain.numel() // plain.shape[1])
        sigma_batch = (variance + norm.eps).sqrt()
        gamma = norm.weight if norm.weight is not None else torch.ones_like(mean)
        offset = -mean if self.bias is None else self.bias - mean
        bias = gamma * offset / sigma_batch
        if norm.bias is not None:
            bias = bias + norm.bias
        if self.norm_treatment == "naive":
            return self.operate(x, self.weight_quantizer(self._scaled(gamma / sigma_batch)), bias)
        assert norm.running_var is not None
        sigma = (norm.running_var + norm.eps).sqrt()
        y = self.operate(x, self.weight_quantizer(self._scaled(gamma / sigma)), None)
        channels = [1, -1] + [1] * (y.ndim - 2)
        return y * (sigma / sigma_batch).reshape(channels) + bias.reshape(channels)

    def _rounded(self, bias: torch.Tensor | None) -> torch.Tensor | None:
        """The bias rounded to steps of the accumulator, as int32 in the file.

        Without this rounding, the file has another label for one image in two hundred. The bias is
        not rounded if a quantizer has no ``scale``.
        """
        of_weight, of_input = _scale_of(self.weight_quantizer), _scale_of(self.input_quantizer)
        if bias is None or of_weight is None or of_input is None:
            return bias
        step = (of_weight * of_input).detach().expand(bias.shape)
        rounded = fake_quant(bias, step.clamp(min=1e-30), torch.zeros_like(step), -INT32, INT32, 0)
        return torch.where(step > 0, rounded, bias)  # a scale of 0: the weight's range is not known yet


class FakeQuantConv2d(FakeLayer, nn.Conv2d):  # type: ignore[misc]
    """A convolution that computes with ``weight_quantizer(weight)``."""

    def operate(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return self._conv_forward(x, weight, bias)


class FakeQuantLinear(FakeLayer, nn.Linear):  # type: ignore[misc]
    """A linear layer that computes with ``weight_quantizer(weight)``."""

    def operate(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return F.linear(x, weight, bias)


def with_fake_weight(layer: nn.Conv2d | nn.Linear, quantizer: FakeQuantizer) -> FakeLayer:
    """``layer`` with the same parameters, computing with the fake-quantized weight.

    A child ``norm`` of the layer is the batch norm that trains with it.
    """
    fake: FakeLayer = object.__new__(FakeQuantConv2d if isinstance(layer, nn.Conv2d) else FakeQuantLinear)
    fake.__dict__ = dict(layer.__dict__)
    fake._modules = dict(layer._modules)
    fake._modules.setdefault("norm", None)
    fake.weight_quantizer = quantizer
    fake.norm_treatment = "corrected"
    return fake


def _scale_of(fake: FakeQuantizer | None) -> torch.Tensor | None:
    if fake is None or fake.observing or not fake.enabled:
        return None
    scale = getattr(fake, "scale", None)
    return scale if isinstance(scale, torch.Tensor) else None


@torch.no_grad()
def _update(norm: nn.BatchNorm1d | nn.BatchNorm2d, mean: torch.Tensor, variance: torch.Tensor, count: int) -> None:
    """Updates the long-term statistics as torch's batch norm: variance with Bessel's correction."""
    running_mean, running_var = cast(torch.Tensor, norm.running_mean), cast(torch.Tensor, norm.running_var)
    batches = cast(torch.Tensor, norm.num_batches_tracked)
    batches += 1
    weight = 1.0 / float(batches) if norm.momentum is None else norm.momentum
    running_mean.lerp_(mean.to(running_mean.dtype), weight)
    running_var.lerp_((variance * (count / max(count - 1, 1))).to(running_var.dtype), weight)
