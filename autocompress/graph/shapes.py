"""Shapes of every tensor in a traced graph."""

from __future__ import annotations

import torch
from torch import fx
from torch.fx.passes.shape_prop import ShapeProp

from autocompress.graph.trace import UntraceableModel, evaluating


def propagate_shapes(module: fx.GraphModule, input_size: tuple[int, int, int], batch: int = 1) -> None:
    """Runs ``module`` once in eval mode on a blank batch, and leaves shapes in ``node.meta["tensor_meta"]``.

    Raises:
        UntraceableModel: if the model does not take images of ``input_size``.
    """
    some = next((p for p in module.parameters() if p.is_floating_point()), torch.zeros(()))
    images = torch.zeros((batch, *input_size), dtype=some.dtype, device=some.device)
    with evaluating(module):
        try:
            ShapeProp(module).propagate(images)
        except Exception as error:  # whatever a foreign forward raises
            reason = str(error).split("\n")[0]
            raise UntraceableModel(type(module).__name__, f"with images of {input_size}: {reason}") from error
