"""LayerSpec: properties of a layer type of a plugin, for the engine and for other methods."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from autocompress.contract.tensors import Grid


class LayerSpec:
    """Properties of one layer type.

    Subclass it, set the type, and override what differs from the defaults.
    """

    layer_type: ClassVar[type[nn.Module]]
    leaf: ClassVar[bool] = False
    """True: the layer is one operator of the traced graph. False: its torch layers are traced."""
    slow_in_file: ClassVar[str] = ""
    """Why a standard runtime runs the layer slowly; empty where it does not.

    For layers made for other hardware. Accuracy is then scored with the torch model, and the whole
    file is scored on the front only.
    """

    operator_kinds: ClassVar[frozenset[str]] = frozenset()
    """Kinds of operations in ``operator_counts``.

    The method cannot act in a job with a cost model that lacks figures for one of them.
    """

    def operator_counts(
        self, layer: nn.Module, input_shape: tuple[int, ...], output_shape: tuple[int, ...]
    ) -> dict[str, int]:
        """Operations per image by kind (``multiply``, ``add``); only called where ``leaf``.

        Shapes are those of one batch, ``(N, C, H, W)`` or ``(N, L, C)``. Count for N = 1.
        """
        raise NotImplementedError(f"{self.layer_type.__name__} is a leaf and must count its operators")

    def simulated(self, layer: nn.Module) -> nn.Module | None:
        """The layer with simulated integers, and the same parameters under the same names.

        Only called where ``leaf``. None: the layer has no integer form and stays in float.

        Inputs and weights share the scale of the tensor that the layer reads. Before the first
        forward pass the engine sets the attribute ``input_quantizer``, a :class:`FakeQuantizer`
        that is no submodule, because the network owns it. A batch normalisation behind the layer
        becomes its submodule ``norm``, and the layer must apply it. ``layer`` may already have that
        submodule when this is called.
        """
        del layer
        return None

    def hardened(self, simulated: nn.Module, grid: Grid) -> nn.Module:
        """The finished layer, with integers on ``grid``, the grid of the tensor that it reads.

        Its submodule ``norm`` is folded into constants. An artifact stores its parameters and
        buffers; their shapes depend only on ``simulated``. The finished layer has the attributes
        ``weight_bits`` and ``input_bits``, and its type is ``layer_type``.
        """
        raise NotImplementedError(f"{self.layer_type.__name__} has no integer form")

    def norm(self, layer: nn.Module) -> nn.Module | None:
        """The last normalisation inside the layer; None where it has none."""
        del layer
        return None

    def channel_map(self, layer: nn.Module) -> torch.Tensor:
        """For each output channel, the channel of the original convolution, int64 ``(out,)``.

        It maps scores of the baseline to the layer.
        """
        raise NotImplementedError(f"{self.layer_type.__name__} has no mapping to the channels of the original layer")

    def pruner(self) -> object | None:
        """A torch-pruning ``BasePruningFunc`` of the layer; None where no channel can go."""
        return None
