"""Parameters of QUANTIZE: a quantizer and numbers of bits for each group of layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from autocompress.contract import Quantizer, Space


@dataclass(frozen=True)
class GroupBits:
    """Quantizer and bits of one group, for weights and for activations."""

    weight_quantizer: str
    weight_bits: int
    activation_quantizer: str
    activation_bits: int


def compose_bits(space: Space, model: nn.Module, quantizers: Sequence[Quantizer]) -> dict[str, GroupBits]:
    """For each group "none", or a weight quantizer, its bits, and the bits of activations."""
    activation_quantizer = next((q for q in quantizers if q.activation_bits), None)
    if not quantizers or activation_quantizer is None:
        return {}
    widths = {f"{q.name}:{bits}": (q, bits) for q in quantizers for bits in q.weight_bits}
    cheapest = min(widths, key=lambda choice: widths[choice][1])
    recommended = min(widths, key=lambda choice: (abs(widths[choice][1] - 8), choice))
    chosen: dict[str, GroupBits] = {}
    for group in space.groups(model):
        choice = space.categorical(
            f"weight.{group}",
            ["none", *widths],
            default=recommended,
            cheapest=cheapest,
            neutral="none",
            scope="group",
            axis="weight bits",
        )
        if choice == "none":
            continue
        quantizer, bits = widths[choice]
        of_activations = quantizer if quantizer.activation_bits else activation_quantizer
        offered = list(of_activations.activation_bits)
        activation_bits = space.categorical(
            f"activation.{group}",
            offered,
            default=max(offered),
            cheapest=min(offered),
            neutral=max(offered),
            scope="group",
            axis="activation bits",
        )
        chosen[group] = GroupBits(quantizer.name, bits, of_activations.name, activation_bits)
    return chosen
