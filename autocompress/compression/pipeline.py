"""The pipeline: one recipe -> one candidate, through transforms, RECOVER and QUANTIZE, with every
stage kept.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import fx, nn

from autocompress import models
from autocompress.compression import precision, qat, recover, structural
from autocompress.compression.recipe import Recipe
from autocompress.compression.sources import Sources
from autocompress.compression.structural import OfBaseline, Structural
from autocompress.contract import (
    Callback,
    Context,
    LayerSpec,
    Method,
    OperatorCount,
    Params,
    Plan,
    Preparing,
    Pruner,
    TransferSet,
    Transform,
)
from autocompress.files import digest
from autocompress.graph import facts
from autocompress.quantization import LayerBits, float_layers, hardening, operator_counts
from autocompress.quantization.leaves import leaf_types
from autocompress.store import Store
from autocompress.training import computed_with

WORTH_KEEPING_S = 1.0
"""A stage that is made faster than this is made again rather than kept."""


@dataclass(frozen=True)
class Candidate:
    """The model that a recipe gives.

    Attributes:
        model: deployable torch module in eval mode on the CPU; hardened where QUANTIZE acted.
        plan: what was done, as JSON: enough to build ``model``'s structure again without data.
        recipe: what was asked.
        operators: operations by layer and width, for cost models.
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


@dataclass
class Pipeline:
    """Applies recipes to one baseline, with the user's images or with those that the recipe's data
    source makes.

    Attributes:
        baseline: the float model in eval mode; never changed.
        baseline_key: content key of its weights and architecture.
        methods: those that apply, in the manager's order.
        transfer: images to score, calibrate and train on, for recipes that name no data source;
            None where only dry runs are wanted.
        granularity: of the job.
        seed: of the job.
        device: where torch computes.
        store: where stage results are kept.
        sources: what makes the images where a recipe names a data source.
    """

    baseline: nn.Module
    baseline_key: str
    methods: Sequence[Method]
    transfer: TransferSet | None
    granularity: str
    seed: int
    device: torch.device
    store: Store
    sources: Sources | None = None

    def __post_init__(self) -> None:
        self._by_name = {method.name: method for method in self.methods}
        self._states: dict[str, Any] = {}
        self._structural = Structural(
            self.baseline, self.baseline_key, layer_specs(self.methods), self.store, self.seed
        )

    # --- the one way through ----------------------------------------------------------------------

    def run(
        self,
        recipe: Recipe,
        *,
        dry_run: bool = False,
        progress: Callable[..., None] | None = None,
        pause: Callable[[], None] | None = None,
    ) -> Candidate:
        """Makes the candidate of ``recipe``.

        With ``dry_run`` there is no data and no training: the weights mean nothing, the structure
        is the deployed one.

        Raises:
            InvalidRecipe: if it cannot be built.
            TrialFailed: if a training diverges.
        """
        hits, misses = self.store.hits, self.store.misses
        context = self._context(dry_run, progress, recipe, pause)
        seconds: dict[str, float] = {}
        model, steps = self._transformed(recipe, context, seconds, pause)
        plan: Plan = {"architecture": models.architecture(self.baseline), "transforms": steps, "quantization": None}
        started = time.perf_counter()
        network = facts(model, context.input_size, leaves(self.methods))
        bits = precision.assign(network, self.baseline, self.granularity, recipe)
        if bits:
            model, plan["quantization"] = self._quantized(model, bits, recipe, context, pause)
            seconds["quantize"] = time.perf_counter() - started
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
        )

    def _estimated(self, recipe: Recipe, context: Context) -> tuple[str, ...]:
        """The transforms of a dry run that would need state and have none."""
        acting = [(self._transform(name), params) for name, params in recipe.transforms] if context.dry_run else []
        needing = [(method, params) for method, params in acting if method.structure_needs_state(params)]
        return tuple(
            method.name for method, params in needing if self._prepared(method, params, context, recipe) is None
        )

    # --- transforms, PRUNE and REPAIR, RECOVER: each stage under its chained key ------------------

    def _transformed(
        self, recipe: Recipe, context: Context, seconds: dict[str, float], pause: Callable[[], None] | None
    ) -> tuple[nn.Module, list[Plan]]:
        stages = self._stages(_Work(recipe, context, seconds, pause))
        keys = [] if context.dry_run else self._stage_keys(recipe)  # they hang on images, which a dry run may not need
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
                self.store.put(keys[index], model.state_dict(), {"steps": steps})
        return model.cpu().eval(), steps

    def _resumed(self, keys: Sequence[str]) -> tuple[int, nn.Module | None, list[Plan]]:
        """The deepest stage that is kept: how many stages that is, the network, and the steps of
        its plan.
        """
        for count in range(len(keys), 0, -1):
            if self.store.has(keys[count - 1]) and (found := self.store.get(keys[count - 1])) is not None:
                steps = list(found[1]["steps"])
                model = rebuild(self.baseline, steps, self._by_name)
                model.load_state_dict(found[0])
                return count, model, steps
        return 0, None, []

    def _stages(self, work: _Work) -> list[_Stage]:
        """What happens to the network before QUANTIZE, in order."""
        recipe = work.recipe
        stages = [_Stage(partial(self._run_transform, work, index)) for index in range(len(recipe.transforms))]
        if _is_structural(recipe):
            stages.append(_Stage(partial(self._run_structural, work)))
        if recipe.recover.get("epochs") and not work.context.dry_run:
            stages.append(_Stage(partial(self._run_recover, work), kept=True))
        return stages

    def _run_transform(self, work: _Work, index: int, model: nn.Module) -> tuple[nn.Module, list[Plan]]:
        started, recipe, context = time.perf_counter(), work.recipe, work.context
        name, params = recipe.transforms[index]
        method = self._transform(name)
        state = self._prepared(method, params, context, recipe, work.pause)
        before = partial(self._callbacks, recipe.transforms[:index], context)
        model, plan = method.apply(model, params, replace(context, state=state, callbacks=before))
        work.seconds[name] = time.perf_counter() - started
        return model, [{"method": name, "version": method.version, "plan": plan}]

    def _run_structural(self, work: _Work, model: nn.Module) -> tuple[nn.Module, list[Plan]]:
        """PRUNE and REPAIR."""
        recipe, context, untouched = work.recipe, work.context, not work.recipe.transforms
        if context.dry_run:
            dry = self._structural.dry(model, recipe.prune, recipe.repair, context, untouched=untouched)
            return dry, []
        pruner = self._pruner(recipe)
        if pruner is not None and recipe.prune is not None:
            state = self._prepared(pruner, recipe.prune.params, context, recipe, work.pause)
            context = replace(context, state=state, callbacks=partial(self._callbacks, recipe.transforms, context))
        return self._structural.run(
            model, recipe.prune, recipe.repair, pruner, context, work.seconds, untouched=untouched
        )

    def _run_recover(self, work: _Work, model: nn.Module) -> tuple[nn.Module, list[Plan]]:
        started, recipe, context = time.perf_counter(), work.recipe, work.context
        callbacks, again = self._callbacks(recipe.transforms, context, model), self._adapter(recipe, work.pause)
        model = recover.run(model, recipe.recover, context, callbacks, pause=work.pause, again=again)
        work.seconds["recover"] = time.perf_counter() - started
        return model, []

    def of_baseline(
        self, recipe: Recipe, progress: Callable[..., None] | None = None, pause: Callable[[], None] | None = None
    ) -> OfBaseline:
        """Orders and moments of the baseline, as the pruner of ``recipe`` has them; made once and
        kept.
        """
        context, pruner = self._context(False, progress, recipe, pause), self._pruner(recipe)
        assert pruner is not None
        assert recipe.prune is not None
        state = self._prepared(pruner, recipe.prune.params, context, recipe, pause)
        return self._structural.of_baseline(recipe.prune, recipe.repair, pruner, replace(context, state=state))

    def _stage_keys(self, recipe: Recipe) -> list[str]:
        """Chained content keys: one a transform, one for PRUNE and REPAIR, and one for RECOVER
        where it trains.
        """
        key, keys = self._first_key(recipe), []
        for name, params in recipe.transforms:
            key = digest(key, name, self._by_name[name].version, params)
            keys.append(key)
        if _is_structural(recipe):
            key = digest(key, *self._structural.key_parts(recipe.prune, recipe.repair, self._pruner(recipe)))
            keys.append(key)
        if recipe.recover.get("epochs"):
            keys.append(digest(key, "recover", recover.VERSION, recipe.recover))
        return keys

    def _pruner(self, recipe: Recipe) -> Pruner | None:
        if recipe.prune is None:
            return None
        pruner = self._by_name[recipe.prune.method]
        assert isinstance(pruner, Pruner)
        return pruner

    def _first_key(self, recipe: Recipe) -> str:
        transfer = self.transfer_set(recipe)
        # Of a source that adapts, the images that recovery begins with are only a part.
        more = [] if recipe.source is None or self.sources is None else self.sources.adapting(recipe.source)
        images = transfer.digest if transfer else None
        return digest(self.baseline_key, images, self.seed, computed_with(self.device), *more)

    def transfer_set(
        self,
        recipe: Recipe,
        progress: Callable[..., None] | None = None,
        pause: Callable[[], None] | None = None,
    ) -> TransferSet | None:
        """The images of ``recipe``: its data source's (made if need be), or else the user's."""
        if recipe.source is None or self.sources is None:
            return self.transfer
        return self.sources.transfer_set(*recipe.source, progress, pause)

    def _adapter(self, recipe: Recipe, pause: Callable[[], None] | None) -> Callable[[nn.Module], TransferSet] | None:
        return None if recipe.source is None or self.sources is None else self.sources.adapter(recipe.source, pause)

    def _callbacks(
        self, transforms: Sequence[tuple[str, Params]], context: Context, model: nn.Module
    ) -> list[Callback]:
        return [
            callback
            for name, params in transforms
            for callback in self._by_name[name].callbacks(model, params, context)
        ]

    def _quantized(
        self,
        model: nn.Module,
        bits: Mapping[str, LayerBits],
        recipe: Recipe,
        context: Context,
        pause: Callable[[], None] | None,
    ) -> tuple[nn.Module, Plan]:
        """QUANTIZE; kept where it trained, as hardened weights and their plan."""
        trained = precision.trained(recipe) and not context.dry_run
        key = self._quantize_key(recipe) if trained else ""
        if trained and self.store.has(key) and (found := self.store.get(key)) is not None:
            hardened: nn.Module = hardening.rebuild(model, found[1]["quantization"], layer_specs(self.methods))
            hardened.load_state_dict(found[0])
            return hardened, found[1]["quantization"]
        specs = layer_specs(self.methods)
        hardened, plan = precision.quantize(model, bits, recipe, self._by_name, context, pause=pause, specs=specs)
        if trained:
            self.store.misses += 1
            self.store.put(key, hardened.state_dict(), {"quantization": plan})
        return hardened, plan

    def _quantize_key(self, recipe: Recipe) -> str:
        before = (self._stage_keys(recipe) or [self._first_key(recipe)])[-1]
        bits = {group: asdict(chosen) for group, chosen in recipe.bits.items()}
        quantizers = {name: [self._by_name[name].version, params] for name, params in recipe.quantizers.items()}
        of_training = [qat.VERSION, recover.VERSION]  # the loop is RECOVER's, whether or not RECOVER trains here
        return digest(before, "quantize", *of_training, self.granularity, bits, quantizers, recipe.qat)

    # --- prepared state ---------------------------------------------------------------------------

    def prepare(
        self,
        progress: Callable[..., None] | None = None,
        params_of: Callable[[Method], Params] | None = None,
        pause: Callable[[], None] | None = None,
    ) -> dict[str, str]:
        """Has every transform prepare what its recipes share, once for each data source, unless
        that is kept already.

        Args:
            progress: told of what takes long.
            params_of: a method's parameters in the recipe to prepare for; by default nothing is
                said.
            pause: called between the images of a data source.

        Returns:
            Why, by name, for the methods that could not; they are no longer part of the pipeline.
        """
        sources = [None] if self.sources is None else list(self.sources.defaults.items())
        failed: dict[str, str] = {}
        for source in sources:
            recipe = Recipe(values={}, source=source)
            context = self._context(False, progress, recipe, pause)
            for method in self.methods:
                if isinstance(method, Transform) and method.name not in failed:
                    try:
                        self._prepared(method, params_of(method) if params_of else {}, context, recipe, pause)
                    except Exception as error:  # a plugin's fault must not end the search
                        failed[method.name] = f"it could not prepare: {type(error).__name__}: {error}"
        self.methods = [method for method in self.methods if method.name not in failed]
        return failed

    def _prepared(
        self,
        method: Preparing,
        params: Params,
        context: Context,
        recipe: Recipe,
        pause: Callable[[], None] | None = None,
    ) -> Any:
        if not method.prepares:
            return None
        shared = method.shared(params)
        if context.dry_run and recipe.source is not None and self.sources is not None:
            # Scores decide the structure, so a dry run too needs those of its source, the first
            # that names it so.
            context = self._context(False, context.progress, recipe, pause)
        images = context.transfer or self.transfer
        transfer = images.digest if images else None
        made_by = [method.name, method.version, *([shared] if shared else [])]
        key = digest("prepared", *made_by, self.baseline_key, transfer, self.seed, computed_with(self.device))
        if key not in self._states:
            if context.dry_run and (not self.store.has(key) or self.store.get(key) is None):
                if not shared or self.transfer_set(recipe) is None:
                    return None
                # What is prepared may decide the structure, and only the default recipe's is there
                # from the start.
                context = self._context(False, context.progress, recipe, pause)

            def make() -> Any:
                return method.prepare(copy.deepcopy(self.baseline).to(context.device), replace(context, params=shared))

            self._states[key] = self.store.made(key, make, pause)
        return self._states[key]

    def _transform(self, name: str) -> Transform:
        method = self._by_name[name]
        assert isinstance(method, Transform)
        return method

    def _context(
        self,
        dry_run: bool,
        progress: Callable[..., None] | None,
        recipe: Recipe,
        pause: Callable[[], None] | None = None,
    ) -> Context:
        context = Context(
            input_size=models.input_size(self.baseline),
            device=torch.device("cpu") if dry_run else self.device,
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
        return replace(context, transfer=transfer, teacher=copy.deepcopy(self.baseline).to(self.device).eval())


@dataclass(frozen=True)
class _Work:
    """One way of a recipe through the stages.

    Attributes:
        recipe: what is asked.
        context: what methods may use.
        seconds: time by stage is added to it.
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
        run: given the network, returns it changed, and the steps that its plan gets.
        kept: its result goes into the store however fast it was made.
    """

    run: Callable[[nn.Module], tuple[nn.Module, list[Plan]]]
    kept: bool = False


def _is_structural(recipe: Recipe) -> bool:
    """Whether PRUNE or REPAIR has anything to do."""
    return recipe.prune is not None or recipe.repair.get("fit", "none") != "none"


def rebuild(baseline: nn.Module, steps: Sequence[Plan], methods: Mapping[str, Method]) -> nn.Module:
    """The structure after the transforms, PRUNE and REPAIR of ``steps``, made on a copy of
    ``baseline`` with no data and no training. PRUNE and REPAIR need no pruner for that.

    Raises:
        KeyError: if a transform of the plan is not in ``methods``.
    """
    model = copy.deepcopy(baseline)
    specs = layer_specs(list(methods.values()))
    for step in steps:
        if "stage" in step:
            model = structural.rebuild(model, step, specs)
            continue
        method = methods[step["method"]]
        assert isinstance(method, Transform)
        model = method.rebuild(model, step["plan"])
    return model.eval()


def layer_specs(methods: Sequence[Method]) -> list[LayerSpec]:
    """The layer types that ``methods`` bring."""
    return [spec for method in methods for spec in method.layers]


def leaves(methods: Sequence[Method]) -> tuple[type[nn.Module], ...]:
    """Those of them that the traced graph keeps whole."""
    return leaf_types(layer_specs(methods))


def slow_in_file(model: nn.Module, specs: Sequence[LayerSpec]) -> str:
    """Why a stock runtime would run ``model`` slowly; empty where nothing in it says so."""
    reasons = [spec.slow_in_file for spec in specs if any(isinstance(m, spec.layer_type) for m in model.modules())]
    return "; ".join(dict.fromkeys(reason for reason in reasons if reason))
