"""LayerSpec: what the engine and other methods must know of a layer type that a plugin brings."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from autocompress.contract.tensors import Grid


class LayerSpec:
    """Facts about one layer type.

    Subclass it, name the type, and override what differs from the defaults.
    """

    layer_type: ClassVar[type[nn.Module]]
    leaf: ClassVar[bool] = False
    """True: the traced graph keeps the layer as one operator; False: it is traced through, down to
    torch's layers.
    """
    slow_in_file: ClassVar[str] = ""
    """Why a stock runtime runs the layer slowly, for layers made for other hardware; empty where it
    does not. Accuracy is then scored with the torch model, and the file in full only on the
    front."""

    operator_kinds: ClassVar[frozenset[str]] = frozenset()
    """Kinds that ``operator_counts`` gives.

    Where a job's cost model lacks figures for one, the method does not act.
    """

    def operator_counts(
        self, layer: nn.Module, input_shape: tuple[int, ...], output_shape: tuple[int, ...]
    ) -> dict[str, int]:
        """Operations for one image by kind (``multiply``, ``add``); only asked where ``leaf``.

        Shapes are those of one batch, ``(N, C, H, W)`` or ``(N, L, C)``, counted for N = 1.
        """
        raise NotImplementedError(f"{self.layer_type.__name__} is a leaf and must count its operators")

    def simulated(self, layer: nn.Module) -> nn.Module | None:
        """The layer with simulated integers, and the same parameters under the same names.

        Only asked where ``leaf``. None: the layer has no integer form and stays in float.

        Inputs and weights share one scale: that of the tensor that the layer reads. Before the
        first forward pass the engine sets the attribute ``input_quantizer`` (a
        :class:`FakeQuantizer`, no child: the network owns it), and where a batch normalisation
        stood behind the layer, it is the child ``norm``, which the layer then applies itself.
        ``layer`` may have that child already when this is asked.
        """
        del layer
        return None

    def hardened(self, simulated: nn.Module, grid: Grid) -> nn.Module:
        """The finished layer, with integers on ``grid``, the grid of the tensor that it reads.

        Its child ``norm`` is folded into constants. An artifact keeps its parameters and
        buffers, and their shapes depend on ``simulated`` alone. It has the attributes
        ``weight_bits`` and ``input_bits``, and its type is ``layer_type``.
        """
        raise NotImplementedError(f"{self.layer_type.__name__} has no integer form")

    def norm(self, layer: nn.Module) -> nn.Module | None:
        """The normalisation inside the layer that comes last, if the layer brings its own."""
        del layer
        return None

    def channel_map(self, layer: nn.Module) -> torch.Tensor:
        """For each output channel, the channel of the original convolution, int64 ``(out,)``.

        Scores made on the baseline apply through it.
        """
        raise NotImplementedError(f"{self.layer_type.__name__} does not say how its channels answer to the original's")

    def pruner(self) -> object | None:
        """A torch-pruning ``BasePruningFunc`` for the layer; None where it can lose no channel."""
        return None
