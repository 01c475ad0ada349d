"""Measures the loss of the repaired network when couplings keep a share of their channels."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from autocompress.channels.masking import mask_inputs
from autocompress.channels.widths import lost_inputs
from autocompress.contract.coupling import Coupling
from autocompress.graph import NetworkFacts, UntraceableModel, evaluating, trace
from autocompress.graph.partial import PartialRunner
from autocompress.proposals.choices import Part, Selection
from autocompress.proposals.factors import STRUCTURE
from autocompress.repair import Moments, curve, repair
from autocompress.repair.shifts import norm_scale
from autocompress.task import Classification, Task

SIXTEENTHS = tuple(count / 16 for count in range(16, 0, -1))
"""Shares of channels to keep in a coupling."""
Divergence = Callable[[torch.Tensor, torch.Tensor], float]
"""Divergence of the second outputs from the first, at least 0."""


def divergence_of(task: Task, reference: torch.Tensor, outputs: torch.Tensor) -> float:
    """The task's mean divergence of ``outputs`` from ``reference``, computed in float64."""
    return float(task.divergences(reference.double(), outputs.double()).mean())


def kl_divergence(reference: torch.Tensor, logits: torch.Tensor) -> float:
    """Mean KL divergence of softmax(logits) from softmax(reference), in nats."""
    return divergence_of(Classification(), reference, logits)


def structure_part(coupling: Coupling, multiple: int = 1, shares: Sequence[float] = SIXTEENTHS) -> Part:
    """The part with the shares of channels that a coupling can keep.

    Of several shares with the same number of channels, it has the largest.

    Args:
        coupling: the coupling.
        multiple: counts are rounded up to a multiple, as in ``Coupling.kept``.
        shares: decreasing, beginning with 1.
    """
    counts: dict[int, float] = {}
    for share in shares:
        counts.setdefault(sum(coupling.kept(1 - share, multiple)), share)
    return Part(coupling.name, STRUCTURE, tuple(counts.values()))


def kept_shares(part: Part, coupling: Coupling, multiple: int = 1) -> list[float]:
    """The actual share of channels kept by each choice of a coupling, after rounding."""
    return [sum(coupling.kept(1 - float(share), multiple)) / coupling.channels for share in part.choices]


def keep_set(coupling: Coupling, order: Sequence[int], share: float, multiple: int = 1) -> list[int]:
    """The channels to keep, ascending.

    Args:
        coupling: the coupling.
        order: its channels, least needed first.
        share: share of channels to keep, 0 to 1.
        multiple: see :func:`structure_part`.
    """
    return coupling.left_by(order, coupling.kept(1 - share, multiple))


def error_curve(
    model: nn.Module,
    coupling: Coupling,
    order: Sequence[int],
    moments: Mapping[str, Moments],
    norms: Mapping[str, str | None],
) -> np.ndarray:
    """Relative error of the repaired readers of a coupling, for every number of removed channels.

    The error of each reader is divided by the variance of its output; the quotients are summed.
    Errors have the precision of the moments: float32 is enough for an interpolation, and half as
    expensive as float64.

    Returns:
        float64 ``[channels + 1]``, entry 0 is 0.
    """
    total = np.zeros(coupling.channels + 1)
    for name, index in coupling.consumers.items():
        own = moments.get(name)
        if own is None:
            continue
        layer = model.get_submodule(name)
        matrix = own.columns.weight(layer)
        if own.covariance is not None:
            matrix = matrix.to(own.covariance.dtype)
        scale = norm_scale(model, norms.get(name), matrix.shape[0] * matrix.shape[1]).view(matrix.shape[:2]).square()
        scale = scale.to(matrix.dtype)
        whole = float((own.energy(matrix) * scale).sum())
        if whole > 0:
            total += curve(matrix, own, index, order, scale).numpy() / whole
    return total


class RemovedChannels:
    """Measures divergences of a repaired network that keeps only some channels of couplings.

    The network keeps its full width, with zeros in the inputs of readers. The outputs are the same
    as without these channels. Only the layers behind the first changed one run again.
    """

    def __init__(
        self,
        model: nn.Module,
        network: NetworkFacts,
        couplings: Sequence[Coupling],
        orders: Mapping[str, Sequence[int]],
        moments: Mapping[str, Moments],
        batches: Sequence[torch.Tensor],
        *,
        multiple: int = 1,
        divergence: Divergence = kl_divergence,
        repaired: bool = True,
    ) -> None:
        """Runs the network once.

        Args:
            model: the baseline; it is not changed.
            network: facts about it.
            couplings: those in ``orders``, and maybe more.
            orders: channels of each coupling, least needed first.
            moments: moments of the inputs of the layers that read the couplings.
            batches: images that were not used for the moments, on the device of the model.
            multiple: see :func:`structure_part`.
            divergence: computes the divergence between two batches of outputs.
            repaired: whether layers that lose inputs are refitted.
        """
        self._repaired = repaired
        self.model = copy.deepcopy(model).eval()
        self.couplings = {coupling.name: coupling for coupling in couplings if coupling.name in orders}
        self._orders, self._moments, self._multiple = orders, moments, multiple
        self._in_float32 = {name: own.in_float32() for name, own in moments.items()}
        self._norms = {name: layer.norm for name, layer in network.layers.items()}
        self._divergence = divergence
        self._batches = list(batches)
        try:
            self._runner: PartialRunner | None = PartialRunner(trace(self.model))
        except UntraceableModel:
            self._runner = None
        with evaluating(self.model):
            self._reference = torch.cat(self._answers(None))

    def parts(self) -> list[Part]:
        """A part for each coupling."""
        return [structure_part(coupling, self._multiple) for coupling in self.couplings.values()]

    def keep(self, parts: Sequence[Part], selection: Selection) -> dict[str, list[int]]:
        """The kept channels of every coupling that a selection changes."""
        return {
            part.name: keep_set(
                self.couplings[part.name],
                self._orders[part.name],
                float(part.choices[selection[part.key]]),
                self._multiple,
            )
            for part in parts
            if selection.get(part.key, 0) and part.axis == STRUCTURE
        }

    def errors(self, part: Part) -> np.ndarray:
        """Relative output error of each choice of a coupling, for the interpolation."""
        coupling = self.couplings[part.name]
        whole = error_curve(self.model, coupling, self._orders[part.name], self._in_float32, self._norms)
        kept = [round(share * coupling.channels) for share in kept_shares(part, coupling, self._multiple)]
        return np.array([whole[coupling.channels - count] for count in kept])

    def measure(self, keep: Mapping[str, Sequence[int]]) -> float:
        """Divergence of the repaired network with these channels.

        Args:
            keep: channels to keep by coupling; couplings that are not named keep all.
        """
        lost = lost_inputs(list(self.couplings.values()), keep)
        if not lost:
            return 0.0
        with evaluating(self.model):
            if self._runner is not None:
                self._runner.advance(self._runner.first_call(lost))
            chosen = [self.couplings[name] for name in keep]
            with self._changed(lost):
                handles = mask_inputs(self.model, chosen, keep)
                try:
                    outputs = torch.cat(self._answers(lost))
                finally:
                    for handle in handles:
                        handle.remove()
        return self._divergence(self._reference, outputs)

    def _answers(self, lost: Mapping[str, Sequence[int]] | None) -> list[torch.Tensor]:
        if self._runner is None:
            return [self.model(batch) for batch in self._batches]
        return self._runner.answers(self._batches) if lost is None else self._runner.rest()

    @contextmanager
    def _changed(self, lost: Mapping[str, Sequence[int]]) -> Iterator[None]:
        """Context with repaired layers; they are restored afterwards."""
        names = [*lost, *(norm for name in lost if (norm := self._norms.get(name)) is not None)]
        touched = [self.model.get_submodule(name) for name in names]
        before = [{key: value.clone() for key, value in module.state_dict().items()} for module in touched]
        added = [module for module in touched if getattr(module, "bias", 0) is None]
        try:
            if self._repaired:
                repair(self.model, lost, self._in_float32, self._norms)
            yield
        finally:
            for module in added:
                module.bias = None  # type: ignore[assignment]
            for module, state in zip(touched, before, strict=True):
                module.load_state_dict(state)
