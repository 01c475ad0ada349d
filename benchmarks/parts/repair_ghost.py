"""What a sequential refit of the layers behind ghost modules is worth."""

from __future__ import annotations

import copy
from typing import Any

from autocompress.compression.recipe import Replay
from autocompress.contract import Space
from autocompress.graph import facts
from autocompress_ghost import Ghost
from shared.repaired import Bench


def row(bench: Bench, fit: str) -> dict[str, Any]:
    """Ghost modules of ratio 2 wherever they apply, initialised by least squares, then REPAIR by
    ``fit``.
    """
    method, model = Ghost(), bench.baseline.model
    params = method.search_space(Space(Replay({"ratio.model": 2, "init": "lstsq"}), "model"), model)
    ghosted, _ = method.apply(copy.deepcopy(model), params, bench.context)
    seconds: dict[str, float] = {}
    settings = {"fit": fit, "images": 2048}
    structural = bench.structural_with(method.layers)
    repaired, _ = structural.run(ghosted, None, settings, None, bench.context, seconds, untouched=False)
    left = facts(repaired, bench.context.input_size).macs / facts(model, bench.context.input_size).macs
    return {**bench.judged(repaired), "macs_left": round(left, 3), "seconds_by_stage": seconds}
