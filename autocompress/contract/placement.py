"""Which operators a runtime computes on integers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class PlacementTable:
    """Where a runtime fuses quantizers into operators. The defaults are those of ONNX Runtime.

    Convolutions and linear layers always have integer kernels.

    Attributes:
        kernels: operators with integer kernels, which need all inputs quantized.
        activations: activations with an integer kernel.
        moves: operators that only move values, so they run on the integers of their input.
        float_outputs: layers with an integer kernel that can output floats at no cost, so that
            logits are not rounded.
    """

    kernels: frozenset[str] = frozenset({"add", "multiply", "concat", "average_pool", "global_pool", "sigmoid"})
    activations: frozenset[str] = frozenset({"leakyrelu", "hardsigmoid"})
    moves: frozenset[str] = frozenset({"reshape", "transpose", "max_pool", "split", "getitem"})
    float_outputs: frozenset[str] = frozenset({"linear"})

    def record(self) -> dict[str, list[str]]:
        """The table as JSON, for plans and content keys; empty for the defaults."""
        return {} if self == PlacementTable() else {name: sorted(own) for name, own in asdict(self).items()}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> PlacementTable:
        """The table of a :meth:`record`."""
        return cls(**{name: frozenset(own) for name, own in record.items()})

    def faults(self) -> list[str]:
        """Words that a field of the table cannot have, because its default does not have them."""
        default = PlacementTable()
        return [
            f"{field.name}: {word}"
            for field in fields(self)
            for word in sorted(getattr(self, field.name) - getattr(default, field.name))
        ]
