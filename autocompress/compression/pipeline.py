"""The pipeline makes a candidate from a recipe, stage by stage. Results of stages are stored."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import fx, nn

from autocompress import models
from autocompress.compression import quantize
from autocompress.compression.candidate import Candidate
from autocompress.compression.inputs import Inputs
from autocompress.compression.layertypes import layer_specs, leaves, slow_in_file
from autocompress.compression.prune_repair import OfBaseline, Structural
from autocompress.compression.rebuilding import rebuild
from autocompress.compression.sources import Sources
from autocompress.compression.stagekeys import StageKeys, is_structural
from autocompress.compute import Compute
from autocompress.contract import (
    Context,
    Method,
    Params,
    PlacementTable,
    Plan,
    TransferSet,
)
from autocompress.export import TapCrop, tap_crop
from autocompress.graph import facts
from autocompress.integer_placement import MeasuredCosts
from autocompress.quantization import LayerBits, float_layers, hardening, operator_counts
from autocompress.quantization.placement import ONNX_RUNTIME
from autocompress.recipes.recipe import Recipe
from autocompress.store import Store
from autocompress.training import Checkpoint, recover

WORTH_KEEPING_S = 1.0
"""Results of stages that take less time than this are not stored."""


@dataclass
class Pipeline:
    """Applies recipes to one baseline.

    Images are the user's, or those of the recipe's data source.

    Attributes:
        baseline: the float model in eval mode; never changed.
        baseline_key: content key of its weights and architecture.
        methods: those that apply, in the order of the plugin manager.
        transfer: images for scoring, calibration and training of recipes without a data source;
            None for dry runs only.
        granularity: granularity of the job.
        seed: random seed of the job.
        compute: where and how torch computes.
        store: the store for results of stages.
        sources: makes the images of recipes with a data source.
        table: the operators that the device computes on integers.
        crops: whether files leave out kernel taps that only read padding.
        costs: times of layers in float and in integers on the device; None uses integers wherever
            the table allows.
    """

    baseline: nn.Module
    baseline_key: str
    methods: Sequence[Method]
    transfer: TransferSet | None
    granularity: str
    seed: int
    compute: Compute
    store: Store
    sources: Sources | None = None
    table: PlacementTable = ONNX_RUNTIME
    crops: bool = True
    costs: MeasuredCosts | None = None

    def __post_init__(self) -> None:
        self._inputs = Inputs(
            self.baseline,
            self.baseline_key,
            self.methods,
            self.transfer,
            self.seed,
            self.compute,
            self.store,
            self.sources,
        )
        self._structural = Structural(
            self.baseline, self.baseline_key, layer_specs(self.methods), self.store, self.seed
        )
        self.keys = StageKeys(self._inputs, self._structural, self.granularity, self.table, self.costs)

    # --- a run ------------------------------------------------------------------------------------

    def run(
        self,
        recipe: Recipe,
        *,
        dry_run: bool = False,
        progress: Callable[..., None] | None = None,
        pause: Callable[[], None] | None = None,
    ) -> Candidate:
        """Makes the candidate of ``recipe``.

        With ``dry_run`` there is no data and no training. The candidate has the deployed structure,
        but not the deployed weights.

        Raises:
            InvalidRecipe: if it cannot be built.
            TrialFailed: if a training diverges.
        """
        hits, misses = self.store.hits, self.store.misses
        context = self._inputs.context(dry_run, progress, recipe, pause)
        seconds: dict[str, float] = {}
        model, steps = self._transformed(recipe, context, seconds, pause)
        plan: Plan = {"architecture": models.architecture(self.baseline), "transforms": steps, "quantization": None}
        context.pause()
        started = time.perf_counter()
        network = facts(model, context.input_size, leaves(self.methods))
        bits = quantize.assign(network, self.baseline, self.granularity, recipe)
        if bits:
            model, plan["quantization"] = self._quantized(model, bits, recipe, context, pause)
            seconds["quantize"] = time.perf_counter() - started
        crop = tap_crop(network, model) if self.crops else TapCrop()
        if crop.layers:
            plan["tap_crop"] = crop.record()
        return Candidate(
            model=model,
            plan=plan,
            recipe=recipe,
            operators=operator_counts(model, context.input_size, layer_specs(self.methods)),
            params=network.params,
            macs=network.macs,
            float_layers=tuple(float_layers(model)) if isinstance(model, fx.GraphModule) and bits else (),
            cache_hits=self.store.hits - hits,
            cache_misses=self.store.misses - misses,
            seconds=seconds,
            slow=slow_in_file(model, layer_specs(self.methods)),
            estimated=self._estimated(recipe, context),
            crop=crop,
        )

    def _estimated(self, recipe: Recipe, context: Context) -> tuple[str, ...]:
        """The transforms of a dry run that need prepared state, but have none."""
        acting = (
            [(self._inputs.transform(name), params) for name, params in recipe.transforms] if context.dry_run else []
        )
        needing = [(method, params) for method, params in acting if method.structure_needs_state(params)]
        return tuple(
            method.name for method, params in needing if self._inputs.prepared(method, params, context, recipe) is None
        )

    # --- transforms, PRUNE and REPAIR, RECOVER: each stage under its chained key ------------------

    def _transformed(
        self, recipe: Recipe, context: Context, seconds: dict[str, float], pause: Callable[[], None] | None
    ) -> tuple[nn.Module, list[Plan]]:
        stages = self._stages(_Work(recipe, context, seconds, pause))
        if not context.dry_run:
            self._ask_order(recipe, context, pause)
        # Keys contain the digest of the images, and a dry run may have no images.
        keys = [] if context.dry_run else self.keys.of_stages(recipe)
        done, model, steps = self._resumed(keys)
        model = (copy.deepcopy(self.baseline) if model is None else model).to(context.device).eval()
        for index, stage in enumerate(stages):
            if index < done:
                continue
            started = time.perf_counter()
            if not context.dry_run:
                self.store.misses += 1
            model, more = stage.run(model)
            model.eval()
            steps = [*steps, *more]
            if not context.dry_run and (stage.kept or time.perf_counter() - started > WORTH_KEEPING_S):
                keys = keys if index < len(keys) else self.keys.of_stages(recipe)
                self.store.put(keys[index], model.state_dict(), {"steps": steps})
                if stage.kept:
                    Checkpoint.of(keys[index]).drop()
        return model.cpu().eval(), steps

    def _resumed(self, keys: Sequence[str]) -> tuple[int, nn.Module | None, list[Plan]]:
        """The number of stages that the store has, the network after them, and its plan."""
        for count in range(len(keys), 0, -1):
            if self.store.has(keys[count - 1]) and (found := self.store.get(keys[count - 1])) is not None:
                steps = list(found[1]["steps"])
                model = rebuild(self.baseline, steps, self._inputs.by_name)
                model.load_state_dict(found[0])
                return count, model, steps
        return 0, None, []

    def _stages(self, work: _Work) -> list[_Stage]:
        """The stages before QUANTIZE, in order."""
        recipe = work.recipe
        stages = [_Stage(partial(self._run_transform, work, index)) for index in range(len(recipe.transforms))]
        if is_structural(recipe):
            stages.append(_Stage(partial(self._run_structural, work)))
        if recipe.recover.get("epochs") and not work.context.dry_run:
            stages.append(_Stage(partial(self._run_recover, work), kept=True))
        for rung in range(0 if work.context.dry_run else len(recipe.rungs)):
            stages.append(_Stage(partial(self._run_rung, work, rung), kept=True))
        return stages

    def _run_transform(self, work: _Work, index: int, model: nn.Module) -> tuple[nn.Module, list[Plan]]:
        started, recipe, context = time.perf_counter(), work.recipe, work.context
        name, params = recipe.transforms[index]
        method = self._inputs.transform(name)
        state = self._inputs.prepared(method, params, context, recipe, work.pause)
        before = partial(self._inputs.callbacks, recipe.transforms[:index], context)
        model, plan = method.apply(model, params, replace(context, state=state, callbacks=before))
        work.seconds[name] = time.perf_counter() - started
        return model, [{"method": name, "version": method.version, "plan": plan}]

    def _run_structural(self, work: _Work, model: nn.Module) -> tuple[nn.Module, list[Plan]]:
        """PRUNE and REPAIR."""
        recipe, context, untouched = work.recipe, work.context, not work.recipe.transforms
        if context.dry_run:
            dry = self._structural.dry(model, recipe.prune, recipe.repair, context, untouched=untouched)
            return dry, []
        pruner = self._inputs.pruner(recipe)
        if pruner is not None and recipe.prune is not None:
            state = self._inputs.prepared(pruner, recipe.prune.params, context, recipe, work.pause)
            context = replace(
                context, state=state, callbacks=partial(self._inputs.callbacks, recipe.transforms, context)
            )
        entering = self.keys.entering_prune(recipe)
        return self._structural.run(
            model, recipe.prune, recipe.repair, pruner, context, work.seconds, untouched=untouched, entering=entering
        )

    def _ask_order(self, recipe: Recipe, context: Context, pause: Callable[[], None] | None) -> None:
        """Gets the baseline's order of channels from the pruner, because the key of PRUNE needs it.

        For a network that a transform changed, the pruner is called when that network has been
        made.
        """
        pruner, asked = self._inputs.pruner(recipe), recipe.prune
        if pruner is None or asked is None or recipe.transforms or self.keys.of_structural(recipe) is not None:
            return
        state = self._inputs.prepared(pruner, asked.params, context, recipe, pause)
        self._structural.baseline_orders(asked, recipe.repair, pruner, replace(context, state=state))

    def _run_recover(self, work: _Work, model: nn.Module) -> tuple[nn.Module, list[Plan]]:
        started, recipe, context = time.perf_counter(), work.recipe, work.context
        callbacks, again = (
            self._inputs.callbacks(recipe.transforms, context, model),
            self._inputs.adapter(recipe, work.pause),
        )
        key = self.keys.of_stages(replace(recipe, rungs=()))[-1]
        checkpoint = Checkpoint.of(key) if again is None else None
        model = recover(model, recipe.recover, context, callbacks, pause=work.pause, again=again, checkpoint=checkpoint)
        work.seconds["recover"] = time.perf_counter() - started
        return model, []

    def _run_rung(self, work: _Work, index: int, model: nn.Module) -> tuple[nn.Module, list[Plan]]:
        """Trains for rung ``index + 1``, from the network of the rung below."""
        started, recipe, context, params = time.perf_counter(), work.recipe, work.context, work.recipe.rungs[index]
        callbacks = self._inputs.callbacks(recipe.transforms, context, model)
        if not params["augment"]:
            context = self._inputs.with_logits(context, params["least_steps"] * params["batch_size"], work.pause)
        key = self.keys.of_stages(replace(recipe, rungs=recipe.rungs[: index + 1]))[-1]
        model = recover(model, params, context, callbacks, pause=work.pause, checkpoint=Checkpoint.of(key))
        work.seconds[f"rung {index + 1}"] = time.perf_counter() - started
        return model, []

    def of_baseline(
        self, recipe: Recipe, progress: Callable[..., None] | None = None, pause: Callable[[], None] | None = None
    ) -> OfBaseline:
        """Orders and moments of the baseline for the pruner of ``recipe``; made once and stored."""
        context, pruner = self._inputs.context(False, progress, recipe, pause), self._inputs.pruner(recipe)
        assert pruner is not None
        assert recipe.prune is not None
        state = self._inputs.prepared(pruner, recipe.prune.params, context, recipe, pause)
        return self._structural.of_baseline(recipe.prune, recipe.repair, pruner, replace(context, state=state))

    def _quantized(
        self,
        model: nn.Module,
        bits: Mapping[str, LayerBits],
        recipe: Recipe,
        context: Context,
        pause: Callable[[], None] | None,
    ) -> tuple[nn.Module, Plan]:
        """QUANTIZE. If it trains, its hardened weights and plan are kept."""
        trained = quantize.trained(recipe) and not context.dry_run
        key = self.keys.of_quantize(recipe) if trained else ""
        specs = layer_specs(self.methods)
        if trained and self.store.has(key) and (found := self.store.get(key)) is not None:
            hardened: nn.Module = hardening.rebuild(model, found[1]["quantization"], specs)
            hardened.load_state_dict(found[0])
            return hardened, found[1]["quantization"]
        hardened, plan = quantize.quantize(
            model,
            bits,
            recipe,
            self._inputs.by_name,
            context,
            pause=pause,
            specs=specs,
            table=self.table,
            choose=None if self.costs is None else self.costs.floats,
        )
        if trained:
            self.store.misses += 1
            self.store.put(key, hardened.state_dict(), {"quantization": plan})
        return hardened, plan

    # --- inputs of stages -------------------------------------------------------------------------

    def transfer_set(
        self,
        recipe: Recipe,
        progress: Callable[..., None] | None = None,
        pause: Callable[[], None] | None = None,
    ) -> TransferSet | None:
        """The images of ``recipe``; see :meth:`Inputs.transfer_set`."""
        return self._inputs.transfer_set(recipe, progress, pause)

    def prepare(
        self,
        progress: Callable[..., None] | None = None,
        params_of: Callable[[Method], Params] | None = None,
        pause: Callable[[], None] | None = None,
    ) -> dict[str, str]:
        """Prepares every method; see :meth:`Inputs.prepare`.

        Returns:
            By method, the reason why it failed. These methods are no longer part of the pipeline.
        """
        failed = self._inputs.prepare(progress, params_of, pause)
        self.methods = self._inputs.methods
        return failed


@dataclass(frozen=True)
class _Work:
    """One run of a recipe.

    Attributes:
        recipe: the recipe.
        context: what methods may use.
        seconds: gets the time of each stage.
        pause: called between batches.
    """

    recipe: Recipe
    context: Context
    seconds: dict[str, float]
    pause: Callable[[], None] | None


@dataclass(frozen=True)
class _Stage:
    """One stage of a recipe.

    Attributes:
        run: takes a network, and returns the changed network and the steps for its plan.
        kept: whether the result is stored even if it was made quickly.
    """

    run: Callable[[nn.Module], tuple[nn.Module, list[Plan]]]
    kept: bool = False
