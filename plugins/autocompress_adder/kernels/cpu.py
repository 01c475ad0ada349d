"""The kernels on torch's tensors: forward in float32 and in integers, and both gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from autocompress_adder.kernels import clipped, distance, layout, sad
from autocompress_adder.kernels.patches import scatter
from autocompress_adder.kernels.threads import spread
from autocompress_adder.kernels.tiles import BLOCK

CHUNK = 1 << 25
"""Maximum bytes of patches at a time, but at least those of one image."""


def forward(
    x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int], padding: Sequence[int], p: float = 1.0
) -> torch.Tensor:
    """``-sum_k |P - W|**p`` in float32, ``(N, O, high, wide)`` in the memory format of ``x``."""
    shape = layout.geometry(x, weight, stride, padding)
    images = layout.images(x, padding, torch.float32)
    rows = layout.filters(weight, distance.FILTERS, distance.LANES, torch.float32)
    kernel = distance.distances if p == 1 else _to_the(p)
    found = _everywhere(kernel, images, rows, shape, distance.ROWS, distance.LANES, torch.float32)
    return layout.as_outputs(found, x, weight, shape)


def _to_the(p: float) -> Callable[..., None]:
    from autocompress_adder.kernels import power  # compiled on first use, because it takes longest

    def kernel(images: Any, rows: Any, shape: Any, begin: int, end: int, out: Any) -> None:
        power.distances(images, rows, shape, begin, end, p, out)

    return kernel


def integers(
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    pad_value: int,
    form: int | None = None,
) -> torch.Tensor:
    """``sum_k |P - W|`` of uint8 as int32, ``(N, O, high, wide)`` in the memory format of ``x``.

    ``form`` is one of :func:`sad.forms`, the quickest by default.
    """
    shape = layout.geometry(x, weight, stride, padding)
    images = layout.images(x, padding, torch.uint8, pad_value)
    rows = layout.filters(weight, sad.FILTERS, sad.BYTES, torch.uint8)
    chosen = sad.forms()[0] if form is None else form

    def kernel(images: Any, rows: Any, shape: Any, begin: int, end: int, out: Any) -> None:
        sad.distances(images, rows, shape, begin, end, chosen, out)

    found = _everywhere(kernel, images, rows, shape, sad.ROWS, sad.BYTES, torch.int32)
    return layout.as_outputs(found, x, weight, shape)


def _everywhere(
    kernel: Callable[..., None],
    images: torch.Tensor,
    rows: torch.Tensor,
    shape: layout.Geometry,
    tile: int,
    lanes: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    """The kernel for all patches, ``(>= N * high * wide, O)``.

    Patches are copied if the length of their runs is not a multiple of a vector.
    """
    places = shape.high * shape.wide
    found = torch.empty((len(images) * places + tile - 1, len(rows)), dtype=dtype)
    filters = rows.numpy()
    many = len(images)
    if shape.length % lanes:
        many = max(min(CHUNK // (places * rows.shape[1] * rows.itemsize), many), 1)
    for begin in range(0, len(images), many):
        some, lying = images[begin : begin + many], shape
        if shape.length % lanes:
            copies = torch.zeros((len(some), places, rows.shape[1]), dtype=rows.dtype)
            copies[..., : shape.taps].copy_(layout.unfolded(some, shape).reshape(len(some), places, shape.taps))
            some, lying = copies, layout.Geometry(places, 1, 1, 0, 1, rows.shape[1])
        source, into, count = some.numpy(), found.numpy()[begin * places :], len(some) * places
        _spread(kernel, source, filters, lying, into, count, tile)
    return found


def _spread(
    kernel: Callable[..., None], source: Any, filters: Any, shape: layout.Geometry, into: Any, count: int, tile: int
) -> None:
    # Shares are whole tiles. Values that the last tile writes beyond its share lie behind all
    # rows, or are overwritten later.
    spread(lambda begin, end: kernel(source, filters, shape, begin, end, into), count, tile, BLOCK)


def backward(
    gradient: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    needed: Sequence[bool],
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Gradients of ``x`` and ``weight`` in float32 by AdderNet's rules; None if not ``needed``."""
    shape = layout.geometry(x, weight, stride, padding)
    images = layout.images(x, padding, torch.float32)
    slopes = gradient.detach().permute(0, 2, 3, 1).float().contiguous().flatten(0, 2)
    rows = layout.filters(weight, 1, clipped.PANEL, torch.float32)
    panels = rows.view(len(rows), -1, clipped.PANEL).transpose(0, 1).contiguous()
    of_weight = torch.zeros((len(rows), shape.taps)) if needed[1] else None
    of_images = torch.zeros_like(images) if needed[0] else None
    places = shape.high * shape.wide
    many = max(min(CHUNK // (4 * places * rows.shape[1]), len(x)), 1)
    held = torch.zeros((layout.raised(many * places, clipped.ROWS), rows.shape[1]))
    for begin in range(0, len(x), many):
        some = images[begin : begin + many]
        count = len(some) * places
        slope, patches = slopes[begin * places : begin * places + count], held[:count, : shape.taps]
        patches.view(len(some), shape.high, shape.wide, shape.runs, shape.length).copy_(layout.unfolded(some, shape))
        if of_weight is not None:  # gW = G^T P - (sum_m G) W: one matrix product, and no clip
            of_weight.addmm_(slope.T, patches)
        if of_images is not None:
            _fold(slope, panels, shape, held, of_images[begin : begin + many])
    if of_weight is not None:
        of_weight = layout.as_filters(of_weight - slopes.sum(0).unsqueeze(1) * rows[:, : shape.taps], weight)
    if of_images is not None:
        of_images = layout.as_images(of_images, x, padding)
    return of_images, of_weight


def _fold(
    slope: torch.Tensor, panels: torch.Tensor, shape: layout.Geometry, patches: torch.Tensor, into: torch.Tensor
) -> None:
    """Adds the clipped gradient of the patches of a chunk to its images; overwrites ``patches``."""
    rows = layout.raised(len(slope), clipped.ROWS)
    if rows > len(slope):
        slope = torch.cat([slope, slope.new_zeros(rows - len(slope), slope.shape[1])])
    held, filters, weighing, target = patches.numpy(), panels.numpy(), slope.numpy(), into.numpy()
    spread(lambda begin, end: clipped.clipped(held, filters, weighing, begin, end), rows, clipped.ROWS, BLOCK)
    spread(lambda begin, end: scatter(held, shape, begin, end, target), target.shape[0] * target.shape[1])
