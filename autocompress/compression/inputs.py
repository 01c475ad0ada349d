"""Inputs of the stages of a recipe: images, prepared state, callbacks and context."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from autocompress import models
from autocompress.compression.answers import with_logits
from autocompress.compression.sources import Sources
from autocompress.compute import Compute
from autocompress.contract import Callback, Context, Method, Params, Preparing, Pruner, TransferSet, Transform
from autocompress.files import digest
from autocompress.recipes.recipe import Recipe
from autocompress.store import Store
from autocompress.training import computed_with


@dataclass
class Inputs:
    """Makes the inputs of the stages, for recipes of one baseline.

    Attributes:
        baseline, baseline_key, methods, transfer, seed, compute, store, sources: attributes of the
            pipeline.
    """

    baseline: nn.Module
    baseline_key: str
    methods: Sequence[Method]
    transfer: TransferSet | None
    seed: int
    compute: Compute
    store: Store
    sources: Sources | None = None

    def __post_init__(self) -> None:
        self.by_name = {method.name: method for method in self.methods}
        self._states: dict[str, Any] = {}

    def first_key(self, recipe: Recipe) -> str:
        """Content key before any stage: baseline, images, seed and way of computing."""
        transfer = self.transfer_set(recipe)
        # A source that adapts to the student gives more images during recovery.
        more = [] if recipe.source is None or self.sources is None else self.sources.adapting(recipe.source)
        images = transfer.digest if transfer else None
        return digest(self.baseline_key, images, self.seed, computed_with(self.compute), *more)

    def transfer_set(
        self,
        recipe: Recipe,
        progress: Callable[..., None] | None = None,
        pause: Callable[[], None] | None = None,
    ) -> TransferSet | None:
        """The images of ``recipe``: those of its data source, made if necessary, or of the user."""
        if recipe.source is None or self.sources is None:
            return self.transfer
        return self.sources.transfer_set(*recipe.source, progress, pause)

    def with_logits(self, context: Context, images: int, pause: Callable[[], None] | None) -> Context:
        """``context`` with the baseline's logits on the images to train on, at most ``images``."""
        assert context.transfer is not None
        transfer = with_logits(
            self.baseline, self.baseline_key, context.transfer, images, self.store, self.compute, self.seed, pause
        )
        return replace(context, transfer=transfer)

    def adapter(self, recipe: Recipe, pause: Callable[[], None] | None) -> Callable[[nn.Module], TransferSet] | None:
        """Makes images for a student in training; None if the source does not adapt."""
        return None if recipe.source is None or self.sources is None else self.sources.adapter(recipe.source, pause)

    def pruner(self, recipe: Recipe) -> Pruner | None:
        """The pruner of ``recipe``; None if no channel is removed."""
        if recipe.prune is None:
            return None
        pruner = self.by_name[recipe.prune.method]
        assert isinstance(pruner, Pruner)
        return pruner

    def callbacks(self, transforms: Sequence[tuple[str, Params]], context: Context, model: nn.Module) -> list[Callback]:
        """The callbacks of ``transforms`` for the training of ``model``."""
        return [
            callback for name, params in transforms for callback in self.by_name[name].callbacks(model, params, context)
        ]

    def prepare(
        self,
        progress: Callable[..., None] | None = None,
        params_of: Callable[[Method], Params] | None = None,
        pause: Callable[[], None] | None = None,
    ) -> dict[str, str]:
        """Calls ``prepare`` of each method for each data source; recipes share the result.

        States in the store are not prepared again.

        Args:
            progress: called during long work.
            params_of: a method's parameters in the recipe to prepare for; none by default.
            pause: called between the images of a data source.

        Returns:
            By method, the reason why it failed. These methods are no longer part of the pipeline.
        """
        sources = [None] if self.sources is None else list(self.sources.defaults.items())
        failed: dict[str, str] = {}
        for source in sources:
            recipe = Recipe(values={}, source=source)
            context = self.context(False, progress, recipe, pause)
            for method in self.methods:
                if isinstance(method, Transform) and method.name not in failed:
                    try:
                        self.prepared(method, params_of(method) if params_of else {}, context, recipe, pause)
                    except Exception as error:  # a plugin's fault must not end the search
                        failed[method.name] = f"it could not prepare: {type(error).__name__}: {error}"
        self.methods = [method for method in self.methods if method.name not in failed]
        return failed

    def prepared(
        self,
        method: Preparing,
        params: Params,
        context: Context,
        recipe: Recipe,
        pause: Callable[[], None] | None = None,
    ) -> Any:
        """The state that ``method`` prepared for this recipe; None without ``prepare``."""
        if not method.prepares:
            return None
        shared = method.shared(params)
        if context.dry_run and recipe.source is not None and self.sources is not None:
            # Scores decide the structure. A dry run therefore also needs the scores on images of
            # its source. If it is the first run with this source, it makes these images.
            context = self.context(False, context.progress, recipe, pause)
        images = context.transfer or self.transfer
        transfer = images.digest if images else None
        made_by = [method.name, method.version, *([shared] if shared else [])]
        key = digest("prepared", *made_by, self.baseline_key, transfer, self.seed, computed_with(self.compute))
        if key not in self._states:
            if context.dry_run and (not self.store.has(key) or self.store.get(key) is None):
                if not shared or self.transfer_set(recipe) is None:
                    return None
                # The prepared state may decide the structure. At the start, only the state of the
                # default recipe was made.
                context = self.context(False, context.progress, recipe, pause)

            def make() -> Any:
                return method.prepare(copy.deepcopy(self.baseline).to(context.device), replace(context, params=shared))

            self._states[key] = self.store.made(key, make, pause)
        return self._states[key]

    def transform(self, name: str) -> Transform:
        """The transform called ``name``."""
        method = self.by_name[name]
        assert isinstance(method, Transform)
        return method

    def context(
        self,
        dry_run: bool,
        progress: Callable[..., None] | None,
        recipe: Recipe,
        pause: Callable[[], None] | None = None,
    ) -> Context:
        """The context of methods in a run of ``recipe``."""
        context = Context(
            input_size=models.input_size(self.baseline),
            compute=Compute() if dry_run else self.compute,
            seed=self.seed,
            dry_run=dry_run,
        )
        if progress is not None:
            context = replace(context, progress=progress)
        if pause is not None:
            context = replace(context, pause=pause)
        if dry_run:
            return context
        transfer = self.transfer_set(recipe, progress, pause)
        assert transfer is not None, "a run that is not dry needs data"
        return replace(context, transfer=transfer, teacher=copy.deepcopy(self.baseline).to(self.compute.device).eval())
