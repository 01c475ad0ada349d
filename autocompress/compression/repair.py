"""REPAIR: refits layers from moments of their inputs (docs/repair.md).

The stage is between the transforms and RECOVER.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn

from autocompress.channels.widths import kept_outputs, lost_inputs
from autocompress.compression.prune import Cut
from autocompress.compression.recorded import Scales
from autocompress.contract import Context, Plan
from autocompress.data import Split
from autocompress.errors import TrialFailed
from autocompress.files import digest
from autocompress.graph import LayerFacts, NetworkFacts, evaluating, facts, trace
from autocompress.recipes.settings import LEAST_IMAGES
from autocompress.repair import Lockstep, Moments, choose_ridge, gather, has_columns, repair, rescaled
from autocompress.repair.moments import prefix_tokens
from autocompress.repair.shifts import ensure_bias
from autocompress.task import Classification, Task
from autocompress.training import logits

VERSION = "3"
_CLASSES = Classification()
HELD_OUT, HELD_OUT_PIXELS, LEAST_HELD_OUT = 256, 256 * 64**2, 64
"""Images on which a repaired network must not be worse than before; at most a third of all.

Each recipe runs two networks on them: before and after the refit. If images are larger than
64 x 64 pixels, fewer of them are held out: down to 64 images.
"""
DEEP = 0.25
"""Networks with less than this share of the baseline's MACs are repaired sequentially."""
BATCH = 64


@dataclass
class Images:
    """The images of a repair: some for fitting, others for judging the result.

    Attributes:
        split: the images from which both are drawn.
        count: number of images to fit on.
        seed: seed of the draw.
        device: the device for the images.
        source: content key of the transfer set that ``split`` is a part of.
        synthetic: a data source made them.
    """

    split: Split
    count: int
    seed: int
    device: torch.device
    source: str
    synthetic: bool = False

    @property
    def key(self) -> str:
        """Content key of the images and of how they are drawn."""
        return digest(self.source, len(self.split), self.count, self.seed, self._most_held_out, LEAST_IMAGES)

    @property
    def _most_held_out(self) -> int:
        _, height, width = self.split.input_size
        return min(HELD_OUT, max(LEAST_HELD_OUT, HELD_OUT_PIXELS // (height * width)))

    @cached_property
    def _drawn(self) -> tuple[Split, Split]:
        order = torch.randperm(len(self.split), generator=torch.Generator().manual_seed(self.seed))
        held = min(self._most_held_out, len(order) // 3)
        fit = order[held : held + self.count].sort().values
        return self.split.take(fit), self.split.take(order[:held].sort().values)

    @property
    def to_fit(self) -> Split:
        """The images for the moments."""
        return self._drawn[0]

    @property
    def held_out(self) -> Split:
        """The images that are not used for moments."""
        return self._drawn[1]

    def batches(self) -> list[torch.Tensor]:
        """Images to fit on, ``[N, C, H, W]``."""
        return [images.to(self.device) for images, _ in self.to_fit.loader(BATCH)]

    @property
    def enough(self) -> bool:
        """Whether there are enough images for a refit."""
        return len(self.to_fit) >= LEAST_IMAGES


@dataclass
class Inputs:
    """Moments of the inputs of a network's layers, gathered on first use.

    Attributes:
        model: the network to repair, in eval mode; not changed.
        layers: the layers with moments, which are gathered together.
        images: images from which the moments are computed.
        pause: called between batches.
        of_baseline: the network is the baseline itself.
        scales: for synthetic images, the factors for the inputs of some layers
            (:func:`recorded.unlike`); None for images of the data.
        keep: called with a function that gathers the moments of all ``layers``; returns these
            moments, perhaps from the store.
    """

    model: nn.Module
    layers: Sequence[str]
    images: Images
    pause: Callable[[], None] | None = None
    of_baseline: bool = False
    scales: Callable[[], Scales] | None = None
    keep: Callable[[Callable[[], dict[str, Moments]]], dict[str, Moments]] | None = None
    _known: dict[str, Moments] | None = None

    def __call__(self, layers: Sequence[str]) -> Mapping[str, Moments]:
        """Moments of ``layers``; layers that cannot be refitted or never run are left out."""
        if self._known is None:
            self._known = (
                self._gather(self.layers) if self.keep is None else self.keep(partial(self._gather, self.layers))
            )
        if others := [name for name in layers if name not in self.layers]:
            self._known |= self._gather(others)
        return {name: self._known[name] for name in layers if name in self._known}

    def _gather(self, layers: Sequence[str]) -> dict[str, Moments]:
        chosen = _fit(self.model, layers)
        if not chosen:
            return {}
        seed, pause = self.images.seed, self.pause
        with _numbers_told():
            found = gather(self.model, chosen, self.images.batches, seed=seed, choose_ridge=choose_ridge, pause=pause)
        scales = {} if self.scales is None else self.scales()
        return {name: rescaled(own, scales[name]) if name in scales else own for name, own in found.items()}


def _fit(model: nn.Module, names: Iterable[str]) -> list[str]:
    """The layers that can be refitted: they have columns and share their weight with no other."""
    uses = Counter(id(weight) for module in model.modules() for weight in module.parameters(recurse=False))
    layers = {name: model.get_submodule(name) for name in names}
    return [name for name, layer in layers.items() if has_columns(layer) and uses[id(layer.weight)] == 1]


# --- changes of the structure by a repair ---------------------------------------------------------


def is_sequential(fit: str, network: NetworkFacts, cut: Cut | None, baseline_macs: int) -> bool:
    """Whether a compressed network is repaired front to back; depends on its structure only.

    Args:
        fit: fit of the recipe.
        network: the network that enters PRUNE.
        cut: the channels to remove from it; None if nothing is pruned. Then only a sequential
            repair is possible.
        baseline_macs: multiply-adds of the baseline.
    """
    if cut is None:
        return True
    if fit != "auto":
        return fit == "sequential"
    gated = any(layer.in_gate for layer in network.layers.values())
    substituted = network.macs != baseline_macs
    return gated or substituted or macs_left(network, cut) < DEEP * baseline_macs


def macs_left(network: NetworkFacts, cut: Cut) -> float:
    """Multiply-adds after the cut.

    Those outside layers, such as products in attention, are counted as if nothing were removed.
    """
    lost, kept = lost_inputs(cut.couplings, cut.keep), kept_outputs(cut.couplings, cut.keep)
    total = float(network.other_macs)
    for name, layer in network.layers.items():
        inputs = 1 - len(lost.get(name, ())) / max(layer.in_channels, 1)
        outputs = len(kept[name]) / max(layer.out_channels, 1) if name in kept else 1.0
        total += layer.macs * inputs * outputs
    return total


def add_biases(model: nn.Module, layers: Sequence[str], network: Mapping[str, LayerFacts]) -> list[str]:
    """Adds a bias of zeros to each layer that has none, so that a refit can add constants.

    A layer gets none if the norm behind it has a running mean, which can be shifted instead.

    Returns:
        The layers that got one.
    """
    added = []
    for name in _fit(model, [name for name in layers if name in network]):
        had = model.get_submodule(name).bias is not None
        if ensure_bias(model, name, network[name].norm) is not None and not had:
            added.append(name)
    return added


def rebuild(model: nn.Module, plan: Plan) -> nn.Module:
    """Gives ``model`` the structure that it has after a repair, in place."""
    for name in plan["biases"]:
        ensure_bias(model, name, None)
    return model


@contextmanager
def _numbers_told() -> Iterator[None]:
    """Turns errors of ``autocompress.repair`` about images and numbers into a failed trial.

    Raises:
        TrialFailed: for NaN and infinite values, and if there are no images.
    """
    try:
        yield
    except ValueError as error:
        raise TrialFailed(f"no layer can be refitted: {error}") from error


# --- the repair itself ----------------------------------------------------------------------------


def one_shot(
    model: nn.Module, cut: Cut, network: NetworkFacts, inputs: Callable[[Sequence[str]], Mapping[str, Moments]]
) -> list[str]:
    """Refits each reader of channels that will be removed, in place, before they are removed.

    Args:
        model: the network that enters PRUNE.
        cut: the channels that will be removed.
        network: facts about it.
        inputs: gives moments of its layers.

    Returns:
        The refitted layers.
    """
    lost = lost_inputs(cut.couplings, cut.keep)
    norms = {name: layer.norm for name, layer in network.layers.items()}
    moments = inputs(list(lost))
    with _numbers_told():
        return repair(model, lost, moments, norms)


def sequential(
    model: nn.Module,
    original: nn.Module,
    cut: Cut | None,
    context: Context,
    images: Images,
    leaves: tuple[type[nn.Module], ...] = (),
    unlike: Collection[str] = (),
) -> tuple[list[str], list[str]]:
    """Refits every layer whose inputs differ from the original's, front to back, in place.

    Args:
        model: compressed.
        original: the baseline.
        cut: the channels that were removed; None if nothing was pruned.
        context: context of the stage.
        images: images to fit on.
        leaves: layer types that stay whole in the graph.
        unlike: layers whose inputs have other statistics on the images than on the data.

    Returns:
        The refitted layers, and the layers that keep their old weights because the new ones were
        worse on held-out images.
    """
    network = facts(model, context.input_size, leaves)
    whole = facts(original, context.input_size, leaves)
    shared = [name for name in network.layers if name in whole.layers]
    # Checked in both networks: after channels are removed, layers no longer share a weight.
    names = _fit(original, _fit(model, shared))
    kept = {} if cut is None else kept_outputs(cut.couplings, cut.keep)
    with evaluating(model), evaluating(original):
        lockstep = Lockstep(
            trace(original, leaves),
            trace(model, leaves),
            kept,
            {name: layer.norm for name, layer in network.layers.items()},
            unlike,
            seed=images.seed,
            first=prefix_tokens(original),
        )
        with _numbers_told():
            report = lockstep.repair(images.batches(), names)
    return report.refitted, report.undone


def divergence(model: nn.Module, teacher_logits: torch.Tensor, split: Split, device: torch.device) -> float:
    """Mean divergence from the teacher on ``split``; infinite for outputs that are not finite."""
    return kl_of(logits(model, split, device), teacher_logits, split.task)


def kl_of(student: torch.Tensor, teacher: torch.Tensor, task: Task = _CLASSES) -> float:
    """Mean divergence of ``student`` from ``teacher``; infinite if outputs are not finite.

    For classes, it is KL(teacher || student) in nats of logits ``[N, classes]``.
    """
    value = float(task.total_divergence(teacher, student) / len(student))
    return value if math.isfinite(value) else math.inf


def record(biases: Sequence[str], told: Mapping[str, Any] | None = None) -> Plan:
    """The plan of a repair."""
    return {"biases": list(biases), **(told or {})}
