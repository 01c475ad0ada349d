"""LayerSpec: what the engine and other methods must know of a layer type that a plugin brings."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn


class LayerSpec:
    """Facts about one layer type. Subclass it, name the type, and override what differs from the defaults."""

    layer_type: ClassVar[type[nn.Module]]
    leaf: ClassVar[bool] = False
    """True: the traced graph keeps the layer as one operator; False: it is traced through, down to torch's layers."""
    quantized_tensors: ClassVar[tuple[str, ...]] = ("weight",)
    """Names of the layer's parameters that get a weight quantizer (where ``leaf``)."""
    shares_scale: ClassVar[bool] = False
    """True: inputs and weights must share one scale (adder layers)."""

    def operator_counts(
        self, layer: nn.Module, input_shape: tuple[int, ...], output_shape: tuple[int, ...]
    ) -> dict[str, int]:
        """Operations for one image by kind (``multiply``, ``add``); only asked where ``leaf``.

        Shapes are those of one batch, ``(N, C, H, W)`` or ``(N, L, C)``, counted for N = 1.
        """
        raise NotImplementedError(f"{self.layer_type.__name__} is a leaf and must count its operators")

    def norm(self, layer: nn.Module) -> nn.Module | None:
        """The normalisation inside the layer that comes last, if the layer brings its own."""
        del layer
        return None

    def channel_map(self, layer: nn.Module) -> torch.Tensor:
        """For each output channel, the output channel of the original convolution it stands for, int64 ``(out,)``.
        Scores made on the baseline apply through it."""
        raise NotImplementedError(f"{self.layer_type.__name__} does not say how its channels answer to the original's")

    def pruner(self) -> object | None:
        """A torch-pruning ``BasePruningFunc`` that removes channels of the layer, or None where it can lose none."""
        return None
