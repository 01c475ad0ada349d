"""Unfolds the input of a layer into the columns that its weight matrix multiplies (im2col)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from timm.layers import ScaledStdConv2d, StdConv2d
from timm.layers.conv2d_same import Conv2dSame
from torch import nn
from torch.nn import functional

from autocompress.graph.taps import Axis, axis_of, live_taps

POSITIONS = 16
"""Output positions that are drawn per image. Neighbours are similar, so more add little."""
STANDARDISING = (StdConv2d, ScaledStdConv2d)


def has_columns(layer: nn.Module) -> bool:
    """Whether the output of ``layer`` is its weight matrix times columns of its input.

    This is true for linear layers and for convolutions with zero padding. It is false for
    convolutions with weight standardisation, because a refit would have to invert it.
    """
    if isinstance(layer, nn.Linear):
        return True
    return isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros" and not isinstance(layer, STANDARDISING)


@dataclass(frozen=True)
class Columns:
    """The unfolding of the input of one layer (im2col).

    A convolution of ``g`` groups has a weight matrix ``[out / g, in / g * taps]`` for each group. A
    linear layer has one group and one tap.

    Attributes:
        groups: number of groups.
        inputs: input channels (or features) of one group.
        taps: (row, column) of each kernel tap that reads a pixel at some position. A tap that only
            reads padding has no effect, and no column.
        kernel: (height, width) of the whole kernel.
    """

    groups: int
    inputs: int
    taps: tuple[tuple[int, int], ...] = ((0, 0),)
    kernel: tuple[int, int] = (1, 1)

    @classmethod
    def of(cls, layer: nn.Module, size: Sequence[int]) -> Columns:
        """Columns of ``layer`` for inputs of ``size`` (shape without the batch axis).

        Raises:
            TypeError: if :func:`has_columns` is False.
        """
        if isinstance(layer, nn.Linear):
            return cls(groups=1, inputs=layer.in_features)
        if not has_columns(layer):
            raise TypeError(f"the input of a {type(layer).__name__} has no columns")
        assert isinstance(layer, nn.Conv2d)
        kernel = (int(layer.kernel_size[0]), int(layer.kernel_size[1]))
        rows, places = (live_taps(_axis(layer, axis, int(size[axis - 2])), kernel[axis]) for axis in (0, 1))
        taps = tuple((row, place) for row in rows for place in places)
        return cls(layer.groups, layer.in_channels // layer.groups, taps, kernel)

    @property
    def width(self) -> int:
        """Number of columns of one group."""
        return self.inputs * len(self.taps)

    def weight(self, layer: nn.Module) -> torch.Tensor:
        """The weight matrix, float64 ``[groups, out / groups, width]``, without dead taps."""
        weight = layer.weight
        assert isinstance(weight, torch.Tensor)
        full = weight.detach().double().reshape(self.groups, -1, self.inputs, *self.kernel)
        rows, places = self._taps(weight.device)
        return full[..., rows, places].flatten(2)

    def write(self, layer: nn.Module, matrix: torch.Tensor) -> None:
        """Writes ``matrix`` (as from :meth:`weight`) to the layer; weights of dead taps stay."""
        weight = layer.weight
        assert isinstance(weight, torch.Tensor)
        rows, places = self._taps(weight.device)
        with torch.no_grad():
            full = weight.reshape(self.groups, -1, self.inputs, *self.kernel)
            new = full.clone()
            new[..., rows, places] = matrix.to(weight).unflatten(2, (self.inputs, len(self.taps)))
            weight.copy_(new.reshape(weight.shape))

    def of_inputs(self, inputs: Sequence[int]) -> torch.Tensor:
        """The columns of these input channels: pairs ``[n, 2]`` of group and column, ascending."""
        chosen = torch.as_tensor(sorted(inputs), dtype=torch.int64)
        taps = len(self.taps)
        group = (chosen // self.inputs).repeat_interleave(taps)
        column = (chosen % self.inputs)[:, None] * taps + torch.arange(taps)
        return torch.stack([group, column.flatten()], 1)

    def sample(
        self,
        layer: nn.Module,
        x: torch.Tensor,
        generator: torch.Generator,
        positions: int | None = POSITIONS,
        first: int = 0,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Columns of a batch at random output positions, drawn before unfolding.

        Args:
            layer: the layer itself.
            x: its input, ``[N, C, H, W]`` for a convolution, ``[N, ..., features]`` for a linear
                layer.
            generator: random number generator on the CPU.
            positions: maximum number of positions per image; None for all.
            first: number of first positions of a token layer (class and register tokens) that are
                always drawn.

        Returns:
            Columns ``[groups, samples, width]`` in the dtype of x, and the index of the output
            position of each sample, ``[N, samples / N]``.
        """
        if isinstance(layer, nn.Linear):
            flat = x.reshape(x.shape[0], -1, x.shape[-1])
            chosen = _draw(len(flat), flat.shape[1], positions, generator, first).to(x.device)
            drawn = flat[torch.arange(len(flat), device=x.device)[:, None], chosen]
            return drawn.reshape(1, -1, self.width), chosen
        assert isinstance(layer, nn.Conv2d)
        rows, places = (_axis(layer, axis, int(x.shape[axis - 2])) for axis in (0, 1))
        chosen = _draw(len(x), rows.outputs * places.outputs, positions, generator, 0).to(x.device)
        around = (places.before, places.after, rows.before, rows.after)
        padded = functional.pad(x, around) if any(around) else x
        top = torch.div(chosen, places.outputs, rounding_mode="floor") * rows.stride
        left = chosen % places.outputs * places.stride
        image = torch.arange(len(x), device=x.device)[:, None]
        patches = [
            padded[image, :, top + row * rows.dilation, left + place * places.dilation] for row, place in self.taps
        ]
        unfolded = torch.stack(patches, -1)  # [N, positions, C, taps]
        unfolded = unfolded.reshape(-1, self.groups, self.width)
        return unfolded.transpose(0, 1), chosen

    def _taps(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        index = torch.tensor(self.taps, dtype=torch.int64, device=device)
        return index[:, 0], index[:, 1]


def _axis(layer: nn.Conv2d, axis: int, extent: int) -> Axis:
    size, stride, dilation = int(layer.kernel_size[axis]), int(layer.stride[axis]), int(layer.dilation[axis])
    span = dilation * (size - 1) + 1
    if isinstance(layer, Conv2dSame):  # TensorFlow's padding depends on the extent
        total = max((-(-extent // stride) - 1) * stride + span - extent, 0)
        before, after = total // 2, total - total // 2
    elif layer.padding == "valid":
        before = after = 0
    elif layer.padding == "same":
        before, after = (span - 1) // 2, span - 1 - (span - 1) // 2
    else:
        before = after = int(layer.padding[axis])
    return axis_of(extent, size, before, after, stride, dilation)


def _draw(images: int, available: int, most: int | None, generator: torch.Generator, first: int) -> torch.Tensor:
    """Positions for each image, without repetition: ``[images, min(most, available)]``."""
    if most is None or available <= most:
        return torch.arange(available).expand(images, -1)
    first = min(first, most)
    keys = torch.rand((images, available), generator=generator)
    keys[:, :first] = -1  # the smallest keys are drawn
    return keys.argsort(1)[:, :most]
