"""Advice on which layers to exclude from compression, as lines for the ``space:`` of a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autocompress.layer_errors import Kept, LayerError

SHARE = 0.8
"""Layers are named, worst first, until they make up this share of all divergences."""
MOST_LAYERS = 8
NO_DIVERGENCE = 1e-6
"""Layers with at most this divergence, in nats, are ignored."""


def exclusions(layers: Sequence[LayerError], kept: Mapping[str, Kept], plan: Mapping[str, Any]) -> list[str]:
    """The lines, the worst layer first.

    For each named layer, the lines keep the weights of its quantization group in float, and all
    channels of the couplings that it writes or reads.

    Layers are ordered by ``own_kl`` (only this layer is compressed). If it is None, ``kl`` is used,
    which includes the layers before.

    Args:
        layers: the compared layers.
        kept: remaining channels, by layer.
        plan: plan of the artifact.
    """
    lines: dict[str, list[str]] = {}
    for error in _worst(layers):
        for line in _lines(error.layer, kept[error.layer], plan):
            lines.setdefault(line, []).append(f"{error.layer} {_weight(error):.3g}")
    return [f"{line}  # nats: {', '.join(names)}" for line, names in lines.items()]


def _weight(error: LayerError) -> float:
    return error.kl if error.own_kl is None else error.own_kl


def _worst(layers: Sequence[LayerError]) -> list[LayerError]:
    ordered = sorted((one for one in layers if _weight(one) > NO_DIVERGENCE), key=_weight, reverse=True)
    total, reached, found = sum(map(_weight, ordered)), 0.0, []
    for one in ordered[:MOST_LAYERS]:
        if reached >= SHARE * total:
            break
        reached += _weight(one)
        found.append(one)
    return found


def _lines(layer: str, kept: Kept, plan: Mapping[str, Any]) -> list[str]:
    quantized = ((plan.get("quantization") or {}).get("layers") or {}).get(layer)
    lines = [] if quantized is None else [f"bits.weight.{quantized['group']}: none"]
    for step in plan["transforms"]:
        for coupling, channels in (step["plan"].get("keep") or {}).items() if step.get("stage") == "prune" else ():
            if channels in (kept.outputs.tolist(), kept.inputs.tolist()):
                lines.append(f"prune.keep.{coupling}: 1.0")
    return lines
