"""Removes channels from a network, for the PRUNE stage and for rebuilding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from autocompress.channels.attention import set_heads
from autocompress.channels.couplings import couplings as find_couplings
from autocompress.channels.dependencies import pruners_of
from autocompress.channels.masking import Keep, masked_copy
from autocompress.channels.slicing import Refused, slice_layer, slice_parameter
from autocompress.contract import LayerSpec
from autocompress.contract.coupling import Coupling
from autocompress.errors import InvalidRecipe
from autocompress.graph import evaluating
from autocompress.graph.shapes import blank_images


class Scatter(nn.Module):
    """Scatters k channels into ``width`` channels of zeros, at the kept indices.

    Added to a residual stream r, this is r.index_add(1, keep, x), as in SCOP's official code.

    Input ``(N, k, H, W)``, output ``(N, width, H, W)``, same dtype.
    """

    keep: torch.Tensor

    def __init__(self, keep: Sequence[int], width: int) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("keep", torch.as_tensor(keep, dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` with zeros at the removed channels."""
        full = x.new_zeros((x.shape[0], self.width, x.shape[2], x.shape[3]))
        return full.index_add(1, self.keep, x)

    def extra_repr(self) -> str:
        return f"{len(self.keep)} of {self.width}"


class ScatteredNorm(nn.Sequential):
    """A norm over the kept channels followed by :class:`Scatter`; it replaces the norm."""

    def __init__(self, norm: nn.Module, keep: Sequence[int], width: int) -> None:
        super().__init__()
        self.add_module("norm", norm)
        self.add_module("scatter", Scatter(keep, width).to(next(norm.buffers()).device))


def remove(
    model: nn.Module,
    keep: Keep,
    input_size: tuple[int, int, int],
    mode: str = "inner",
    specs: Iterable[LayerSpec] = (),
    *,
    couplings: Sequence[Coupling] | None = None,
) -> nn.Module:
    """Removes every channel that ``keep`` does not name, and runs the result on a blank image.

    Args:
        model: changed in place, and returned in the same mode (train, eval). Parameters keep their
            names, except that a scattered norm gets ``.norm`` in the names of its parameters.
        keep: coupling name -> kept channels, ascending; couplings that are not named keep all.
            Together with ``mode`` and ``input_size`` this is the plan, as JSON: the same call on a
            new model rebuilds the structure.
        input_size: (channels, height, width).
        mode: that of the couplings, one of ``MODES``.
        specs: descriptions of the layer types of plugins.
        couplings: couplings of this model and mode, if they are known; else they are found again,
            without verifying them.

    Raises:
        InvalidRecipe: if ``keep`` names a coupling that does not exist or cannot lose channels, if
            channels in it are invalid, or if the network does not run afterwards.
        UntraceableModel: if the couplings cannot be found.
    """
    specs = list(specs)
    if couplings is None:
        couplings = find_couplings(model, input_size, mode, specs, verify=False)
    chosen = _chosen(couplings, keep)
    before = _outputs(model, input_size)
    try:
        slice_channels(model, chosen, keep, pruners_of(specs))
        after = _outputs(model, input_size)
    except Exception as error:  # a forward function may raise any type
        raise InvalidRecipe(f"the network does not run without the removed channels: {_said(error)}") from error
    if before != after:
        raise InvalidRecipe(f"removing channels changed the network's output from {before} to {after}")
    return model


def masked(
    model: nn.Module,
    keep: Keep,
    input_size: tuple[int, int, int],
    mode: str = "inner",
    specs: Iterable[LayerSpec] = (),
    *,
    couplings: Sequence[Coupling] | None = None,
) -> nn.Module:
    """A copy of ``model`` at full width, with zeros where :func:`remove` would remove channels.

    In eval mode both have equal outputs if every coupling in ``keep`` is ``safe``. Arguments and
    errors are those of :func:`remove`. Names and shapes of the state dict are those of the model.
    """
    if couplings is None:
        couplings = find_couplings(model, input_size, mode, specs, verify=False)
    return masked_copy(model, _chosen(couplings, keep), keep)


def slice_channels(
    model: nn.Module, couplings: Sequence[Coupling], keep: Keep, pruners: Mapping[type[nn.Module], Any]
) -> None:
    """Slices ``model`` in place, each layer once, even if it is in several couplings."""
    gone: dict[tuple[str, str], set[int]] = {}
    dims: dict[str, tuple[int, int]] = {}
    for coupling in couplings:
        channels = set(range(coupling.channels)) - set(keep[coupling.name])
        for part in coupling.parts:
            dims[part.layer] = (part.size, part.dim)
            for side in ("in", "out") if part.side == "both" else (part.side,):
                gone.setdefault((part.layer, side), set()).update(part.indices(sorted(channels)))
    _check_widths(couplings, gone)
    sizes = {(p.layer, s): p.size for c in couplings for p in c.parts for s in _sides(p.side)}
    for layer in dict.fromkeys(name for name, _ in gone):
        kept = {
            side: [i for i in range(sizes[layer, side]) if i not in gone[layer, side]]
            for side in ("in", "out", "parameter")
            if gone.get((layer, side))
        }
        if "parameter" in kept:
            slice_parameter(model, layer, kept["parameter"], dims[layer][1])
        elif kept:
            module = model.get_submodule(layer)
            slice_layer(module, kept.get("in"), kept.get("out"), pruners.get(type(module)))
    for coupling in couplings:
        if coupling.heads:
            set_heads(model, coupling.name, len(keep[coupling.name]))
        if coupling.scatter and len(keep[coupling.name]) < coupling.channels:
            norm = dict(coupling.norm_of)[coupling.name]
            model.set_submodule(norm, ScatteredNorm(model.get_submodule(norm), keep[coupling.name], coupling.channels))


def _sides(side: str) -> tuple[str, ...]:
    return ("in", "out") if side == "both" else (side,)


def _check_widths(couplings: Sequence[Coupling], gone: Mapping[tuple[str, str], set[int]]) -> None:
    for part in (part for coupling in couplings for part in coupling.parts):
        for side in _sides(part.side):
            if len(gone.get((part.layer, side), ())) >= part.size:
                raise Refused(f"{part.layer} would lose every channel")


def _chosen(couplings: Sequence[Coupling], keep: Keep) -> list[Coupling]:
    """The couplings that ``keep`` names, after checking the channels to keep."""
    known = {coupling.name: coupling for coupling in couplings}
    for name, channels in keep.items():
        if name not in known:
            raise InvalidRecipe(f"there are no channels called {name!r} to remove")
        if not known[name].prunable and list(channels) != list(range(known[name].channels)):
            raise InvalidRecipe(f"no channels of {name} can be removed: {'; '.join(known[name].reasons)}")
        try:
            known[name].check_keep(channels)
        except ValueError as error:
            raise InvalidRecipe(str(error)) from error
    return [coupling for coupling in couplings if coupling.name in keep and coupling.prunable]


def _outputs(model: nn.Module, input_size: tuple[int, int, int]) -> list[tuple[int, ...]]:
    with evaluating(model):
        out = model(blank_images(model, input_size))
    return [tuple(value.shape) for value in (out if isinstance(out, list | tuple) else [out])]


def _said(error: Exception) -> str:
    return (str(error) or type(error).__name__).split("\n")[0]
