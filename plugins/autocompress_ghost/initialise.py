"""Initialises ghost modules from the trained convolutions that they replace.

random  fresh weights, as in the paper, which trains from scratch
subset  intrinsic filters are rows of W; the centre tap of a ghost is <W_j, W_i> / <W_i, W_i>,
        its other taps are 0
lstsq   rows and owners are chosen on calibration images, and ghosts are fitted there by least
        squares
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import numpy as np
import torch
from torch import nn

from autocompress_ghost.fit import Covariance, NormalEquations, observe
from autocompress_ghost.pairing import channel_order
from autocompress_ghost.work import Work, take_channels

Batches = Callable[[], Iterable[tuple[torch.Tensor, torch.Tensor]]]
"""Returns the calibration images, at each call."""
PRIOR = 0.01
"""Weight of W W^T relative to the covariance of the maps."""


@torch.no_grad()
def initialise(kind: str, works: Mapping[str, Work], model: nn.Module, batches: Batches, device: torch.device) -> None:
    """Fills every module of ``works`` with weights and channel order.

    Args:
        kind: "random", "subset" or "lstsq".
        works: modules to fill, by the name of the convolution in ``model``.
        model: the network with its trained convolutions still in place.
        batches: images to observe; an activated module needs them for its normalisations, for every
            ``kind``.
        device: where to compute.
    """
    if kind == "random":
        return
    grams = _weight_grams(works) if kind == "subset" else _observed_grams(works, model, batches, device)
    for name, work in works.items():
        work.module.reorder(torch.from_numpy(channel_order(grams[name], work.module.ratio)))
        _copy_intrinsic(work)
    observed = {name: work for name, work in works.items() if kind == "lstsq" or work.activated}
    equations = {name: _equations(work) for name, work in observed.items()}
    if observed:
        watchers = {name: partial(_accumulate, equations[name], work) for name, work in observed.items()}
        observe(model, batches, watchers, device)
    for name, work in works.items():
        taps = weight_taps(work) if kind == "subset" else equations[name].solve()
        _write_kernels(work, taps)
        _write_offsets(work, taps, equations.get(name))


def _weight_grams(works: Mapping[str, Work]) -> dict[str, np.ndarray]:
    """W W^T, with each row scaled by the normalisation behind it."""
    rows = {name: work.conv.weight.flatten(1) * work.scale()[:, None] for name, work in works.items()}
    return {name: (matrix @ matrix.T).double().cpu().numpy() for name, matrix in rows.items()}


def _observed_grams(
    works: Mapping[str, Work], model: nn.Module, batches: Batches, device: torch.device
) -> dict[str, np.ndarray]:
    """Covariance of the maps to fit, with each channel scaled by the normalisation behind it.

    A little of W W^T is added, because late layers have fewer observed positions than channels, so
    that images alone do not determine the fit. Multiples of one row are multiples in both matrices.
    """
    seen = {name: Covariance() for name in works}

    def watch(name: str, raw: torch.Tensor) -> None:
        scale = 1.0 if works[name].activated else works[name].scale()[:, None, None]
        seen[name].add(works[name].source(raw) * scale)

    observe(model, batches, {name: partial(watch, name) for name in works}, device)
    prior = _weight_grams(works)
    return {name: _unit(seen[name].matrix().cpu().numpy()) + PRIOR * _unit(prior[name]) for name in works}


def _unit(gram: np.ndarray) -> np.ndarray:
    """Scaled to a mean power of 1 per channel."""
    return gram / max(np.diag(gram).mean(), 1e-30)


def _copy_intrinsic(work: Work) -> None:
    """Copies the chosen rows of W to the primary convolution: in equation 2, f' is part of f."""
    primary = work.module.primary
    primary.weight.copy_(work.conv.weight[work.kept])
    if primary.bias is not None and work.conv.bias is not None:
        primary.bias.copy_(work.conv.bias[work.kept])
    if work.activated and work.norm is not None:
        take_channels(work.module.primary_norm, work.norm, work.kept)


def _equations(work: Work) -> NormalEquations:
    centre = work.norm is not None or work.conv.bias is not None
    return NormalEquations(work.kept, work.ghosts, work.owner, work.module.cheap_kernel, centre=centre)


def _accumulate(equations: NormalEquations, work: Work, raw: torch.Tensor) -> None:
    equations.add(work.source(raw), work.target(raw))


def weight_taps(work: Work) -> torch.Tensor:
    """Data-free kernels ``[g, d^2]``: centre tap <W_j, W_i> / <W_i, W_i>, W scaled as sources."""
    rows = work.conv.weight.flatten(1).double()
    if work.activated:
        rows = rows * work.scale()[:, None]
    sources, targets = rows[work.kept[work.owner]], rows[work.ghosts]
    power = (sources**2).sum(1)
    taps = torch.zeros(len(targets), work.module.cheap_kernel**2, dtype=rows.dtype, device=rows.device)
    taps[:, taps.shape[1] // 2] = torch.where(power > 0, (targets * sources).sum(1) / power.clamp(min=1e-30), 0.0)
    return taps


def _write_kernels(work: Work, taps: torch.Tensor) -> None:
    """Writes Phi of equation 3. Surplus places, which the module drops, stay zero."""
    for cheap, part in zip(work.module.phi, _by_convolution(work, taps), strict=True):
        cheap.weight.zero_()
        cheap.weight[: len(part)] = part.view(len(part), 1, *cheap.kernel_size).to(cheap.weight.dtype)


def _write_offsets(work: Work, taps: torch.Tensor, equations: NormalEquations | None) -> None:
    """Sets the mean of the ghosts, by a bias or by the normalisation of an activated module."""
    if work.activated:
        assert equations is not None
        moments = (*equations.output_moments(taps), equations.target_mean)
        parts = zip(*(_by_convolution(work, moment) for moment in moments), strict=True)
        for norm, (mean, variance, wanted) in zip(work.module.ghost_norms, parts, strict=True):
            _reproduce(norm, mean, variance, wanted)
    elif work.conv.bias is not None:
        if equations is not None:
            offsets = equations.target_mean - (taps * equations.patch_mean).sum(1)
        else:  # no images: the bias of the ghost, minus the part from the bias of the intrinsic map
            offsets = work.conv.bias[work.ghosts] - taps.sum(1) * work.conv.bias[work.kept[work.owner]]
        for cheap, part in zip(work.module.phi, _by_convolution(work, offsets), strict=True):
            assert cheap.bias is not None
            cheap.bias.zero_()
            cheap.bias[: len(part)] = part.to(cheap.bias.dtype)


def _by_convolution(work: Work, values: torch.Tensor) -> list[torch.Tensor]:
    """The values of all ghosts, divided among the s - 1 cheap convolutions.

    The last ones get fewer if there is a surplus.
    """
    m = len(work.kept)
    return [values[j * m : (j + 1) * m] for j in range(len(work.module.cheap))]


def _reproduce(norm: nn.BatchNorm2d, mean: torch.Tensor, variance: torch.Tensor, wanted: torch.Tensor) -> None:
    """Makes ``norm`` shift its input to the mean ``wanted``, with scale 1."""
    g = len(mean)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean[:g] = mean.float()
    norm.running_var[:g] = variance.float()
    norm.weight[:g] = torch.sqrt(variance + norm.eps).float()
    norm.bias[:g] = wanted.float()
