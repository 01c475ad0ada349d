"""SCOP's scores of a baseline: knockoffs, control scales and importance, for all widths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from autocompress.contract import TransferSet
from autocompress_scop import control, knockoffs
from autocompress_scop.control import ScaleSettings
from autocompress_scop.scores import Scores, gamma_of, importance

Progress = Callable[..., None]


@dataclass(frozen=True)
class ScoreSettings:
    """Settings of scores. Recipes with equal settings share one set of scores.

    Attributes:
        knockoffs: kind of knockoff data, one of ``knockoffs.KINDS``.
        shrinkage: r of the correlations of patches, for knockoffs with a covariance. Of 0.1, 0.2
            and 0.5, 0.2 kept most accuracy on glyphs (resnet10t, before recovery).
        generator_steps: training steps of a generator, for knockoffs with one.
        images: maximum number of images of the transfer set for learning control scales, drawn by
            seed; 0 for all. The default limits the cost on large data.
        scales: settings for learning the control scales. ``scales.epochs`` is the number of score
            epochs.
    """

    knockoffs: str = "gaussian"
    shrinkage: float = 0.2
    generator_steps: int = 400
    images: int = 2048
    scales: ScaleSettings = field(default_factory=ScaleSettings)


def prepared(
    baseline: nn.Module,
    pairs: Mapping[str, str | None],
    transfer: TransferSet | None,
    settings: ScoreSettings,
    *,
    device: torch.device | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The scores and control scales that recipes share, as tensors and JSON.

    Args:
        baseline: the trained network; not changed.
        pairs: which layers get scores; see ``scores.pairs_of``.
        transfer: images for the control scales.
        settings: settings of scores.

    Returns:
        ``layers``: scores by layer. ``beta``: the control scales. ``settings``: the settings.

    Raises:
        ValueError: if there are no images.
    """
    beta = _scales(baseline, pairs, transfer, settings, device, seed, progress)
    gammas = {name: _on_cpu(gamma_of(baseline, norm)) for name, norm in pairs.items()}
    layers = {name: importance(gammas[name], beta[name]) for name in pairs}
    return {"layers": layers, "beta": beta, "settings": asdict(settings)}


def _on_cpu(gamma: torch.Tensor | None) -> torch.Tensor | None:
    return None if gamma is None else gamma.float().cpu()


def _scales(
    baseline: nn.Module,
    pairs: Mapping[str, str | None],
    transfer: TransferSet | None,
    settings: ScoreSettings,
    device: torch.device | None,
    seed: int,
    progress: Progress | None,
) -> Scores:
    if transfer is None or not len(transfer.train):
        raise ValueError("SCOP's control scales are learned from images, and there are none")
    images = transfer.train.subset(settings.images, seed) if settings.images else transfer.train
    source = knockoffs.make(
        settings.knockoffs,
        images,
        seed=seed,
        device=device,
        shrinkage=settings.shrinkage,
        steps=settings.generator_steps,
        progress=progress,
    )
    return control.learn(
        baseline,
        pairs,
        images,
        source,
        settings.scales,
        labelled=transfer.labelled,
        device=device,
        seed=seed,
        progress=progress,
    )
