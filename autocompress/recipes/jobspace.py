"""The space of a job: every recipe that its methods and the user's limits allow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from autocompress.contract import DataSource, Method, Parameter, Params, Pruner, Quantizer, Space, Transform, Value
from autocompress.contract.space import Chooser, LimitError
from autocompress.errors import InvalidRecipe
from autocompress.job import Limits, reject_unmatched
from autocompress.recipes.choosers import Fixed, Policy, Replay
from autocompress.recipes.parameters import every_parameter
from autocompress.recipes.pruning import DEFAULT_MULTIPLE
from autocompress.recipes.recipe import SOURCE, Recipe, compose, compose_source


@dataclass(frozen=True)
class JobSpace:
    """What recipes are drawn from.

    Attributes:
        model: the baseline; only its structure is asked.
        methods: those that act, in the manager's order.
        limits: what the user fixed or narrowed.
        granularity: of the job.
        epochs: the most that a recipe may recover.
        multiple: of channels, that suits the device.
        labelled: the user's images have labels that mean something.
    """

    model: nn.Module
    methods: Sequence[Method]
    limits: Limits
    granularity: str
    epochs: int
    multiple: int = DEFAULT_MULTIPLE
    labelled: bool = True

    def compose(self, chooser: Chooser) -> Recipe:
        """The recipe that ``chooser`` gives.

        Raises:
            InvalidRecipe: if its methods do not go together.
            UserError: if a limit leaves nothing of a parameter, with file, line and key.
        """
        return self._fill(Space(chooser, self.granularity, self.limits.values))

    def _fill(self, space: Space) -> Recipe:
        try:
            return compose(space, self.model, self.methods, self.epochs, self.multiple, labelled=self.labelled)
        except LimitError as error:
            raise self.limits.error(error.name, error.text) from None

    def sources(self) -> dict[str, Params]:
        """The data sources that the limits leave, with their default parameters.

        The first is the default source.

        Raises:
            UserError: if a limit leaves nothing of a parameter.
        """
        names = [method.name for method in self.methods if isinstance(method, DataSource)]
        found: dict[str, Params] = {}
        for name in names:
            space = Space(Replay({SOURCE: name}), self.granularity, self.limits.values)
            with suppress(InvalidRecipe):  # the user's limits leave this one out
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
        """Every parameter, conditional ones too, as the user's limits leave them."""
        return dict(self._explored[0])

    def check_limits(self, installed: Sequence[Method]) -> None:
        """Refuses a limit that matches no parameter, or an old name of one.

        Limits on installed methods that do not act are ignored.

        Raises:
            UserError: naming file, line and key.
        """
        for method in installed:
            for key, instead in method.renamed.items():
                if old := next((name for name in self.limits.values if f"{name}.".startswith(f"{key}.")), None):
                    raise self.limits.error(old, "is no parameter any more", instead)
        known, matched = self._explored
        acting = {method.name for method in self.methods}
        inactive = [method.name for method in installed if method.name not in acting]
        # The engine's own stages are asked only where there is something to recover or to quantize
        # with.
        changes = any(isinstance(method, Transform | Pruner) for method in self.methods)
        inactive += [] if changes else ["repair", "recover"]
        inactive += [] if any(isinstance(method, Pruner) for method in self.methods) else ["prune"]
        inactive += [] if any(isinstance(method, Quantizer) for method in self.methods) else ["bits", "qat"]
        # Neither is a weight of distillation where no image has a label.
        has_source = any(isinstance(method, DataSource) for method in self.methods)
        inactive += ["recover.distill", "qat.distill"] if has_source or not self.labelled else []
        inactive += [] if has_source else [SOURCE]
        reject_unmatched(self.limits, matched, known, inactive)

    @cached_property
    def _explored(self) -> tuple[dict[str, Parameter], set[str]]:
        """Every parameter by name, and the keys of the limits that one of them answered to.

        Composes the space some hundred times, so it is done once."""
        matched: set[str] = set()

        def run(chooser: Chooser) -> Space:
            space = Space(chooser, self.granularity, self.limits.values)
            with suppress(InvalidRecipe):  # what was asked before the methods clashed still counts
                self._fill(space)
            matched.update(space.matched)
            return space

        return every_parameter(run), matched

    def policy(
        self, rules: Mapping[str, str], quantizer: str | None = None, pruner: str | None = None
    ) -> dict[str, Value] | None:
        """The values of a rule-made recipe (see :class:`Policy`), or None where it is invalid.

        PRUNE takes ``pruner`` where it acts and a search may draw that pruner.
        """
        chooser: Chooser = Policy(rules, quantizer=quantizer)
        if pruner is not None:
            chooser = Fixed({"prune.method": pruner}, chooser)
        try:
            return dict(self.compose(chooser).values)
        except InvalidRecipe:
            return None

    def cheapest(self) -> list[tuple[str, dict[str, Value]]]:
        """The recipe of least cost of each method, and of all methods together.

        The last one has the label "all together".
        """
        rules: dict[str, dict[str, str]] = {}
        for method in self.methods:
            if isinstance(method, Pruner):  # widths do not depend on which pruner it is
                rules["prune"] = {"prune": "cheapest"}
                continue
            rules[method.name] = {method.name: "cheapest"}
            if isinstance(method, Quantizer):
                rules[method.name]["bits"] = "cheapest"
        if len(rules) > 1:
            rules["all together"] = {name: rule for each in list(rules.values()) for name, rule in each.items()}
        quantizers = {method.name for method in self.methods if isinstance(method, Quantizer)}
        found = [(label, self.policy(rule, label if label in quantizers else None)) for label, rule in rules.items()]
        return [(label, values) for label, values in found if values is not None]

    def starting_points(self) -> list[tuple[str, dict[str, Value]]]:
        """Recipes to try first.

        The uncompressed model, 8 bits alone, and each transform or pruner alone and with 8
        bits.
        """
        rules: dict[str, dict[str, str]] = {"uncompressed": {}}
        pruners: dict[str, str] = {}
        quantizers = [method.name for method in self.methods if isinstance(method, Quantizer)]
        bits = {"bits": "default", **dict.fromkeys(quantizers, "default")}
        if quantizers:
            rules["8-bit alone"] = bits
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
                continue  # neither searched nor named by the job
            if values not in [known for _, known in points]:
                points.append((label, values))
        return points
