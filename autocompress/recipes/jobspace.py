"""The space of a job: all recipes that its methods and the limits of the user allow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from autocompress.contract import (
    DataSource,
    Method,
    Parameter,
    Params,
    Pruner,
    Quantizer,
    Space,
    Stage,
    Transform,
    Value,
)
from autocompress.contract.space import Chooser, LimitError
from autocompress.errors import InvalidRecipe
from autocompress.job import Limits, reject_unmatched
from autocompress.recipes.choosers import Fixed, Policy, Replay
from autocompress.recipes.parameters import every_parameter
from autocompress.recipes.pruning import DEFAULT_MULTIPLE
from autocompress.recipes.recipe import SOURCE, Recipe, compose, compose_source

EIGHT_BIT = "8-bit alone"
"""Label of the starting point with 8 bits everywhere, and nothing else."""


@dataclass(frozen=True)
class JobSpace:
    """The space from which recipes are drawn.

    Attributes:
        model: the baseline; only its structure is used.
        methods: the methods that act, in the order of the manager.
        limits: the parameters that the user fixed or narrowed.
        granularity: granularity of the job.
        epochs: maximum number of recovery epochs of a recipe.
        multiple: the channel multiple of the device.
        labelled: the labels of the images of the user are meaningful.
    """

    model: nn.Module
    methods: Sequence[Method]
    limits: Limits
    granularity: str
    epochs: float
    multiple: int = DEFAULT_MULTIPLE
    labelled: bool = True

    def compose(self, chooser: Chooser) -> Recipe:
        """The recipe that ``chooser`` gives.

        Raises:
            InvalidRecipe: if its methods cannot be combined.
            UserError: if a limit excludes all values of a parameter; names file, line and key.
        """
        return self._fill(Space(chooser, self.granularity, self.limits.values))

    def _fill(self, space: Space) -> Recipe:
        try:
            return compose(space, self.model, self.methods, self.epochs, self.multiple, labelled=self.labelled)
        except LimitError as error:
            raise self.limits.error(error.name, error.text) from None

    def sources(self) -> dict[str, Params]:
        """The data sources that the limits allow, with default parameters; the default one first.

        Raises:
            UserError: if a limit excludes all values of a parameter.
        """
        names = [method.name for method in self.methods if isinstance(method, DataSource)]
        found: dict[str, Params] = {}
        for name in names:
            space = Space(Replay({SOURCE: name}), self.granularity, self.limits.values)
            with suppress(InvalidRecipe):  # the limits exclude this source
                try:
                    source = compose_source(space, self.model, self.methods)
                except LimitError as error:
                    raise self.limits.error(error.name, error.text) from None
                if source is not None and source[0] == name:
                    found[name] = source[1]
        if names:
            default = Space(Replay({}), self.granularity, self.limits.values)
            chosen = compose_source(default, self.model, self.methods)
            found = dict(sorted(found.items(), key=lambda item: chosen is None or item[0] != chosen[0]))
        return found

    def parameters(self) -> dict[str, Parameter]:
        """All parameters, also conditional ones, with the limits applied."""
        return dict(self._explored[0])

    def check_limits(self, installed: Sequence[Method]) -> None:
        """Refuses a limit that matches no parameter, or the former name of a parameter.

        Limits on installed methods that do not act are ignored.

        Raises:
            UserError: naming file, line and key.
        """
        for method in installed:
            for key, instead in method.renamed.items():
                if old := next((name for name in self.limits.values if f"{name}.".startswith(f"{key}.")), None):
                    raise self.limits.error(old, "is not a parameter any more", instead)
        known, matched = self._explored
        acting = {method.name for method in self.methods}
        inactive = [method.name for method in installed if method.name not in acting]
        # Stages of the engine only have parameters where there is something to recover or quantize.
        changes = any(isinstance(method, Transform | Pruner) for method in self.methods)
        inactive += [] if changes else ["repair", "recover"]
        inactive += [] if any(isinstance(method, Pruner) for method in self.methods) else ["prune"]
        inactive += [] if any(isinstance(method, Quantizer) for method in self.methods) else ["bits", "qat"]
        # The weight of distillation is only a parameter where images have labels.
        has_source = any(isinstance(method, DataSource) for method in self.methods)
        inactive += ["recover.distill", "qat.distill"] if has_source or not self.labelled else []
        inactive += [] if has_source else [SOURCE]
        reject_unmatched(self.limits, matched, known, inactive)

    @cached_property
    def _explored(self) -> tuple[dict[str, Parameter], set[str]]:
        """All parameters by name, and the keys of limits that matched one.

        Finding them composes the space some hundred times, so the result is cached.
        """
        matched: set[str] = set()

        def run(chooser: Chooser) -> Space:
            space = Space(chooser, self.granularity, self.limits.values)
            with suppress(InvalidRecipe):  # parameters that were asked for before the conflict are kept
                self._fill(space)
            matched.update(space.matched)
            return space

        return every_parameter(run), matched

    def policy(
        self, rules: Mapping[str, str], quantizer: str | None = None, pruner: str | None = None
    ) -> dict[str, Value] | None:
        """The values of a recipe made by rules (see :class:`Policy`); None where it is invalid.

        PRUNE uses ``pruner`` where it acts and a search could draw that pruner.
        """
        chooser: Chooser = Policy(rules, quantizer=quantizer)
        if pruner is not None:
            chooser = Fixed({"prune.method": pruner}, chooser)
        try:
            return dict(self.compose(chooser).values)
        except InvalidRecipe:
            return None

    def cheapest(self, *, fewest: bool = True, eight: bool = False) -> list[tuple[str, dict[str, Value]]]:
        """The cheapest recipe of each method, of all methods without substitutions, and of all.

        The last two are labelled "all but ghost and adder" and "all together".

        Args:
            fewest: whether there are recipes with the fewest bits.
            eight: whether there are recipes with 8 bits, or the most bits of the quantizer. On
                runtimes with int8 kernels, fewer bits only make files smaller, and unpacking them
                takes time. If ``fewest`` too, the labels of these end in ", most bits".
        """
        found = self._cheapest("cheapest") if fewest else []
        if not eight:
            return found
        suffix = ", most bits" if fewest else ""
        others = [point for point in self._cheapest("default") if point not in found]
        return found + [(label + suffix, values) for label, values in others]

    def _cheapest(self, bits: str) -> list[tuple[str, dict[str, Value]]]:
        """The cheapest recipes, with the bits by this rule of :class:`Policy`."""
        rules: dict[str, dict[str, str]] = {}
        for method in self.methods:
            if isinstance(method, Pruner):  # widths do not depend on the pruner
                rules["prune"] = {"prune": "cheapest"}
                continue
            rules[method.name] = {method.name: "cheapest"}
            if isinstance(method, Quantizer):
                rules[method.name]["bits"] = bits
        transforms = [method for method in self.methods if isinstance(method, Transform)]
        # On some devices a substitution is slower than what it replaces.
        substitutes = [method.name for method in transforms if method.stage == Stage.SUBSTITUTE]
        alone = list(rules.items())
        others = [rule for name, rule in alone if name not in substitutes]
        if substitutes and len(others) > 1:
            rules[f"all but {' and '.join(substitutes)}"] = _merged(others)
        if len(alone) > 1:
            rules["all together"] = _merged(rule for _, rule in alone)
        quantizers = {method.name for method in self.methods if isinstance(method, Quantizer)}
        found = [(label, self.policy(rule, label if label in quantizers else None)) for label, rule in rules.items()]
        return [(label, values) for label, values in found if values is not None]

    def starting_points(self) -> list[tuple[str, dict[str, Value]]]:
        """Recipes to try first.

        These are the uncompressed model, 8 bits alone, and each transform or pruner alone and with
        8 bits.
        """
        rules: dict[str, dict[str, str]] = {"uncompressed": {}}
        pruners: dict[str, str] = {}
        quantizers = [method.name for method in self.methods if isinstance(method, Quantizer)]
        bits = {"bits": "default", **dict.fromkeys(quantizers, "default")}
        if quantizers:
            rules[EIGHT_BIT] = bits
        for method in self.methods:
            if isinstance(method, Transform | Pruner):
                alone = {method.name: "default", "recover": "default"}
                if isinstance(method, Pruner):
                    alone["prune"] = "default"
                    pruners |= {f"{method.name} alone": method.name, f"{method.name} and 8-bit": method.name}
                rules[f"{method.name} alone"] = alone
                if quantizers:
                    rules[f"{method.name} and 8-bit"] = {**alone, **bits}
        points: list[tuple[str, dict[str, Value]]] = []
        for label, rule in rules.items():
            pruner = pruners.get(label)
            values = self.policy(rule, pruner=pruner)
            if values is None or (pruner is not None and values.get("prune.method") != pruner):
                continue  # the job does not search it, and does not name it
            if values not in [known for _, known in points]:
                points.append((label, values))
        return points


def _merged(rules: Iterable[Mapping[str, str]]) -> dict[str, str]:
    return {name: choice for rule in rules for name, choice in rule.items()}
