"""Bias correction: subtracts the mean error of quantization of each output channel from the bias.

Nagel, van Baalen, Blankevoort, Welling: "Data-Free Quantization Through Weight Equalization and
Bias Correction", ICCV 2019 (arXiv 1906.04721), section 4.2, in the empirical form of its appendix
D: ``b <- b - (E[y_quantized] - E[y])``, layer after layer, with inputs from corrected layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import fx, nn

from autocompress.contract import FakeQuantizer
from autocompress.errors import TrialFailed
from autocompress.graph.kinds import shape_of
from autocompress.graph.trace import evaluating
from autocompress.quantization.fakelayers import FakeLayer, FakeQuantConv2d
from autocompress.quantization.network import QuantizedNetwork

MEMORY = 2**30
"""Maximum bytes of the activations of all images, roughly."""
LIVE = 4
"""The number of tensors of the largest size that may exist at the same time."""
BATCH = 64
PIXELS, LEAST_IMAGES = 256 * 64**2, 32
"""Pixels of all images, and minimum number of images.

Fewer large images are needed, because means are taken over positions as well as over images.
"""


def correct_bias(network: QuantizedNetwork, batches: Iterable[torch.Tensor]) -> int:
    """Adds the mean quantization error of each output channel to its layer's bias.

    The error is the mean over images and positions of the float output minus the quantized one.
    The inputs of a layer are already quantized and corrected, as they will be deployed.

    Call it only once. It takes the float means from the same network with its quantizers off, and a
    correction changes these means.

    There are two passes: one in float for the means, and one with quantizers. The second runs each
    node for all images before the next node, so that every layer gets corrected inputs. The
    activations of all images are therefore in memory at once, and the number of images is limited
    so that they take about a gibibyte (332 images at 32x32 and 64 channels; 32 images at 224
    pixels).

    Args:
        network: calibrated; changed in place.
        batches: the batches of images ``(N, C, H, W)`` that calibrated the network.

    Returns:
        Number of corrected layers: all quantized ones.

    Raises:
        TrialFailed: if the outputs of a layer are not finite.
        ValueError: if there are no images.
    """
    images = torch.cat(list(batches) or [torch.zeros(0)])
    if not len(images):
        raise ValueError("bias correction needs at least one image")
    layers = network.fake_layers()
    with evaluating(network):
        height, width = images.shape[2:]
        images = images[: min(_most_images(network), max(LEAST_IMAGES, PIXELS // (height * width)))]
        wanted = _float_means(network, layers, images)
        _Corrector(network, layers, wanted).run(images)
    return len(layers)


def _most_images(network: QuantizedNetwork) -> int:
    shapes = [shape_of(node) for node in network.graph.nodes]
    largest = max(math.prod(shape) for shape in shapes if shape)
    return max(MEMORY // (4 * LIVE * largest), 1)


def _float_means(
    network: QuantizedNetwork, layers: dict[str, FakeLayer], images: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Mean of each output channel of each layer with all quantizers off, float64."""
    sums: dict[str, torch.Tensor] = {}

    def add_up(name: str) -> Any:
        def hook(layer: nn.Module, _: Any, output: torch.Tensor) -> None:
            assert isinstance(layer, FakeLayer)
            total = _mean(layer, output) * len(output)
            sums[name] = sums[name] + total if name in sums else total

        return hook

    hooks = [layer.register_forward_hook(add_up(name)) for name, layer in layers.items()]
    fakes = [module for module in network.modules() if isinstance(module, FakeQuantizer)]
    before = [fake.enabled for fake in fakes]
    try:
        for fake in fakes:
            fake.enabled = False
        for batch in images.split(BATCH):
            network(batch)
    finally:
        for fake, enabled in zip(fakes, before, strict=True):
            fake.enabled = enabled
        for hook in hooks:
            hook.remove()
    return {name: total / len(images) for name, total in sums.items()}


class _Corrector(fx.Interpreter):
    """Runs the network node by node and corrects each layer's bias once its output is known."""

    def __init__(
        self, network: QuantizedNetwork, layers: dict[str, FakeLayer], wanted: dict[str, torch.Tensor]
    ) -> None:
        super().__init__(network)
        self._layers, self._wanted = layers, wanted

    def run_node(self, n: fx.Node) -> Any:
        output = super().run_node(n)
        layer = self._layers.get(str(n.target)) if n.op == "call_module" else None
        if layer is None:
            return output
        error = (self._wanted[str(n.target)] - _mean(layer, output)).to(output.dtype)
        if not bool(error.isfinite().all()):
            raise TrialFailed(f"the outputs of '{n.target}' are not finite")
        add_to_bias(layer, error)
        # The following nodes get the outputs with the rounded bias: the same shift for all images.
        inputs, _ = self.fetch_args_kwargs_from_env(n)
        gained = layer(inputs[0][:1]) - output[:1]
        axes = [d for d in range(output.ndim) if d != _channels(layer, output)]
        return output.add_(gained.mean(axes, keepdim=True))


def _mean(layer: FakeLayer, output: torch.Tensor) -> torch.Tensor:
    """The mean of each output channel over images and positions, float64.

    The sums of each image are in float32, which takes a fifth of the time.
    """
    places = [d for d in range(1, output.ndim) if d != _channels(layer, output)]
    of_images = output.mean(places) if places else output
    return of_images.mean(0, dtype=torch.float64)


def _channels(layer: FakeLayer, output: torch.Tensor) -> int:
    """The axis of the output channels."""
    return 1 if isinstance(layer, FakeQuantConv2d) else output.ndim - 1


def add_to_bias(layer: FakeLayer, error: torch.Tensor) -> None:
    """Adds a constant for each channel to the outputs of the layer, in place."""
    if layer.norm is not None:  # the offset of the norm is added to the outputs of the layer
        layer.norm.bias.add_(error)
    elif layer.bias is None:
        layer.bias = nn.Parameter(error)
    else:
        layer.bias.add_(error)
