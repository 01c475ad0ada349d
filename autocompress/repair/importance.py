"""Importance of each output of a layer: the energy of the gradient of the loss there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from autocompress.graph import evaluating
from autocompress.task import Classification, Task

_CLASSES = Classification()


def gradient_energy(
    model: nn.Module,
    layers: Sequence[str],
    batches: Callable[[], Iterable[torch.Tensor]],
    *,
    seed: int = 0,
    pause: Callable[[], None] | None = None,
    task: Task = _CLASSES,
) -> dict[str, torch.Tensor]:
    """E[sum over positions of (d log p(y) / d output)^2], with labels y drawn from the model.

    This is the diagonal of the Fisher information with respect to the outputs of the layer. If an
    output changes by d, the KL divergence rises by about half of this value times d^2.

    Args:
        model: classifier, on any device; it is not changed.
        layers: module paths of convolutions and linear layers.
        batches: returns the images, on the device of the model, at each call.
        seed: random seed for drawing labels.
        pause: called between batches.
        task: task of the model; defines how labels are drawn.

    Returns:
        float64 ``[outputs]`` by layer; zeros for a layer that did not run.
    """
    generator = torch.Generator().manual_seed(seed)
    energies: dict[str, torch.Tensor] = {}
    images = 0
    with evaluating(model), torch.enable_grad(), ExitStack() as stack:
        for name in layers:
            layer = model.get_submodule(name)
            energies[name] = torch.zeros(len(layer.weight), dtype=torch.float64)  # type: ignore[arg-type]
            stack.callback(layer.register_forward_hook(_watching(energies[name])).remove)
        for batch in batches():
            images_in = batch.detach().requires_grad_()  # so that there are gradients at frozen layers too
            logits = model(images_in).float()
            loss = task.sampled_loss(logits, generator)
            torch.autograd.grad(loss, images_in)  # adds no gradient to parameters
            images += len(batch)
            if pause is not None:
                pause()
    return {name: energy / max(images, 1) for name, energy in energies.items()}


def _watching(energy: torch.Tensor) -> Callable[[nn.Module, Any, torch.Tensor], None]:
    """A forward hook that adds the squared gradients of a layer's output to ``energy``."""

    def on_gradient(gradient: torch.Tensor) -> None:
        squares = gradient.float().square()
        if gradient.ndim == 4 and gradient.shape[1] == len(energy):
            of_images = squares.sum((2, 3))
        else:
            of_images = squares.flatten(1, -2).sum(1) if gradient.ndim > 2 else squares
        # If positions were summed in float64 too, this would take five times as long.
        energy.add_(of_images.sum(0, dtype=torch.float64).cpu())

    def hook(layer: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        del layer
        output.register_hook(on_gradient)

    return hook
