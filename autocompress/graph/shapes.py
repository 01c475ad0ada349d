"""Shapes of every tensor in a traced graph."""

from __future__ import annotations

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from autocompress.graph.trace import UntraceableModel, evaluating


def blank_images(model: nn.Module, input_size: tuple[int, int, int], batch: int = 1) -> torch.Tensor:
    """Zeros ``(batch, *input_size)`` of the type and on the device of the model's floats."""
    tensors = (tensor for tensor in [*model.parameters(), *model.buffers()] if tensor.is_floating_point())
    some = next(tensors, torch.zeros(()))
    return torch.zeros((batch, *input_size), dtype=some.dtype, device=some.device)


def propagate_shapes(module: fx.GraphModule, input_size: tuple[int, int, int]) -> None:
    """Runs ``module`` once in eval mode on a blank image, and leaves shapes in
    ``node.meta["tensor_meta"]``.

    Raises:
        UntraceableModel: if the model does not take images of ``input_size``.
    """
    images = blank_images(module, input_size)
    with evaluating(module):
        try:
            ShapeProp(module).propagate(images)
        except Exception as error:  # whatever a foreign forward raises
            reason = str(error).split("\n")[0]
            raise UntraceableModel(type(module).__name__, f"with images of {input_size}: {reason}") from error
