"""PRUNE and REPAIR of one recipe: both need the network before channels are removed."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from autocompress import models
from autocompress.channels.known import fixed_couplings, known_couplings
from autocompress.channels.removal import remove
from autocompress.channels.widths import lost_inputs
from autocompress.compression import prune, repair
from autocompress.compression.prune import Cut
from autocompress.compression.recorded import Scales, unlike
from autocompress.compression.repair import Images, Inputs
from autocompress.compute import Compute
from autocompress.contract import Context, Coupling, LayerSpec, Params, Plan, Pruner, TransferSet
from autocompress.errors import TrialFailed
from autocompress.files import digest
from autocompress.graph import NetworkFacts, facts
from autocompress.models.health import faulty_tensor
from autocompress.quantization.leaves import leaf_types
from autocompress.recipes.pruning import Pruning, prunable
from autocompress.repair import Moments
from autocompress.store import Store, unpack
from autocompress.training import computed_with, logits, recalibrate_batch_norm

RECALIBRATION_PIXELS = 512 * 32 * 32
"""Pixels of all images for recalibration. Fewer large images are needed."""
LEAST_RECALIBRATION = 64
PRUNE, REPAIR = "prune", "repair"


@dataclass(frozen=True)
class OfBaseline:
    """Orders and moments of the baseline.

    Attributes:
        orders: for each coupling of one mode, its channels, least needed first.
        moments: moments of the inputs of each layer that reads channels.
        images: the images for the moments, and held-out images.
        key: content key of all these.
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
        specs: descriptions of the layer types that plugins bring.
        store: the store for moments and orders of the baseline.
        seed: random seed of the job.
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

    # --- content keys -----------------------------------------------------------------------------

    def key(
        self,
        asked: Pruning | None,
        settings: Params,
        pruner: Pruner | None,
        transfer: TransferSet | None,
        compute: Compute,
        entering: str,
        *,
        untouched: bool,
    ) -> str | None:
        """Content key of the result of both stages; None while the pruner's order is not known.

        Args:
            asked, settings, pruner, entering, untouched: as for :meth:`run`.
            transfer: images of the recipe.
            compute: where and how torch computes.
        """
        about: list[Any] = [entering, "prune and repair", repair.VERSION, settings]
        if asked is None or pruner is None:
            return digest(*about)
        assert transfer is not None
        images = self._images_of(settings, transfer, compute.device)
        orders = self._found_orders(self._orders_key(asked, pruner, images, compute, "" if untouched else entering))
        if orders is None:
            return None
        return digest(*about, prune.VERSION, pruner.version, asked.record(), images.key, orders)

    # --- without data -----------------------------------------------------------------------------

    def dry(
        self, model: nn.Module, asked: Pruning | None, settings: Params, context: Context, *, untouched: bool
    ) -> nn.Module:
        """The structure after both stages, without the deployed weights.

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
        entering: str = "",
    ) -> tuple[nn.Module, list[Plan]]:
        """Removes the channels that the recipe does not keep, and refits the remaining weights.

        Args:
            model: the network that enters PRUNE, on ``context.device``; changed.
            asked: parameters of PRUNE; None if nothing is pruned.
            settings: settings of REPAIR.
            pruner: orders the channels.
            context: context with the images and the pruner's state.
            seconds: gets the time of each stage.
            untouched: ``model`` is still the baseline.
            entering: content key of ``model``. If it is empty, orders are only stored for the
                baseline.

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
            orders = self.orders(model, every, asked, pruner, inputs, context, entering)
            cut = prune.decide(every, self.baseline, asked, orders)
            plan = cut.plan(context.input_size)
            steps.append({"stage": PRUNE, "method": pruner.name, "version": pruner.version, "plan": plan})
            seconds[PRUNE] = time.perf_counter() - started
        context.pause()
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
            fitted, strange = copy.deepcopy(plain), list(self._unlike(images, context))
            teacher = self._teacher(context)
            refitted, undone = repair.sequential(fitted, teacher, cut, context, images, self._leaves, strange)
        else:
            assert cut is not None
            refitted = repair.one_shot(model, cut, network, inputs)
            strange = [name for name, own in inputs(refitted).items() if own.rescaled]
            context.pause()
            fitted = self._removed(model, cut, context)
        context.pause()
        before, after = (self._divergence(candidate, images, context) for candidate in (plain, fitted))
        told: dict[str, Any] = {
            "fit": "sequential" if sequential else "one-shot",
            "refitted": len(refitted),
            "undone": len(undone),
            "divergence": [round(before, 6), round(after, 6)],
        }
        if images.synthetic:
            told["unlike"] = len(set(strange) & set(refitted))
        if after <= before:
            return fitted, repair.record(biases, told)
        self._recalibrate(plain, cut, context)
        return plain, repair.record(biases, {**told, "refitted": 0, "undone": len(refitted) + len(undone)})

    # --- parts ------------------------------------------------------------------------------------

    def images(self, settings: Params, context: Context) -> Images:
        """The images for a repair with ``settings``."""
        assert context.transfer is not None
        return self._images_of(settings, context.transfer, context.device)

    def _images_of(self, settings: Params, transfer: TransferSet, device: torch.device) -> Images:
        count = int(settings.get("images", 512))
        return Images(transfer.calibration, count, self.seed, device, transfer.digest, synthetic=transfer.synthetic)

    def of_baseline(self, asked: Pruning, settings: Params, pruner: Pruner, context: Context) -> OfBaseline:
        """Orders and moments of the baseline, from the store or newly made.

        Arguments as for :meth:`run`.
        """
        images = self.images(settings, context)
        orders, inputs = self.baseline_orders(asked, settings, pruner, context)
        key = self._orders_key(asked, pruner, images, context.compute)
        return OfBaseline(orders, inputs(inputs.layers), images, key)

    def baseline_orders(
        self, asked: Pruning, settings: Params, pruner: Pruner, context: Context
    ) -> tuple[dict[str, list[int]], Inputs]:
        """Orders of the baseline's couplings from the store, and a function for its moments."""
        model = copy.deepcopy(self.baseline).to(context.device)
        inputs = self._inputs(model, self.images(settings, context), context, untouched=True)
        every = self._every_of_baseline(asked.mode)
        return self.orders(model, every, asked, pruner, inputs, context), inputs

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
        entering: str = "",
    ) -> dict[str, list[int]]:
        """The orders of the couplings that lose channels.

        For the baseline, all couplings get an order. Orders are stored.
        """
        context = replace(context, model=model, moments=inputs)
        of_baseline = inputs.of_baseline
        asking = prunable(self.baseline, asked.mode) if of_baseline else prune.losing(every, self.baseline, asked)
        if not of_baseline and not entering:
            return prune.orders_of(pruner, asking, asked.params, context)
        key = self._orders_key(asked, pruner, inputs.images, context.compute, "" if of_baseline else entering)
        if (known := self._found_orders(key)) is None:

            def make() -> Any:
                return {"orders": prune.orders_of(pruner, asking, asked.params, context)}

            known = self._orders[key] = self.store.made(key, make, context.pause)["orders"]
        return known

    def _found_orders(self, key: str) -> dict[str, list[int]] | None:
        """Orders from the store, made earlier by this or another process."""
        if key not in self._orders and self.store.has(key) and (found := self.store.get(key)) is not None:
            self._orders[key] = unpack(found[0], found[1]["state"])["orders"]
        return self._orders.get(key)

    def _orders_key(self, asked: Pruning, pruner: Pruner, images: Images, compute: Compute, entering: str = "") -> str:
        """Content key of orders; ``entering`` is that of a transformed network, else empty."""
        own = [pruner.name, pruner.version, asked.params, asked.mode]
        network: list[Any] = [entering, asked.record()] if entering else [self.baseline_key]
        return digest("orders", prune.VERSION, *own, *network, images.key, computed_with(compute))

    def _inputs(self, model: nn.Module, images: Images, context: Context, untouched: bool) -> Inputs:
        """Moments of the network that enters the stages; those of the baseline are kept."""
        if not untouched:
            every = known_couplings(model, self._size, "group", self.specs)
            inputs = Inputs(model, _readers(every), images, context.pause)
            if images.synthetic:
                network = self._facts_of(model, context, untouched)
                inputs.scales = partial(unlike, model, network, every, images.batches, context.pause)
            return inputs
        key = digest("moments", repair.VERSION, self.baseline_key, images.key, computed_with(context.compute))
        if key not in self._moments:
            teacher = copy.deepcopy(model).eval()
            readers = _readers(fixed_couplings(self.baseline, self._size, "group"))

            def keep(make: Callable[[], dict[str, Moments]]) -> dict[str, Moments]:
                state = self.store.made(key, lambda: {n: own.state() for n, own in make().items()}, context.pause)
                return {name: Moments.from_state(*own) for name, own in state.items()}

            self._moments[key] = Inputs(teacher, readers, images, context.pause, of_baseline=True, keep=keep)
            if images.synthetic:
                self._moments[key].scales = partial(self._unlike, images, context)
        return self._moments[key]

    def _unlike(self, images: Images, context: Context) -> Scales:
        """The inputs of the baseline that have other statistics on the images than on the data."""
        if not images.synthetic:
            return {}
        every = fixed_couplings(self.baseline, self._size, "group")
        return unlike(self._teacher(context), self._baseline_facts, every, images.batches, context.pause)

    def _every(self, model: nn.Module, asked: Pruning) -> list[Coupling]:
        return prune.affected(model, self.baseline, asked, self.specs)

    def _removed(self, model: nn.Module, cut: Cut, context: Context) -> nn.Module:
        couplings = cut.couplings
        return remove(model, cut.keep, context.input_size, cut.mode, self.specs, couplings=couplings).eval()

    def _is_sequential(self, network: NetworkFacts, cut: Cut | None, settings: Params) -> bool:
        return repair.is_sequential(settings["fit"], network, cut, self._baseline_facts.macs)

    def _biased(self, network: NetworkFacts, cut: Cut | None, settings: Params) -> list[str]:
        """The layers to which a refit may add a constant."""
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
        """KL divergence of the model from the baseline, on images not used for moments."""
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
    """The layers that read removable channels."""
    return list(dict.fromkeys(name for coupling in every if coupling.prunable for name in coupling.consumers))


def rebuild(model: nn.Module, step: Mapping[str, Any], specs: Sequence[LayerSpec]) -> nn.Module:
    """Applies the structure of a PRUNE or REPAIR step to the network before it, without data."""
    return repair.rebuild(model, step["plan"]) if step["stage"] == REPAIR else prune.rebuild(model, step["plan"], specs)
