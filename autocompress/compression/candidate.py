"""The result of the pipeline for a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import nn

from autocompress.compression.prune_repair import REPAIR
from autocompress.contract import OperatorCount, Plan
from autocompress.export import TapCrop
from autocompress.recipes.recipe import Recipe


@dataclass(frozen=True)
class Candidate:
    """The model that a recipe gives.

    Attributes:
        model: deployable torch module in eval mode on the CPU; hardened if the recipe quantizes it.
        plan: the applied steps as JSON. It suffices to build the structure of ``model`` again
            without data.
        recipe: the recipe that was applied.
        operators: number of operations by layer and bits, for cost models; the tap crop does not
            change them.
        params, macs: number of parameters, and of multiply-accumulates for one image, of the float
            network after the transforms. Quantization changes neither.
        float_layers: names of layers that QUANTIZE could not quantize; empty for a float candidate.
        slow: the reason why a standard runtime runs the file slowly (``LayerSpec.slow_in_file``);
            empty if there is none.
        estimated: transforms that a dry run applied without their prepared state. The real
            structure may differ.
        cache_hits, cache_misses: stages read from the store, and stages computed.
        seconds: seconds of each stage, by its name.
        crop: kernel taps that the file leaves out because they only read padding; params and macs
            count them.
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
        repairs = [step["plan"] for step in self.plan["transforms"] if step.get("stage") == REPAIR]
        if not repairs or "divergence" not in repairs[-1]:
            return None
        return float(min(repairs[-1]["divergence"]))
