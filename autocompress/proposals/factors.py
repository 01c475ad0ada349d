"""Costs as sums of small tables, because the cost of a layer depends on few parts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autocompress.contract.coupling import Coupling
from autocompress.graph import NetworkFacts
from autocompress.proposals.choices import Part

STRUCTURE = "structure"
"""The axis of shares of channels to keep in couplings."""
WHOLE = 2
"""A layer with at most this number of couplings has a single table."""
NOTHING = 1e-12


@dataclass(frozen=True)
class Factor:
    """A cost that depends on some parts: an entry for each combination of their choices.

    Attributes:
        parts: keys of the parts, one per dimension of ``table``.
        table: float64.
    """

    parts: tuple[str, ...]
    table: np.ndarray


@dataclass(frozen=True)
class Layer:
    """The properties of a layer that decide its cost; couplings decide its widths.

    Attributes:
        name: module path.
        kind: "dense", "grouped", "depthwise" or "linear".
        inputs, outputs: full widths.
        groups: number of groups of a convolution.
        taps: weights for each pair of an input and an output: the area of the kernel.
        positions: output positions of one image.
        reads, writes: for each coupling, the number of inputs (or outputs) of the layer in it.
    """

    name: str
    kind: str
    inputs: int
    outputs: int
    groups: int
    taps: int
    positions: int
    reads: Mapping[str, int]
    writes: Mapping[str, int]


def layers_of(network: NetworkFacts, couplings: Sequence[Coupling]) -> list[Layer]:
    """Every convolution and linear layer with its couplings, in network order."""
    reads: dict[str, dict[str, int]] = {name: {} for name in network.layers}
    writes: dict[str, dict[str, int]] = {name: {} for name in network.layers}
    for coupling in couplings:
        for part in coupling.parts:
            if part.layer not in network.layers:
                continue
            count = len({place for indices in part.index for place in indices})
            if part.side in ("in", "both"):
                reads[part.layer][coupling.name] = count
            if part.side in ("out", "both"):
                writes[part.layer][coupling.name] = count
    found = []
    for name, facts in network.layers.items():
        weights = facts.kernel_size[0] * facts.kernel_size[1]
        outputs = max(facts.out_channels, 1)
        per_position = outputs * weights * max(facts.in_channels // facts.groups, 1)
        found.append(
            Layer(
                name=name,
                kind=_kind(facts.kind, facts.groups, facts.in_channels),
                inputs=facts.in_channels,
                outputs=facts.out_channels,
                groups=facts.groups,
                taps=weights,
                positions=max(1, round(facts.macs / per_position)) if facts.macs else 1,
                reads=reads[name],
                writes=writes[name],
            )
        )
    return found


def layer_widths(layers: Sequence[Layer], shares: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Kept inputs and outputs of each layer, for shares of channels kept in couplings.

    Args:
        layers: layers of the network.
        shares: share of kept channels by coupling; 1 for a coupling that is not named.
    """

    def left(width: int, own: Mapping[str, int]) -> float:
        return width - sum(count * (1 - shares.get(name, 1.0)) for name, count in own.items())

    return {layer.name: (left(layer.inputs, layer.reads), left(layer.outputs, layer.writes)) for layer in layers}


def _kind(kind: str, groups: int, inputs: int) -> str:
    if kind != "conv":
        return "linear" if kind == "linear" else kind
    if groups == 1:
        return "dense"
    return "depthwise" if groups == inputs else "grouped"


@dataclass(frozen=True)
class Widths:
    """Widths of a layer for combinations of choices, as arrays that broadcast.

    Attributes:
        layer: the layer.
        inputs, outputs: kept channels, float64.
        choices: for each further axis, the value of the choice in each combination.
    """

    layer: Layer
    inputs: np.ndarray
    outputs: np.ndarray
    choices: Mapping[str, np.ndarray]

    @property
    def macs(self) -> np.ndarray:
        """Multiply-adds per image."""
        return self.weights * self.layer.positions

    @property
    def weights(self) -> np.ndarray:
        """Number of entries of the weight tensor."""
        if self.layer.kind == "depthwise":
            return self.outputs * self.layer.taps
        return self.inputs * self.outputs * self.layer.taps / self.layer.groups


Cost = Callable[[Widths], np.ndarray]
"""The cost of a layer at some widths."""


def factors(
    layers: Sequence[Layer],
    parts: Sequence[Part],
    kept: Mapping[str, Sequence[float]],
    cost: Cost,
    groups: Mapping[str, str] | None = None,
) -> list[Factor]:
    """Tables of costs for each layer, over the choices of its parts.

    Args:
        layers: layers of the network.
        parts: a part of axis ``STRUCTURE`` belongs to the layers of its coupling, a part of another
            axis to the layers of its group.
        kept: for each coupling, the share of channels kept by each choice, 0 to 1.
        cost: cost of one layer. If a layer has more than ``WHOLE`` couplings (behind a
            concatenation), its cost must be a sum of products of inputs and outputs. All costs in
            this module are such sums.
        groups: group of each layer; None if structure is the only axis.
    """
    structure = {part.name: part for part in parts if part.axis == STRUCTURE}
    others: dict[str, list[Part]] = {}
    for part in parts:
        if part.axis != STRUCTURE:
            others.setdefault(part.name, []).append(part)
    found = []
    for layer in layers:
        own = [structure[name] for name in dict.fromkeys([*layer.reads, *layer.writes]) if name in structure]
        found += _terms(layer, own, others.get((groups or {}).get(layer.name, ""), []), kept, cost)
    return found


def _terms(
    layer: Layer, own: Sequence[Part], others: Sequence[Part], kept: Mapping[str, Sequence[float]], cost: Cost
) -> list[Factor]:
    """One table for a layer of at most ``WHOLE`` couplings; otherwise one per coupling and pair.

    Let f_A be the cost where only the couplings in A lose channels. Then

        f = f_0 + sum_a (f_a - f_0) + sum_ab (f_ab - f_a - f_b + f_0)

    is exact for every cost that is a sum of products of inputs and outputs.
    """

    def table(chosen: Sequence[Part]) -> np.ndarray:
        every = [*chosen, *others]
        place = {part.key: axis for axis, part in enumerate(every)}
        structure = {part.name: part for part in chosen}
        choices = {part.axis: _along(np.array(part.choices), place[part.key], len(every)) for part in others}
        inputs, outputs = (
            _width(full, couplings, structure, kept, place)
            for full, couplings in ((layer.inputs, layer.reads), (layer.outputs, layer.writes))
        )
        own_cost = np.asarray(cost(Widths(layer, inputs, outputs, choices)), dtype=float)
        return np.broadcast_to(own_cost, tuple(len(part.choices) for part in every)).copy()

    def factor(chosen: Sequence[Part], values: np.ndarray) -> Factor:
        return Factor(tuple(part.key for part in (*chosen, *others)), values)

    if len(own) <= WHOLE:
        return [factor(own, table(own))]
    base = table([])
    singles = [table([part]) - base for part in own]
    terms = [factor([], base), *(factor([part], values) for part, values in zip(own, singles, strict=True))]
    for (first, alone), (second, other) in itertools.combinations(zip(own, singles, strict=True), 2):
        both = table([first, second]) - alone[:, None] - other[None, :] - base
        if np.abs(both).max() > NOTHING * max(np.abs(base).max(), NOTHING):
            terms.append(factor([first, second], both))
    return terms


def _width(
    full: int,
    couplings: Mapping[str, int],
    structure: Mapping[str, Part],
    kept: Mapping[str, Sequence[float]],
    place: Mapping[str, int],
) -> np.ndarray:
    width = np.full((1,) * len(place), float(full))
    for name, count in couplings.items():
        if name in structure:
            lost = count * (1 - np.asarray(kept[name], dtype=float))
            width = width - _along(lost, place[structure[name].key], len(place))
    return width


def _along(values: np.ndarray, axis: int, dimensions: int) -> np.ndarray:
    return values.reshape([-1 if place == axis else 1 for place in range(dimensions)])


def macs(widths: Widths) -> np.ndarray:
    """Multiply-adds for one image."""
    return widths.macs


def parameters(widths: Widths) -> np.ndarray:
    """Weights, and a bias per output."""
    return widths.weights + widths.outputs


def size_bytes(weight_bits: float = 32.0, axis: str = "weight_bits") -> Cost:
    """Bytes of weights, of a bias for each output, and of a scale for each output below 32 bits.

    Args:
        weight_bits: weight bits of layers without a choice of bits.
        axis: the axis of parts that choose bits.
    """

    def cost(widths: Widths) -> np.ndarray:
        bits = widths.choices.get(axis, np.array(weight_bits))
        return widths.weights * bits / 8 + widths.outputs * (4.0 if weight_bits >= 32 else 8.0)

    return cost


def energy(per_mac: Callable[[np.ndarray, np.ndarray], np.ndarray], bits: float = 8.0) -> Cost:
    """Energy of the multiply-adds.

    Args:
        per_mac: energy of one multiply-add, from arrays of weight bits and activation bits.
        bits: bits of weights and activations of layers without a choice of bits.
    """

    def cost(widths: Widths) -> np.ndarray:
        weight = widths.choices.get("weight_bits", np.array(bits))
        activation = widths.choices.get("activation_bits", np.array(bits))
        return widths.macs * per_mac(weight, activation)

    return cost
