"""Training of adder layers (AdderNet, section 3.3).

The batch normalisation behind an adder layer divides by a large deviation. The gradient of its
filters is therefore tiny, and its size differs between layers. AdderNet rescales it per layer:

    dF_l    = gamma * alpha_l * grad(F_l)
    alpha_l = eta * sqrt(k_l) / ||grad(F_l)||_2,   k_l = numel(F_l)

so that the root mean square of the scaled gradient is eta. The code of the paper rescales within
the backward pass. Here it happens between backward and step, on the whole, unscaled gradient: the
sum of several backward passes is scaled once, and the scale of the loss cancels for the filters.

Adam would cancel eta, so SGD with momentum updates the filters, while another optimiser may train
the rest. The momentum is Nesterov's, unlike in the paper, since the engine has no other. Weight
decay is added after the scaling, as in the paper. Gradient clipping excludes the filters. It would
undo the scaling, and the norm of their gradients, sqrt(k) eta, would make all other gradients
small.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from autocompress.contract import Callback, Context, Params
from autocompress.quantization import QuantizedNetwork
from autocompress_adder.convert import adder_layers
from autocompress_adder.schedule import Turns

WEIGHT_DECAY = 5e-4
"""Weight decay of the paper on CIFAR, for gradients of the size eta, unlike that of AdamW."""
SMALLEST_NORM = 1e-12
CALIBRATION_IMAGES = 512


@torch.no_grad()
def scale_gradient(gradient: torch.Tensor, eta: float) -> None:
    """Multiplies ``gradient`` by alpha, in place; a gradient of zeros is unchanged."""
    # In float16 the squares would overflow, and the smallest norm be 0.
    whole = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
    gradient.copy_(whole * (eta * math.sqrt(gradient.numel()) / whole.norm().clamp(min=SMALLEST_NORM)))


class AdderTraining(Callback):
    """Scales the filters' gradients, runs the schedule, and compares features with the teacher's.

    Args:
        model: the network to train.
        params: parameters of the method: ``eta``, ``lr_scale``, ``schedule``, ``order``,
            ``feature``, and ``stages``, the names of convolutions by group in network order.
        context: gives the images for statistics.
        taps: names of the norms whose outputs are compared, of student and teacher.
    """

    def __init__(self, model: nn.Module, params: Params, context: Context, taps: Sequence[str] = ()) -> None:
        self._eta, self._lr_scale, self._feature = params["eta"], params["lr_scale"], params["feature"]
        self._context, self._taps = context, list(taps)
        self._turns = _turns(model, params, context)
        self._total = 1

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """The filters: SGD with momentum, a learning rate of their own, not clipped."""
        filters = [layer.weight for layer in adder_layers(model).values()]
        group = {"params": filters, "optimizer": "sgd", "clip": False}
        return [{**group, "lr_scale": self._lr_scale, "weight_decay": WEIGHT_DECAY}]

    def taps(self) -> list[str]:
        """The last norm of each stage that has adder layers."""
        return self._taps if self._feature else []

    def on_start(self, model: nn.Module, total_steps: int) -> None:
        """Stores the length of the schedule."""
        del model
        self._total = max(total_steps, 1)

    def before_step(self, model: nn.Module, step: int) -> None:
        """Sets the state of each layer."""
        if self._turns.plain:
            return
        layers = adder_layers(model)
        for name, state in self._turns.at(step / self._total).items():
            layers[name].p, layers[name].as_convolution = state.p, state.as_convolution

    def loss(self, student: Mapping[str, torch.Tensor], teacher: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
        """``b * mean over stages of norm(f_s - f_t)^2 / norm(f_t - mean)^2``, behind norms.

        The error of each stage is relative to the variance of the teacher.
        """
        errors = [
            _relative_error(student[name], teacher[name])
            for name in self._taps
            if name in student and name in teacher and student[name].shape == teacher[name].shape
        ]
        return self._feature * torch.stack(errors).mean() if self._feature and errors else None

    def after_backward(self, model: nn.Module, optimizer: Optimizer, step: int) -> None:
        """Scales gradients, except those of filters whose turn has not come."""
        del optimizer, step
        for layer in adder_layers(model).values():
            if layer.as_convolution:
                layer.weight.grad = None
            elif layer.weight.grad is not None:
                scale_gradient(layer.weight.grad, self._eta)

    def on_end(self, model: nn.Module) -> None:
        """Sets the deployed state of all layers; after a schedule, averages statistics again."""
        for layer in adder_layers(model).values():
            layer.finish()
        if not self._turns.plain and self._context.transfer is not None:
            from autocompress.training import recalibrate_batch_norm

            recalibrate_batch_norm(model, self._context.transfer.calibration, CALIBRATION_IMAGES)


def _turns(model: nn.Module, params: Params, context: Context) -> Turns:
    """The schedule of the layers in ``model``.

    A network of fake-quantizers was trained before (also if its adder layers stay in float), and
    frozen norms could not follow the schedule. Both have finished layers from the start.
    """
    layers = adder_layers(model)
    frozen = context.transfer is not None and "freeze_batch_norm" in context.transfer.demands
    if frozen or isinstance(model, QuantizedNetwork):
        return Turns([])
    stages = [
        [name for name in layers if any(name == host or name.startswith(f"{host}.") for host in hosts)]
        for hosts in params["stages"].values()
    ]
    return Turns([stage for stage in stages if stage], params["order"], params["schedule"])


def _relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    theirs = theirs.detach().float()
    return (ours.float() - theirs).square().mean() / theirs.var(correction=0).clamp(min=1e-6)
