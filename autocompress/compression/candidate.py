"""What the pipeline gives for a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import nn

from autocompress.compression.structural import REPAIR
from autocompress.contract import OperatorCount, Plan
from autocompress.export import TapCrop
from autocompress.recipes.recipe import Recipe


@dataclass(frozen=True)
class Candidate:
    """The model that a recipe gives.

    Attributes:
        model: deployable torch module in eval mode on the CPU; hardened where QUANTIZE acted.
        plan: what was done, as JSON: enough to build ``model``'s structure again without data.
        recipe: what was asked.
        operators: operations by layer and width, for cost models; the tap crop takes none away.
        params, macs: of the float network after the transforms (quantizing changes neither); macs
        for one image.
        float_layers: names of layers that QUANTIZE was to take and could not; empty for a float
            candidate.
        slow: why a stock runtime runs its file slowly (``LayerSpec.slow_in_file``); empty where it
            does not.
        estimated: transforms whose structure follows from prepared state, which a dry run did not
            have: the real structure may differ.
        cache_hits, cache_misses: stages found in the store, and made.
        seconds: by stage.
        crop: kernel taps that its file leaves out, since they only ever meet padding; params and
            macs count them.
    """

    model: nn.Module
    plan: Plan
    recipe: Recipe
    operators: Sequence[OperatorCount]
    params: int
    macs: int
    float_layers: tuple[str, ...]
    cache_hits: int
    cache_misses: int
    seconds: dict[str, float]
    slow: str = ""
    estimated: tuple[str, ...] = ()
    crop: TapCrop = field(default_factory=TapCrop)

    @property
    def divergence(self) -> float | None:
        """KL divergence from the baseline after REPAIR, before training; None without a repair."""
        told = [step["plan"] for step in self.plan["transforms"] if step.get("stage") == REPAIR]
        if not told or "divergence" not in told[-1]:
            return None
        return float(min(told[-1]["divergence"]))
