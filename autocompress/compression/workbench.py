"""The workbench: everything that the recipes of one job share, opened once per process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from autocompress import data, models
from autocompress.compression import artifact
from autocompress.compression import recipe as recipes
from autocompress.compression.baseline import Baseline, measure_baseline
from autocompress.compression.pipeline import Candidate, Pipeline
from autocompress.compression.recipe import Policy, Recipe
from autocompress.compression.store import Store
from autocompress.compression.trainer import train_baseline
from autocompress.compression.transfer import user_data
from autocompress.contract import (
    Deployable,
    Device,
    Manager,
    Method,
    Parameter,
    Quantizer,
    Space,
    Transform,
    Value,
    manager,
)
from autocompress.contract.space import Chooser, LimitError
from autocompress.data import Splits
from autocompress.errors import InvalidRecipe, UserError, did_you_mean
from autocompress.export import export
from autocompress.files import cache_folder
from autocompress.job import Job, Limits, limits_of, reject_unmatched

Progress = Callable[[float, str], None]


@dataclass
class Workbench:
    """A job, its data, its baseline and the methods that apply to it.

    Attributes:
        job: as validated.
        model: the float baseline, eval, on the CPU; never changed.
        splits: of the data.
        baseline: what candidates are compared with.
        methods: those that act, in the manager's order.
        refused: reasons by name of the methods that cannot.
        device: where latency is measured and files are scored.
        pipeline: recipe -> candidate.
        limits: what the user fixed or narrowed.
    """

    job: Job
    model: nn.Module
    splits: Splits
    baseline: Baseline
    methods: list[Method]
    refused: dict[str, list[str]]
    device: Device
    pipeline: Pipeline
    limits: Limits

    @classmethod
    def open(cls, job: Job, progress: Progress | None = None, plugins: Manager | None = None) -> Workbench:
        """Loads data, makes or loads the baseline, and has methods prepare what recipes share. Cheap the second time.

        Raises:
            UserError: for a job that names what is not there.
        """
        plugins = plugins or manager()
        limits = limits_of(job)
        device = plugins.device(job.device.name)
        if reasons := device.check(job.device):
            raise UserError(f"the device '{device.name}' cannot be used here: {reasons[0]}")
        splits = data.load(job.data, plugins.datasets(), **models.preprocessing(job))
        model = models.create(job, splits.info)
        if models.needs_training(job, splits.info):
            model = train_baseline(job, model, splits, progress)
        model = models.reparameterise(model).cpu().eval()
        store = Store()
        baseline = measure_baseline(model, splits, device, job.device, store, cache_folder() / "baselines")
        methods, refused = applicable(plugins.methods(), model, job, limits.methods)
        pipeline = Pipeline(
            baseline=model,
            baseline_key=baseline.key,
            methods=methods,
            transfer=user_data(splits, job.seed),
            granularity=job.granularity,
            seed=job.seed,
            device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
            store=store,
        )
        bench = cls(job, model, splits, baseline, methods, refused, device, pipeline, limits)
        bench.check_limits([method.name for method in plugins.methods()])
        pipeline.prepare(progress)
        return bench

    def check_limits(self, installed: Sequence[str]) -> None:
        """Refuses a limit that matches no parameter of the space; limits on methods that do not act are passed over.

        Raises:
            UserError: naming file, line and key.
        """
        matched: set[str] = set()

        def run(chooser: Chooser) -> Space:
            space, _ = self._compose(chooser)
            matched.update(space.matched)
            return space

        known = recipes.every_parameter(run)
        acting = {method.name for method in self.methods}
        inactive = [name for name in installed if name not in acting]
        # The engine's own stages are asked only where there is something to recover or to quantize with.
        inactive += [] if any(isinstance(method, Transform) for method in self.methods) else ["recover"]
        inactive += [] if any(isinstance(method, Quantizer) for method in self.methods) else ["bits"]
        reject_unmatched(self.limits, matched, known, inactive)

    # --- the space ----------------------------------------------------------------------------------------------

    def _compose(self, chooser: Chooser) -> tuple[Space, Recipe]:
        space = Space(chooser, self.job.granularity, self.limits.values)
        try:
            return space, recipes.compose(space, self.model, self.methods, self.job.budget.epochs)
        except LimitError as error:
            raise self.limits.error(error.name, error.text) from None

    def compose(self, chooser: Chooser) -> Recipe:
        """The recipe that ``chooser`` gives.

        Raises:
            InvalidRecipe: if its methods do not go together.
        """
        return self._compose(chooser)[1]

    def parameters(self) -> dict[str, Parameter]:
        """Every parameter of the space, conditional ones too, as the user's limits leave them."""
        return recipes.every_parameter(lambda chooser: self._compose(chooser)[0])

    def policy(self, rules: Mapping[str, str]) -> dict[str, Value] | None:
        """The values of a rule-made recipe (see :class:`Policy`), or None where it is invalid."""
        try:
            return dict(self.compose(Policy(rules)).values)
        except InvalidRecipe:
            return None

    def starting_points(self) -> list[tuple[str, dict[str, Value]]]:
        """Recipes worth trying first: uncompressed, 8-bit alone, each method alone, each transform with 8-bit."""
        rules: dict[str, dict[str, str]] = {"uncompressed": {}}
        quantizers = [method.name for method in self.methods if isinstance(method, Quantizer)]
        bits = {"bits": "default", **dict.fromkeys(quantizers, "default")}
        if quantizers:
            rules["8-bit alone"] = bits
        for method in self.methods:
            if isinstance(method, Transform):
                alone = {method.name: "default", "recover": "default"}
                rules[f"{method.name} alone"] = alone
                if quantizers:
                    rules[f"{method.name} and 8-bit"] = {**alone, **bits}
        points: list[tuple[str, dict[str, Value]]] = []
        for label, rule in rules.items():
            values = self.policy(rule)
            if values is not None and values not in [known for _, known in points]:
                points.append((label, values))
        return points

    # --- candidates ---------------------------------------------------------------------------------------------

    def candidate(
        self,
        recipe: Recipe,
        *,
        dry_run: bool = False,
        progress: Progress | None = None,
        pause: Callable[[], None] | None = None,
    ) -> Candidate:
        """The model that ``recipe`` gives; see :meth:`Pipeline.run`."""
        return self.pipeline.run(recipe, dry_run=dry_run, progress=progress, pause=pause)

    def export(self, candidate: Candidate, file: Path) -> Deployable:
        """Writes the candidate's ONNX file."""
        size = models.input_size(self.model)
        export(candidate.model, file, size, artifact.metadata(self.model))
        return Deployable(file, size, candidate.operators)

    def accuracy(self, deployable: Deployable, split: Literal["val", "test"]) -> tuple[float, np.ndarray]:
        """Percent of the split that the file labels rightly in its runtime, and which images these are."""
        chosen = self.splits.val if split == "val" else self.splits.test
        correct = artifact.score(self.device, deployable, chosen, self.job.device)
        return 100.0 * float(correct.mean()), correct

    def save_artifact(
        self, candidate: Candidate, deployable: Deployable, folder: Path, metrics: dict[str, Any]
    ) -> None:
        """Writes the artifact's files; see :func:`artifact.save`."""
        artifact.save(candidate, deployable, folder, metrics)


def applicable(
    methods: list[Method], model: nn.Module, job: Job, wanted: Sequence[str] | None = None
) -> tuple[list[Method], dict[str, list[str]]]:
    """Splits ``methods`` into those that act in ``job`` and the reasons of those that cannot.

    Args:
        wanted: the only methods that may act; None for all that can.

    Raises:
        UserError: for a method that the job names and that is not installed, or cannot apply.
    """
    names = [method.name for method in methods]
    for name in wanted or ():
        if name not in names:
            raise UserError(f"unknown method '{name}'", did_you_mean(name, names))
    fit: list[Method] = []
    refused: dict[str, list[str]] = {}
    for method in methods:
        if wanted is not None and method.name not in wanted:
            continue
        try:
            reasons = method.check(model, job)
        except Exception as error:  # a plugin's fault must not end the search
            reasons = [f"its check raised {type(error).__name__}: {error}"]
        if not reasons:
            fit.append(method)
        elif wanted is not None:
            raise UserError(f"the method '{method.name}' cannot apply to {job.model}: {reasons[0]}")
        else:
            refused[method.name] = reasons
    return fit, refused
