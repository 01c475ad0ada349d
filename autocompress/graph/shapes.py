"""Shapes of every tensor in a traced graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from autocompress.graph.trace import UntraceableModel, evaluating


def blank_images(model: nn.Module, input_size: tuple[int, int, int], batch: int = 1) -> torch.Tensor:
    """Zeros ``(batch, *input_size)`` with the dtype and device of the parameters of the model."""
    tensors = (tensor for tensor in [*model.parameters(), *model.buffers()] if tensor.is_floating_point())
    some = next(tensors, torch.zeros(()))
    return torch.zeros((batch, *input_size), dtype=some.dtype, device=some.device)


class _Shapes(fx.Interpreter):
    """Stores the shape of each tensor in ``node.meta["shape"]``.

    torch's ``ShapeProp`` does this too, but it imports parts of torch's compiler, which takes a
    second, and prints a traceback if a node cannot be run.
    """

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, torch.Tensor):
            n.meta["shape"] = tuple(result.shape)
        return result


def propagate_shapes(module: fx.GraphModule, input_size: tuple[int, int, int]) -> None:
    """Runs ``module`` once on a blank image, and stores shapes in ``node.meta["shape"]``.

    Raises:
        UntraceableModel: if the model does not take images of ``input_size``.
    """
    images = blank_images(module, input_size)
    with evaluating(module):
        try:
            _Shapes(module).run(images)
        except Exception as error:  # a forward function may raise any type
            reason = str(error).split("\n")[0]
            raise UntraceableModel(type(module).__name__, f"with images of {input_size}: {reason}") from error
