"""How many channels each coupling keeps: from the rates of layers, uniform or ranked over all layers, to keep-sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from autocompress.contract import Params
from autocompress.errors import InvalidRecipe
from autocompress.contract.coupling import Coupling
from autocompress_scop.scores import baseline_layer, global_rates


def layer_rates(params: Params, state: Mapping[str, Any] | None) -> dict[str, float]:
    """Rate by layer of the baseline. A global ranking ranks the baseline's channels, so that the widths do not depend
    on how a substituted layer orders its own. Without scores (a dry run before anything is prepared) it is the same
    rate everywhere: the one width that is then known to be right on average.

    Raises:
        ValueError: for a rate outside [0, 1).
    """
    rates: dict[str, float] = params["rates"]
    if params["ranking"] == "uniform" or state is None:
        return rates
    scores = state["global"][params["criterion"]][params["mode"]]
    found = global_rates(scores, max(rates.values()))
    writers = state["couplings"][params["mode"]]
    return {layer: rate for name, rate in found.items() for layer in writers[name]}


def coupling_rate(coupling: Coupling, rates: Mapping[str, float]) -> float:
    """The least rate of the layers that write it: who asked for a layer to be left alone is heard. 0 where none of them
    has a rate (the stem alone)."""
    origins = (baseline_layer(writer, rates) for writer in coupling.producers)
    return min((rates[origin] for origin in origins if origin is not None), default=0.0)


def kept(coupling: Coupling, rate: float, multiple: int, scores: torch.Tensor | None) -> list[int]:
    """The keep-set of one coupling. Which channels stay means nothing in a dry run; how many there are does.

    Raises:
        ValueError: for a rate outside [0, 1), or scores that are not finite.
    """
    if rate == 0 or not coupling.prunable:
        return list(range(coupling.channels))
    return coupling.choose([0.0] * coupling.channels if scores is None else scores.tolist(), rate, multiple)


def reject_nothing(every: Sequence[Coupling], rates: Mapping[str, float], multiple: int) -> None:
    """Refuses rates that would leave every layer whole.

    Raises:
        InvalidRecipe: then.
    """
    for coupling in every:
        rate = coupling_rate(coupling, rates)
        if coupling.prunable and rate > 0 and sum(coupling.kept(rate, multiple)) < coupling.channels:
            return
    raise InvalidRecipe(f"no layer loses a channel at these rates, rounded to multiples of {multiple}")
