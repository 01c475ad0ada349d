"""Parameters of scores; they are only searched if a job says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from autocompress.contract import Params, Space
from autocompress_scop.control import MIXINGS
from autocompress_scop.knockoffs import KINDS
from autocompress_scop.scoring import ScoreSettings

MOST_EPOCHS, MOST_IMAGES = 20, 1_000_000


def score_space(space: Space, own: ScoreSettings) -> Params:
    """Asks for the settings of scores, with defaults from ``own``.

    The minimum of epochs is 1. With 0, all scores would be 0, and channels would be removed in
    their order.
    """
    scales = own.scales
    options: Any = {"structural": False, "searched": False}
    return {
        "knockoffs": space.categorical("knockoffs", KINDS, default=own.knockoffs, **options),
        "score_epochs": space.integer("score_epochs", 1, MOST_EPOCHS, default=max(scales.epochs, 1), **options),
        "score_images": space.integer("score_images", 0, MOST_IMAGES, default=own.images, **options),
        "score_lr": space.float("score_lr", 1e-4, 1e-1, default=scales.lr, log=True, **options),
        "mixing": space.categorical("mixing", MIXINGS, default=scales.mixing, **options),
    }


def settings_of(params: Mapping[str, Any], own: ScoreSettings) -> ScoreSettings:
    """The settings of scores in a recipe; those of ``own`` where it has none."""
    scales = own.scales
    return replace(
        own,
        knockoffs=params.get("knockoffs", own.knockoffs),
        images=params.get("score_images", own.images),
        scales=replace(
            scales,
            epochs=params.get("score_epochs", scales.epochs),
            lr=params.get("score_lr", scales.lr),
            mixing=params.get("mixing", scales.mixing),
        ),
    )


def said(params: Mapping[str, Any], own: ScoreSettings) -> Params:
    """The settings of scores in ``params`` that differ from ``own``.

    Recipes with equal settings share one set of scores.
    """
    names = ("knockoffs", "score_epochs", "score_images", "score_lr", "mixing")
    return {} if settings_of(params, own) == own else {name: params[name] for name in names}
