"""The effect of a sequential refit of the layers after ghost modules."""

from __future__ import annotations

import copy
from typing import Any

from autocompress.contract import Space
from autocompress.graph import facts
from autocompress.recipes.choosers import Replay
from autocompress_ghost import Ghost
from shared.repaired import SearchableJob


def row(opened: SearchableJob, fit: str) -> dict[str, Any]:
    """Ghost modules of ratio 2 everywhere (least squares), followed by REPAIR with ``fit``."""
    method, model = Ghost(), opened.baseline.model
    params = method.search_space(Space(Replay({"ratio.model": 2, "init": "lstsq"}), "model"), model)
    ghosted, _ = method.apply(copy.deepcopy(model), params, opened.context)
    seconds: dict[str, float] = {}
    settings = {"fit": fit, "images": 2048}
    structural = opened.structural_with(method.layers)
    repaired, _ = structural.run(ghosted, None, settings, None, opened.context, seconds, untouched=False)
    left = facts(repaired, opened.context.input_size).macs / facts(model, opened.context.input_size).macs
    return {**opened.judged(repaired), "macs_left": round(left, 3), "seconds_by_stage": seconds}
