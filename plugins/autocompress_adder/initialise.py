"""Initialises adder layers from the trained convolutions that they replace.

    W_a = c * W_conv,     c = width * std(P) / std(W_conv) for each layer

As a function of p, -|p - w| rises below w and falls above it. If w lies beyond most inputs p, it is
sgn(w) p - |w|, so the tap acts like a product. If w is small compared with the inputs, it is about
-|p|, which is the same for all filters at a position and is not removed by normalisation. In a
resnet10t trained on digits, the outputs of a layer have a mean correlation with those of the
convolution of 0.16 with width 1, and of 0.78 with width 8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import nn

from autocompress_adder.layer import AdderConv2d

Batches = Callable[[], Iterable[tuple[torch.Tensor, torch.Tensor]]]
"""Returns images (and labels), at each call."""


class Moments:
    """Spread of the patches of a convolution, and mean and spread of each output channel.

    Args:
        stride, padding: stride and padding of the convolution, (height, width).
        kernel: kernel size of the convolution, (height, width).
    """

    def __init__(self, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]) -> None:
        self._kernel, self._stride, self._padding = kernel, stride, padding
        self._batches = 0
        self._patches = torch.zeros(2, dtype=torch.float64)
        self._outputs = torch.zeros(2, 1, dtype=torch.float64)

    def add(self, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        """One batch, ``(N, C, H, W)`` in and ``(N, O, H', W')`` out."""
        powers = torch.stack([inputs.double().mean(1), inputs.double().square().mean(1)], 1)
        padded = F.pad(powers, (self._padding[1], self._padding[1], self._padding[0], self._padding[0]))
        # The mean of a patch is an average pooling, with padded taps included.
        patches = F.avg_pool2d(padded, self._kernel, self._stride).mean((0, 2, 3))
        flat = outputs.double().transpose(0, 1).flatten(1)
        self._patches = self._patches + patches.cpu()
        self._outputs = self._outputs + torch.stack([flat.mean(1), flat.square().mean(1)]).cpu()
        self._batches += 1

    def patches(self) -> float:
        """std(P); 1 if all taps are equal, or without a batch."""
        return float(_deviation(self._patches / max(self._batches, 1)))

    def outputs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of each output channel, float32 ``(O,)``."""
        found = self._outputs / max(self._batches, 1)
        return found[0].float(), _deviation(found).float()


def _deviation(powers: torch.Tensor) -> torch.Tensor:
    """Standard deviation from E[x] and E[x^2]; 1 in place of 0."""
    variance = powers[1] - powers[0].square()
    return torch.where(variance > 1e-12, variance, 1.0).sqrt()


@torch.no_grad()
def initialise(
    layers: Mapping[str, AdderConv2d], model: nn.Module, batches: Batches, device: torch.device, *, width: float
) -> None:
    """Initialises the adder layers, by names of the convolutions that are still in ``model``.

    The module's docstring explains ``width``. If a layer has its own norm, the norm gets the
    moments of the outputs of the convolution, because the layers behind it were trained with these.
    """
    moments = {name: Moments(layer.kernel_size, layer.stride, layer.padding) for name, layer in layers.items()}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _module, inputs, output, watch=watch: watch.add(inputs[0], output)
        )
        for name, watch in moments.items()
    ]
    model.eval()
    try:
        for images, _ in batches():
            model(images.to(device))
    finally:
        for handle in handles:
            handle.remove()
    for name, layer in layers.items():
        scale(layer, model.get_submodule(name), width * moments[name].patches())
        if isinstance(layer.norm, nn.BatchNorm2d):
            mean, deviation = moments[name].outputs()
            layer.norm.weight.copy_(deviation)
            layer.norm.bias.copy_(mean)


@torch.no_grad()
def scale(layer: AdderConv2d, conv: nn.Module, deviation: float = 1.0) -> None:
    """``W_a = deviation / std(W_conv) * W_conv``; zeros for a convolution of zeros."""
    assert isinstance(conv, nn.Conv2d)
    own = float(conv.weight.detach().double().std(correction=0))
    layer.weight.copy_(conv.weight * (deviation / own if own > 0 else 1.0))
