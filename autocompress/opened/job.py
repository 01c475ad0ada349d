"""The opened job: everything that the recipes of a job share, made once per process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from autocompress import models
from autocompress.compression import artifact
from autocompress.compression.candidate import Candidate
from autocompress.compression.pipeline import Pipeline
from autocompress.compute import Compute, compute_of
from autocompress.contract import (
    Deployable,
    Device,
    Manager,
    Method,
    Parameter,
    Transform,
    Value,
    manager_for,
)
from autocompress.contract.space import Chooser
from autocompress.data import Scored, Splits
from autocompress.devices.lock import MachineLock
from autocompress.export import Agreement, TapCrop
from autocompress.files import cache_folder
from autocompress.job import Job, Limits
from autocompress.memory import out_of_memory_told
from autocompress.opened import tables
from autocompress.opened.baseline import Baseline, cropped_baseline, export_baseline
from autocompress.opened.candidates import quantized_everywhere, write_file
from autocompress.opened.computing import decided
from autocompress.opened.judging import Judge
from autocompress.opened.keys import measured_with
from autocompress.opened.layers import layer_losses, layer_rows
from autocompress.opened.opening import (
    default_params,
    measured,
    no_images,
    pipeline_of,
    try_devices,
    try_untrained,
    with_sources,
)
from autocompress.opened.outline import outline, space_of
from autocompress.opened.placing import measured_costs, placement_rows
from autocompress.opened.transfer import user_data
from autocompress.proposals.proposer import Proposed
from autocompress.proposals.shares import ShareRecipes
from autocompress.proposals.tablemaker import TableMaker
from autocompress.recipes import ablation, rungs
from autocompress.recipes.choosers import Replay
from autocompress.recipes.jobspace import JobSpace
from autocompress.recipes.pruning import offered
from autocompress.recipes.recipe import Recipe
from autocompress.scoring import Scorer
from autocompress.sensitivity import mixedbits, partlyfloat
from autocompress.sensitivity.table import Sensitivity
from autocompress.store import Store
from autocompress.training import (
    batch_size,
    limit_threads,
    require_training_images,
    train_baseline,
)

Progress = Callable[[float, str], None]


@dataclass
class OpenedJob:
    """A job, its data, its baseline and the methods that apply to it.

    Attributes:
        job: the validated job, with its memory format decided.
        model: the float baseline, eval, on the CPU; never changed.
        splits: data splits of the job.
        baseline: the measured baseline, with which candidates are compared.
        methods: the methods that act, in the order of the manager.
        refused: the reasons against each of the other methods, by name.
        device: measures latency.
        pipeline: makes a candidate from a recipe.
        limits: parameters that the user fixed or narrowed.
        training_seconds: time of training the baseline in this process.
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
    training_seconds: float = 0.0
    _begun: TableMaker | None = None

    @classmethod
    @out_of_memory_told()
    def open(cls, job: Job, progress: Progress | None = None, plugins: Manager | None = None) -> OpenedJob:
        """Opens ``job``: loads data, makes the baseline, and prepares data sources and methods.

        The second time, most results are in the cache.

        Raises:
            UserError: for a job with unknown names.
        """
        compute = compute_of(job.compute)  # first, because its errors need nothing else
        limit_threads(compute.threads)
        known = outline(job, plugins := plugins or manager_for(job))
        limits, splits, model, device = known.limits, known.splits, known.model, known.devices[0]
        store = Store(pinning=True)  # entries from before the first trial are needed until the last
        lock = MachineLock()
        with lock.shared():
            job, compute = decided(job, model, store, lock.breathe)
        began = time.monotonic()
        if splits is not None and models.needs_training(job, splits.info):
            with lock.shared():
                tried = partial(try_untrained, job, plugins, known.shape)
                how: dict[str, Any] = {"compute": compute, "pause": lock.breathe, "before": tried}
                model = train_baseline(job, model, splits, progress, **how)
        training_seconds = time.monotonic() - began
        model = models.reparameterise(model).cpu().eval()
        sources, methods, refused = with_sources(known, job, model, store, compute, lock, progress)
        splits = splits or no_images(model)
        if sources is not None:
            splits = replace(splits, synthetic=sources.counts())
        with lock.shared():
            splits, baseline = measured(job, model, splits, sources, store, compute, lock.breathe)
        transfer = user_data(splits, job.seed)
        if sources is not None:
            transfer = sources.transfer_set(*next(iter(sources.defaults.items())))
        costs = measured_costs(job, device, model, methods, store, progress)
        pipeline = pipeline_of(job, model, baseline, device, compute, store, methods, costs, transfer, sources)
        with lock.shared():
            unprepared = pipeline.prepare(progress, partial(default_params, job, model, limits), lock.breathe)
        methods = [method for method in methods if method.name not in unprepared]
        refused |= {name: [reason] for name, reason in unprepared.items()}
        store.pinning = False
        return cls(job, model, splits, baseline, methods, refused, device, pipeline, limits, training_seconds)

    @classmethod
    @out_of_memory_told()
    def dry(cls, job: Job, plugins: Manager | None = None) -> OpenedJob:
        """Opens ``job`` for dry-run candidates only.

        Nothing is trained, synthesised or scored, and few images are read. A baseline that a search
        would train has random weights here, because costs do not depend on weights. Its accuracy is
        NaN.

        Raises:
            UserError: as for :meth:`open`, for errors that are known without training.
        """
        compute = compute_of(job.compute)
        if compute.threads is not None:
            limit_threads(compute.threads)
        known = outline(job, plugins := plugins or manager_for(job), preview=True)
        if known.splits is not None and models.needs_training(job, known.splits.info):
            require_training_images(job, known.splits)
        model, store = known.shape.cpu(), Store()
        with MachineLock().shared():
            baseline = export_baseline(model, cache_folder("baselines"))
            try_devices(job, plugins, baseline.deployable)
        splits, device = known.splits or no_images(model), known.devices[0]
        costs = measured_costs(job, device, model, known.methods, store)
        pipeline = pipeline_of(job, model, baseline, device, compute, store, known.methods, costs)
        opened = cls(job, model, splits, baseline, known.methods, known.refused, device, pipeline, known.limits)
        opened.space = known.space  # the same space, with its parameters known already
        return opened

    @property
    def compute(self) -> Compute:
        """Where and how torch computes."""
        return self.pipeline.compute

    @property
    def prepared(self) -> list[str]:
        """Keys of the entries of the store that opening the job needed."""
        return sorted(self.pipeline.store.pinned)

    @property
    def scorer(self) -> Scorer:
        """Computes the accuracy of exported files."""
        return Scorer.of(self.job)

    # --- the space --------------------------------------------------------------------------------

    @cached_property
    def space(self) -> JobSpace:
        """The space of recipes."""
        return space_of(self.job, self.model, self.methods, self.limits, self.splits, self.device)

    def compose(self, chooser: Chooser) -> Recipe:
        """The recipe that ``chooser`` gives; see :meth:`JobSpace.compose`."""
        return self.space.compose(chooser)

    def parameters(self) -> dict[str, Parameter]:
        """All parameters of the space; see :meth:`JobSpace.parameters`."""
        return self.space.parameters()

    def offered(self) -> list[str]:
        """Names of the methods that recipes may use."""
        return offered(self.methods, self.parameters())

    def neutral(self) -> dict[str, Value]:
        """Values that leave the network unchanged, by name of a parameter of a transform."""
        methods = {method.name for method in self.methods if isinstance(method, Transform)}
        own = {name: one for name, one in self.parameters().items() if name.partition(".")[0] in methods}
        has_one = {name: one for name, one in own.items() if one.neutral is not None or "none" in one.choices}
        return {name: one.leaves_alone() for name, one in has_one.items()}

    def policy(self, rules: Mapping[str, str], quantizer: str | None = None) -> dict[str, Value] | None:
        """The values of a recipe made by rules; see :meth:`JobSpace.policy`."""
        return self.space.policy(rules, quantizer)

    def cheapest(self) -> list[tuple[str, dict[str, Value]]]:
        """The cheapest recipes for the bounds of the job; see :meth:`JobSpace.cheapest`."""
        bounds = {"latency", "size", "energy"}.intersection(self.job.constraints.bounds())
        is_timed = "latency" in bounds and not self.device.deterministic
        return self.space.cheapest(fewest=not is_timed or len(bounds) > 1, eight=is_timed)

    def sensitivity(
        self, progress: Progress | None = None, pause: Callable[[], None] | None = None
    ) -> list[Sensitivity]:
        """The sensitivity table; see :func:`tables.sensitivity`."""
        return tables.sensitivity(self.space, self.pipeline, self.methods, mixedbits.offered, progress, pause)

    def partly_float(
        self, progress: Progress | None = None, pause: Callable[[], None] | None = None
    ) -> list[tuple[str, dict[str, Value]]]:
        """Recipes with 8 bits and float groups; see :func:`partlyfloat.starting_points`."""
        losses = tables.sensitivity(self.space, self.pipeline, self.methods, partlyfloat.offered, progress, pause)
        return list(partlyfloat.starting_points(self.space, losses))

    def float_layers(self) -> list[str]:
        """The layers of the baseline that cannot be quantized, in network order."""
        groups = [group.name for group in models.groups(self.model, self.job.granularity)]
        recipe = quantized_everywhere(self.space, self.methods, groups)
        return [] if recipe is None else list(self.candidate(recipe, dry_run=True).float_layers)

    def placement(self) -> list[dict[str, Any]]:
        """Times of the baseline's regions in float and in integers; see :func:`placement_rows`."""
        return placement_rows(self.job, self.device, self.model, self.methods, self.pipeline.costs)

    def starting_points(self, sensitivity: Sequence[Sensitivity] = ()) -> list[tuple[str, dict[str, Value]]]:
        """Recipes to try first.

        See :meth:`JobSpace.starting_points` and, with a table, :func:`mixedbits.starting_points`.
        """
        points = self.space.starting_points()
        for label, values in mixedbits.starting_points(self.space, sensitivity):
            if values not in [known for _, known in points]:
                points.append((label, values))
        return points

    def proposals(self, progress: Progress | None = None, pause: Callable[[], None] | None = None) -> Proposed | None:
        """Recipes from measured tables; see :class:`Proposer`.

        None if the job switches tables off. ``pause`` is called often.

        Raises:
            NoProposals: if a method raises an error.
        """
        if not self.job.search.tables:
            return None
        return tables.propose(self._begun or self.table_maker(), progress, pause)

    def begin_proposals(self) -> bool:
        """Starts a forked process that prepares proposals; see :meth:`TableMaker.begin`.

        Returns:
            Whether there is such a process.
        """
        if not self.job.search.tables:
            return False
        self._begun = self.table_maker()
        return tables.begin(self._begun)

    def end_proposals(self) -> None:
        """Ends the process of :meth:`begin_proposals`."""
        if self._begun is not None:
            self._begun.end()

    def table_maker(self) -> TableMaker:
        """Makes the tables for proposals."""
        measured_by = measured_with(self.device, self.job.device)
        base, recipes = self.baseline.deployable, ShareRecipes(self.space)
        return TableMaker(self.job, recipes, self.pipeline, self.device, base, self.export, measured_by, MachineLock())

    # --- candidates -------------------------------------------------------------------------------

    def candidate(
        self,
        recipe: Recipe,
        *,
        dry_run: bool = False,
        progress: Progress | None = None,
        pause: Callable[[], None] | None = None,
    ) -> Candidate:
        """The model for ``recipe``; see :meth:`Pipeline.run`."""
        return self.pipeline.run(recipe, dry_run=dry_run, progress=progress, pause=pause)

    def at_rung(self, recipe: Recipe, rung: int) -> Recipe | None:
        """``recipe`` with the training of all rungs up to ``rung``; None if rungs do not apply."""
        transfer = self.pipeline.transfer_set(recipe)
        epochs = self.job.budget.epochs
        if transfer is None or not len(transfer.train) or not rungs.can_climb(recipe, epochs):
            return None
        images = len(transfer.train)
        batch = min(batch_size(images), images)
        return rungs.at_rung(recipe, rung, images=images, batch=batch, epochs=epochs, labelled=transfer.labelled)

    def stages(self, values: Mapping[str, Value], rung: int) -> Sequence[tuple[str, Recipe]]:
        """The recipe cut short after each of its stages; see :func:`ablation.stages`."""
        recipe = self.compose(Replay(values))
        return ablation.stages(self.at_rung(recipe, rung) or recipe)

    def layers(self, artifact: Path) -> list[dict[str, Any]]:
        """What became of each layer of the baseline; see :func:`layer_rows`."""
        base, granularity = self.baseline.deployable, self.job.granularity
        return layer_rows(self.model, base, artifact, self.methods, granularity, self.device, self.job.device)

    def layer_losses(self, artifact: Path, seconds: float) -> dict[str, float]:
        """The divergence of each layer alone; see :func:`layer_losses`."""
        return layer_losses(self.model, artifact, self.methods, manager_for(self.job), self.splits.val, seconds)

    def export(self, candidate: Candidate, file: Path) -> Deployable:
        """Writes the ONNX file of the candidate; see :func:`candidates.write_file`."""
        return write_file(candidate, file, self.model, self.methods)

    def cropped_baseline(self, file: Path) -> tuple[Deployable, TapCrop] | None:
        """See :func:`baseline.cropped_baseline`; also None if the job switches the tap crop off."""
        return cropped_baseline(self.model, self.baseline.deployable, file) if self.job.search.crop else None

    def accuracy(
        self,
        deployable: Deployable,
        split: Scored,
        pause: Callable[[], None] | None = None,
    ) -> tuple[float, np.ndarray]:
        """Accuracy of the file in percent, and whether each image is correct, bool ``(N,)``.

        With a GPU, the torch model is scored on the images that judge trials, because a runtime on
        the processor is much slower. Trials compare the labels of both on some images
        (:meth:`agreement`), and the files of the front are scored in the runtime.

        ``pause`` is called between images.
        """
        return self._judge.accuracy(deployable, split, pause)

    def model_accuracy(self, candidate: Candidate, pause: Callable[[], None] | None = None) -> tuple[float, np.ndarray]:
        """:meth:`accuracy` of the torch model on validation, for a candidate with a slow file."""
        return self._judge.model_accuracy(candidate.model, pause)

    def agreement(
        self, candidate: Candidate, deployable: Deployable, pause: Callable[[], None] | None = None
    ) -> Agreement:
        """Agreement of the file with the torch model on some validation images.

        ``pause`` is called between batches.
        """
        return self._judge.agreement(candidate, deployable, pause)

    @property
    def _judge(self) -> Judge:
        return Judge(self.job, models.input_size(self.model), self.splits, self.pipeline.compute)

    def save_artifact(
        self, candidate: Candidate, deployable: Deployable, folder: Path, metrics: dict[str, Any]
    ) -> None:
        """Writes the files of the artifact; see :func:`artifact.save`."""
        artifact.save(candidate, deployable, folder, metrics)
