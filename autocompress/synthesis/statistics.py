"""Recorded statistics of batch norms, and statistics of their inputs for other images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.instancenorm import _InstanceNorm

from autocompress.compat.torch import BatchNormBase


@dataclass(frozen=True)
class NormInput:
    """Statistics of the input of one batch norm in a forward pass, and the recorded ones.

    Attributes:
        name: name of the module.
        mean: float ``(C,)``, with gradient.
        variance: float ``(C,)``, with gradient; biased (divided by n). The recorded variance is an
            average of unbiased ones; the relative difference of 1/n matters only in tiny batches.
        reference_mean, reference_variance: the running statistics ``(C,)``.
        eps: epsilon of the layer.
    """

    name: str
    mean: torch.Tensor
    variance: torch.Tensor
    reference_mean: torch.Tensor
    reference_variance: torch.Tensor
    eps: float


def norm_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The batch norms of ``model`` by name, in network order.

    These are all modules with running statistics as buffers, because timm's
    ``FrozenBatchNormAct2d`` is not a subclass of torch's batch norm.
    """
    return {name: module for name, module in model.named_modules() if _has_statistics(module)}


def _has_statistics(module: nn.Module) -> bool:
    # An instance norm records averages of the statistics of single images, which is another
    # quantity.
    return not isinstance(module, _InstanceNorm) and all(
        isinstance(getattr(module, name, None), torch.Tensor) for name in ("running_mean", "running_var")
    )


@contextmanager
def watching_norms(model: nn.Module) -> Iterator[list[NormInput]]:
    """Context with a list that each forward pass fills with statistics of inputs of batch norms.

    They are in the order of execution. Hooks read the inputs before normalisation, and are removed
    at the end.
    """
    seen: list[NormInput] = []
    handles = [model.register_forward_pre_hook(lambda _module, _inputs: seen.clear())]

    def watch(name: str, layer: nn.Module) -> None:
        handles.append(
            layer.register_forward_pre_hook(lambda module, inputs: seen.append(_read(name, module, inputs[0])))
        )

    try:
        for name, layer in norm_layers(model).items():
            watch(name, layer)
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _read(name: str, layer: Any, x: torch.Tensor) -> NormInput:
    mean, variance = channel_statistics(x)
    reference = layer.running_mean.to(mean.dtype), layer.running_var.to(mean.dtype)
    return NormInput(name, mean, variance, *reference, float(getattr(layer, "eps", 1e-5)))


INPUT_EPS = 1e-5
"""Default eps of batch norm, added to both variances: images of one colour have variance 0."""


def input_statistics(images: torch.Tensor) -> NormInput:
    """Statistics of normalised images ``(B, C, H, W)``, named "input", with reference N(0, 1).

    They have a gradient. The Knowledge Within treats the input of the network as one more layer
    (the authors' code, see ``terms_gaussian``).
    """
    mean, variance = channel_statistics(images)
    return NormInput("input", mean, variance, torch.zeros_like(mean), torch.ones_like(mean), INPUT_EPS)


def channel_statistics(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and biased variance of each channel of ``x`` ``(B, C, ...)``, with gradient.

    They are float32, or float64 if ``x`` is. This is twenty times as fast as ``torch.var_mean`` on
    a CPU, which reads such slices value by value.
    """
    mean, variance = _Statistics.apply(x if x.dtype == torch.float64 else x.float())
    return mean, variance


class _Statistics(torch.autograd.Function):
    """Both moments, with one forward pass over the data each, and one backward pass."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows = x.reshape(x.shape[0], x.shape[1], -1)
        n = x.numel() // x.shape[1]
        # Sums of rows are added in float64, because E[x^2] - E[x]^2 cancels where the mean is
        # large. The sum of one row is float32: if the mean exceeds about 300 standard deviations,
        # the variance has an error of some percent.
        mean = rows.sum(2).double().sum(0) / n
        square = torch.linalg.vector_norm(rows, dim=2).double().square().sum(0) / n
        variance = (square - mean.square()).clamp_min(0)
        mean, variance = mean.to(x.dtype), variance.to(x.dtype)
        ctx.save_for_backward(x, mean)
        return mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_mean: torch.Tensor, grad_variance: torch.Tensor) -> torch.Tensor:
        # d mean / dx = 1 / n, d variance / dx = 2 (x - mean) / n: one scale and one shift for each
        # channel.
        x, mean = ctx.saved_tensors
        n = x.numel() // x.shape[1]
        shape = (1, -1, *(1,) * (x.ndim - 2))
        scale = grad_variance * (2 / n)
        shift = grad_mean / n - scale * mean
        return torch.addcmul(shift.view(shape), x, scale.view(shape))


def reasons_against_statistics(model: nn.Module) -> list[str]:
    """Reasons why synthesis cannot use batch-norm statistics of ``model``; empty if it can."""
    untracked = [
        name
        for name, module in model.named_modules()
        if isinstance(module, BatchNormBase) and not _has_statistics(module)
    ]
    if untracked:
        return [f"its batch norm '{untracked[0]}' has no running statistics (track_running_stats is off)"]
    layers: list[Any] = list(norm_layers(model).values())
    if not layers:
        others = [
            f"'{name}' is a {type(module).__name__}"
            for name, module in model.named_modules()
            if "norm" in type(module).__name__.lower() and not any(True for _ in module.children())
        ]
        first = next((name for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)), "")
        folded = f" (or they were folded into layers such as '{first}')" if first else ""
        instead = f": {others[0]}" if others else folded
        return [f"it has no batch norm with statistics of real images{instead}"]
    if not all(bool(torch.isfinite(x).all()) for m in layers for x in (m.running_mean, m.running_var)):
        return ["the running statistics of its batch norms are not finite numbers"]
    # num_batches_tracked is not used: it is 0 for old checkpoints without it, which have real
    # statistics.
    if all(bool((m.running_mean == 0).all()) and bool((m.running_var == 1).all()) for m in layers):
        return ["its batch norms have recorded nothing yet (mean 0 and variance 1 everywhere): it was never trained"]
    return []
