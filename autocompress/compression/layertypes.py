"""The layer types of methods, and their consequences for a network."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from autocompress.contract import LayerSpec, Method
from autocompress.quantization.leaves import leaf_types


def layer_specs(methods: Sequence[Method]) -> list[LayerSpec]:
    """The layer types that ``methods`` bring."""
    return [spec for method in methods for spec in method.layers]


def leaves(methods: Sequence[Method]) -> tuple[type[nn.Module], ...]:
    """The layer types of ``methods`` that the traced graph keeps whole."""
    return leaf_types(layer_specs(methods))


def slow_in_file(model: nn.Module, specs: Sequence[LayerSpec]) -> str:
    """The reason why a standard runtime is slow with ``model``; empty if no layer type has one."""
    reasons = [spec.slow_in_file for spec in specs if any(isinstance(m, spec.layer_type) for m in model.modules())]
    return "; ".join(dict.fromkeys(reason for reason in reasons if reason))
