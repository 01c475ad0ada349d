"""PRUNE and REPAIR of one recipe: both need the network as it was before channels went."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from autocompress import models
from autocompress.compression import prune, repair
from autocompress.compression.prune import Cut
from autocompress.compression.repair import Images, Inputs
from autocompress.contract import Context, Coupling, LayerSpec, Params, Plan, Pruner
from autocompress.errors import TrialFailed
from autocompress.files import digest
from autocompress.graph import NetworkFacts, facts
from autocompress.models.health import faulty_tensor
from autocompress.pruning.known import fixed_couplings, known_couplings
from autocompress.pruning.removal import remove
from autocompress.pruning.widths import lost_inputs
from autocompress.quantization.leaves import leaf_types
from autocompress.recipes.pruning import Pruning, prunable
from autocompress.repair import Moments
from autocompress.store import Store
from autocompress.training import computed_with, logits, recalibrate_batch_norm

RECALIBRATION_PIXELS = 512 * 32 * 32
"""Statistics average over places as well as over images: larger images need fewer of them."""
LEAST_RECALIBRATION = 64
PRUNE, REPAIR = "prune", "repair"


@dataclass(frozen=True)
class OfBaseline:
    """What the stages know of the baseline itself.

    Attributes:
        orders: by coupling of one mode, its channels, the least needed first.
        moments: by layer that reads them.
        images: moments were taken on some of them, and not on those held out.
        key: content key of all this.
    """

    orders: Mapping[str, Sequence[int]]
    moments: Mapping[str, Moments]
    images: Images
    key: str


@dataclass
class Structural:
    """The two stages, for the recipes of one baseline.

    Attributes:
        baseline: the float model in eval mode; never changed.
        baseline_key: content key of its weights and architecture.
        specs: of the layer types that plugins bring.
        store: where moments and orders of the baseline are kept.
        seed: of the job.
    """

    baseline: nn.Module
    baseline_key: str
    specs: Sequence[LayerSpec]
    store: Store
    seed: int
    _moments: dict[str, Inputs] = field(default_factory=dict)
    _orders: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    _logits: dict[str, torch.Tensor] = field(default_factory=dict)
    _facts: NetworkFacts | None = None

    # --- what a stage key needs -------------------------------------------------------------------

    def key_parts(self, asked: Pruning | None, settings: Params, pruner: Pruner | None) -> list[Any]:
        """What decides the two stages' result beside the network that enters them."""
        pruning = None if asked is None or pruner is None else [prune.VERSION, pruner.version, asked.record()]
        return ["prune and repair", pruning, repair.VERSION, settings]

    # --- without data -----------------------------------------------------------------------------

    def dry(
        self, model: nn.Module, asked: Pruning | None, settings: Params, context: Context, *, untouched: bool
    ) -> nn.Module:
        """The structure that the stages leave; weights mean nothing.

        Arguments as for :meth:`run`.
        """
        cut = None if asked is None else prune.decide(self._every(model, asked), self.baseline, asked, None)
        network = self._facts_of(model, context, untouched)
        if settings["fit"] != "none":
            repair.add_biases(model, self._biased(network, cut, settings), network.layers)
        return model if cut is None else self._removed(model, cut, context)

    # --- with data --------------------------------------------------------------------------------

    def run(
        self,
        model: nn.Module,
        asked: Pruning | None,
        settings: Params,
        pruner: Pruner | None,
        context: Context,
        seconds: dict[str, float],
        *,
        untouched: bool,
    ) -> tuple[nn.Module, list[Plan]]:
        """Removes what the recipe asks for and refits what is left.

        Args:
            model: the network that enters PRUNE, on ``context.device``; changed.
            asked: None where nothing is pruned.
            settings: of REPAIR.
            pruner: that orders the channels.
            context: with images, and the pruner's state.
            seconds: time by stage is added to it.
            untouched: ``model`` is still the baseline.

        Returns:
            The network in eval mode, and the steps of its plan.

        Raises:
            InvalidRecipe: if it cannot be built.
            TrialFailed: if images, activations or weights hold NaN or infinite values.
        """
        started = time.perf_counter()
        steps: list[Plan] = []
        images = self.images(settings, context)
        inputs = self._inputs(model, images, context, untouched)
        network, cut = self._facts_of(model, context, untouched), None
        if asked is not None:
            assert pruner is not None
            every = self._every(model, asked)
            orders = self.orders(model, every, asked, pruner, inputs, context)
            cut = prune.decide(every, self.baseline, asked, orders)
            plan = cut.plan(context.input_size)
            steps.append({"stage": PRUNE, "method": pruner.name, "version": pruner.version, "plan": plan})
            seconds[PRUNE] = time.perf_counter() - started
        started = time.perf_counter()
        model, told = self._repaired(model, network, cut, settings, images, inputs, context)
        if told is not None:
            steps.append({"stage": REPAIR, "method": REPAIR, "version": repair.VERSION, "plan": told})
            seconds[REPAIR] = time.perf_counter() - started
        if fault := faulty_tensor(model.state_dict()):
            raise TrialFailed(f"{fault} after channels were removed and layers refitted")
        return model.eval(), steps

    def _repaired(
        self,
        model: nn.Module,
        network: NetworkFacts,
        cut: Cut | None,
        settings: Params,
        images: Images,
        inputs: Inputs,
        context: Context,
    ) -> tuple[nn.Module, Plan | None]:
        if settings["fit"] == "none":
            plain = model if cut is None else self._removed(model, cut, context)
            self._recalibrate(plain, cut, context)
            return plain, None
        biases = repair.add_biases(model, self._biased(network, cut, settings), network.layers)
        plain = copy.deepcopy(model) if cut is None else self._removed(copy.deepcopy(model), cut, context)
        if not images.enough:
            self._recalibrate(plain, cut, context)
            return plain, repair.record(biases, {"refitted": 0, "reason": f"{len(images.to_fit)} images are too few"})
        undone: list[str] = []
        sequential = self._is_sequential(network, cut, settings)
        if sequential:
            fitted = copy.deepcopy(plain)
            refitted, undone = repair.sequential(fitted, self._teacher(context), cut, context, images, self._leaves)
        else:
            assert cut is not None
            refitted = repair.one_shot(model, cut, network, inputs)
            fitted = self._removed(model, cut, context)
        before, after = (self._divergence(candidate, images, context) for candidate in (plain, fitted))
        told: dict[str, Any] = {
            "fit": "sequential" if sequential else "one-shot",
            "refitted": len(refitted),
            "undone": len(undone),
            "divergence": [round(before, 6), round(after, 6)],
        }
        if after <= before:
            return fitted, repair.record(biases, told)
        self._recalibrate(plain, cut, context)
        return plain, repair.record(biases, {**told, "refitted": 0, "undone": len(refitted) + len(undone)})

    # --- parts ------------------------------------------------------------------------------------

    def images(self, settings: Params, context: Context) -> Images:
        """Those that a repair with ``settings`` uses."""
        assert context.transfer is not None
        count = int(settings.get("images", 512))
        return Images(context.transfer.calibration, count, self.seed, context.device, context.transfer.digest)

    def of_baseline(self, asked: Pruning, settings: Params, pruner: Pruner, context: Context) -> OfBaseline:
        """Orders and moments of the baseline, made or from the store.

        Arguments as for :meth:`run`.
        """
        model = copy.deepcopy(self.baseline).to(context.device)
        images = self.images(settings, context)
        inputs = self._inputs(model, images, context, untouched=True)
        orders = self.orders(model, self._every_of_baseline(asked.mode), asked, pruner, inputs, context)
        key = self._orders_key(asked, pruner, images, context)
        return OfBaseline(orders, inputs(inputs.layers), images, key)

    def _every_of_baseline(self, mode: str) -> list[Coupling]:
        return fixed_couplings(self.baseline, self._size, mode)

    def orders(
        self,
        model: nn.Module,
        every: Sequence[Coupling],
        asked: Pruning,
        pruner: Pruner,
        inputs: Inputs,
        context: Context,
    ) -> dict[str, list[int]]:
        """The orders of the couplings that lose channels.

        For the baseline, all couplings get an order, and the orders are kept.
        """
        context = replace(context, model=model, moments=inputs)
        if not inputs.of_baseline:
            return prune.orders_of(pruner, prune.losing(every, self.baseline, asked), asked.params, context)
        key = self._orders_key(asked, pruner, inputs.images, context)
        if key not in self._orders:
            offered = prunable(self.baseline, asked.mode)

            def make() -> Any:
                return {"orders": prune.orders_of(pruner, offered, asked.params, context)}

            self._orders[key] = self.store.made(key, make, context.pause)["orders"]
        return self._orders[key]

    def _orders_key(self, asked: Pruning, pruner: Pruner, images: Images, context: Context) -> str:
        own = [pruner.name, pruner.version, asked.params, asked.mode]
        return digest("orders", prune.VERSION, *own, self.baseline_key, images.key, computed_with(context.device))

    def _inputs(self, model: nn.Module, images: Images, context: Context, untouched: bool) -> Inputs:
        """Moments of the network that enters; those of the baseline are kept."""
        if not untouched:
            every = known_couplings(model, self._size, "group", self.specs)
            return Inputs(model, _readers(every), images, context.pause)
        key = digest("moments", repair.VERSION, self.baseline_key, images.key, computed_with(context.device))
        if key not in self._moments:
            teacher = copy.deepcopy(model).eval()
            readers = _readers(fixed_couplings(self.baseline, self._size, "group"))

            def keep(make: Callable[[], dict[str, Moments]]) -> dict[str, Moments]:
                state = self.store.made(key, lambda: {n: own.state() for n, own in make().items()}, context.pause)
                return {name: Moments.from_state(*own) for name, own in state.items()}

            self._moments[key] = Inputs(teacher, readers, images, context.pause, of_baseline=True, keep=keep)
        return self._moments[key]

    def _every(self, model: nn.Module, asked: Pruning) -> list[Coupling]:
        return prune.affected(model, self.baseline, asked, self.specs)

    def _removed(self, model: nn.Module, cut: Cut, context: Context) -> nn.Module:
        couplings = cut.couplings
        return remove(model, cut.keep, context.input_size, cut.mode, self.specs, couplings=couplings).eval()

    def _is_sequential(self, network: NetworkFacts, cut: Cut | None, settings: Params) -> bool:
        return repair.is_sequential(settings["fit"], network, cut, self._baseline_facts.macs)

    def _biased(self, network: NetworkFacts, cut: Cut | None, settings: Params) -> list[str]:
        """The layers that a refit may give a constant to."""
        if cut is None or self._is_sequential(network, cut, settings):
            return list(network.layers)
        return list(lost_inputs(cut.couplings, cut.keep))

    @property
    def _size(self) -> tuple[int, int, int]:
        return models.input_size(self.baseline)

    @property
    def _leaves(self) -> tuple[type[nn.Module], ...]:
        return leaf_types(self.specs)

    @property
    def _baseline_facts(self) -> NetworkFacts:
        if self._facts is None:
            self._facts = facts(self.baseline, self._size)
        return self._facts

    def _facts_of(self, model: nn.Module, context: Context, untouched: bool) -> NetworkFacts:
        return self._baseline_facts if untouched else facts(model, context.input_size, self._leaves)

    @staticmethod
    def _teacher(context: Context) -> nn.Module:
        assert context.teacher is not None
        return context.teacher

    def _divergence(self, model: nn.Module, images: Images, context: Context) -> float:
        """KL of the baseline's answers to the model's, on images that no moments saw."""
        if images.key not in self._logits:
            self._logits[images.key] = logits(self._teacher(context), images.held_out, context.device)
        return repair.divergence(model, self._logits[images.key], images.held_out, context.device)

    def _recalibrate(self, model: nn.Module, cut: Cut | None, context: Context) -> None:
        """Recomputes the running statistics of a network that lost channels and was not refitted.

        The inputs of its layers have changed.
        """
        if cut is None or context.transfer is None or "freeze_batch_norm" in context.transfer.demands:
            return
        pixels = context.input_size[1] * context.input_size[2]
        images = max(LEAST_RECALIBRATION, RECALIBRATION_PIXELS // pixels)
        split = context.transfer.calibration
        recalibrate_batch_norm(model, split, images=images, device=context.device, seed=self.seed)


def _readers(every: Sequence[Coupling]) -> list[str]:
    """The layers that read channels which could be removed."""
    return list(dict.fromkeys(name for coupling in every if coupling.prunable for name in coupling.consumers))


def rebuild(model: nn.Module, step: Mapping[str, Any], specs: Sequence[LayerSpec]) -> nn.Module:
    """The structure of a step of PRUNE or REPAIR, on the network that entered it, with no data."""
    return repair.rebuild(model, step["plan"]) if step["stage"] == REPAIR else prune.rebuild(model, step["plan"], specs)
