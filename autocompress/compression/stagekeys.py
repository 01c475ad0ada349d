"""Content keys of the results of stages, each made from the key before it."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from autocompress.compression import qat
from autocompress.compression.inputs import Inputs
from autocompress.compression.prune_repair import Structural
from autocompress.contract import PlacementTable
from autocompress.files import digest
from autocompress.integer_placement import MeasuredCosts
from autocompress.recipes.recipe import Recipe
from autocompress.training.recovery import VERSION as RECOVER_VERSION


@dataclass(frozen=True)
class StageKeys:
    """The content keys of recipes on one baseline.

    Attributes:
        inputs: images, methods and the way of computing.
        structural: PRUNE and REPAIR, whose key needs the pruner's order of channels.
        granularity, table, costs: attributes of the pipeline.
    """

    inputs: Inputs
    structural: Structural
    granularity: str
    table: PlacementTable
    costs: MeasuredCosts | None

    def of_stages(self, recipe: Recipe) -> list[str]:
        """The keys of the stages before QUANTIZE, in order.

        There is one for each transform, one for PRUNE and REPAIR together, one for RECOVER if it
        trains, and one for each rung above 0. The list ends before PRUNE while the order of the
        pruner is unknown.
        """
        keys = self._of_transforms(recipe)
        key = self.entering_prune(recipe)
        if is_structural(recipe):
            if (found := self.of_structural(recipe)) is None:
                return keys
            key = found
            keys.append(key)
        if recipe.recover.get("epochs"):
            key = digest(key, "recover", RECOVER_VERSION, recipe.recover)
            keys.append(key)
        for params in recipe.rungs:
            key = digest(key, "rung", RECOVER_VERSION, params)
            keys.append(key)
        return keys

    def _of_transforms(self, recipe: Recipe) -> list[str]:
        key, keys = self.inputs.first_key(recipe), []
        for name, params in recipe.transforms:
            key = digest(key, name, self.inputs.by_name[name].version, params)
            keys.append(key)
        return keys

    def entering_prune(self, recipe: Recipe) -> str:
        """The key of the network that enters PRUNE."""
        return (self._of_transforms(recipe) or [self.inputs.first_key(recipe)])[-1]

    def of_structural(self, recipe: Recipe) -> str | None:
        """The key of the result of PRUNE and REPAIR; None while no order of channels is known."""
        return self.structural.key(
            recipe.prune,
            recipe.repair,
            self.inputs.pruner(recipe),
            self.inputs.transfer_set(recipe),
            self.inputs.compute,
            self.entering_prune(recipe),
            untouched=not recipe.transforms,
        )

    def of_quantize(self, recipe: Recipe) -> str:
        """The key of the result of a QUANTIZE with training."""
        before = (self.of_stages(recipe) or [self.inputs.first_key(recipe)])[-1]
        assert not is_structural(recipe) or self.of_structural(recipe) is not None, "the order is known after PRUNE"
        bits = {group: asdict(chosen) for group, chosen in recipe.bits.items()}
        by_name = self.inputs.by_name
        quantizers = {name: [by_name[name].version, params] for name, params in recipe.quantizers.items()}
        of_training = [qat.VERSION, RECOVER_VERSION]  # QUANTIZE trains with the loop of RECOVER
        table = [own] if (own := self.table.record()) else []
        costs = [] if self.costs is None else [self.costs.key]
        return digest(before, "quantize", *of_training, self.granularity, bits, quantizers, recipe.qat, *table, *costs)


def is_structural(recipe: Recipe) -> bool:
    """Whether PRUNE or REPAIR changes the network."""
    return recipe.prune is not None or recipe.repair.get("fit", "none") != "none"
