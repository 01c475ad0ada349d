"""Describes what an artifact made of each layer of the baseline: width, bits, form, time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from autocompress import models
from autocompress.compression.artifact import MODEL_FILE, PLAN_FILE, load
from autocompress.compression.layertypes import leaves
from autocompress.compression.rebuilding import rebuild
from autocompress.contract import Deployable, Device, LayerTimes, Manager, Method
from autocompress.data import Split
from autocompress.devices import layer_times
from autocompress.graph import LayerFacts, facts
from autocompress.job import DeviceConfig
from autocompress.layer_errors import folded, kept_channels, losses_alone

LOSS_IMAGES = 16
"""Maximum number of images for the divergence of each layer alone."""


def layer_rows(
    model: nn.Module,
    baseline: Deployable,
    artifact: Path,
    methods: Sequence[Method],
    granularity: str,
    device: Device,
    config: DeviceConfig,
) -> list[dict[str, Any]]:
    """A row for each layer of the baseline, in the order in which layers run.

    Each row has ``layer``, ``group``, ``operator`` and ``became`` (the type of the layer that
    replaced it, or empty). ``channels``, ``params`` and ``macs`` are pairs [before, after].
    ``weight_bits`` and ``activation_bits`` are None in float. ``computes`` is "integers" or
    "float". ``us`` has the microseconds of its region, before and after; it is None if the device
    has no profiler.

    Args:
        model: the baseline.
        baseline: its file.
        artifact: the folder of a candidate.
        methods: those of its plan.
        granularity: granularity of the groups.
        device: profiles both files.
        config: settings of the device.
    """
    plan = json.loads((artifact / PLAN_FILE).read_text(encoding="utf-8"))
    changed = rebuild(model, plan["transforms"], {method.name: method for method in methods})
    size = models.input_size(model)
    before, after = (facts(one, size, leaves(methods)).layers for one in (model, changed))
    files = [baseline, Deployable(artifact / MODEL_FILE, baseline.input_size)]
    names = [*before, *(name for name in after if name not in before)]
    times = layer_times(device, files, names, config)
    groups = models.groups(model, granularity)
    bits = (plan["quantization"] or {}).get("layers") or {}
    return [
        {
            **_row(layer, _parts(name, after), changed),
            "group": models.group_of(name, groups),
            **_form(_parts(name, after), bits),
            "us": None if times is None else _times(name, _parts(name, after), times),
        }
        for name, layer in before.items()
    ]


def layer_losses(
    model: nn.Module, artifact: Path, methods: Sequence[Method], plugins: Manager, images: Split, seconds: float
) -> dict[str, float]:
    """The divergence by layer of the baseline, in nats, if only this layer is compressed.

    Layers that cannot run alone in the baseline are left out. The result is empty without images,
    or if the time is too short.

    Args:
        model: the baseline.
        artifact: the folder of a candidate.
        methods: those of its plan.
        plugins: find the methods of the plan.
        images: at most ``LOSS_IMAGES`` of them are used.
        seconds: time limit.
    """
    if not len(images) or seconds <= 0:
        return {}
    plan = json.loads((artifact / PLAN_FILE).read_text(encoding="utf-8"))
    by_name = {method.name: method for method in methods}
    kept = kept_channels(model, plan["transforms"], by_name)
    batch, _ = next(iter(images.subset(LOSS_IMAGES).loader(LOSS_IMAGES)))
    networks = folded(model, by_name), folded(load(artifact, plugins), by_name)
    return losses_alone(*networks, kept, batch, seconds, models.data_info(model).task.task())


def _parts(name: str, after: Mapping[str, LayerFacts]) -> list[LayerFacts]:
    """The layers that a layer of the baseline became."""
    return [layer for other, layer in after.items() if other == name or other.startswith(f"{name}.")]


def _row(layer: LayerFacts, parts: Sequence[LayerFacts], changed: nn.Module) -> dict[str, Any]:
    is_same = [part.name for part in parts] == [layer.name] and parts[0].kind == layer.kind
    replaced = None if is_same or not parts else changed.get_submodule(layer.name)
    width = parts[0].out_channels if is_same else getattr(replaced, "out_channels", 0)
    return {
        "layer": layer.name,
        "operator": "depthwise" if layer.groups == layer.in_channels > 1 else layer.kind,
        "became": "" if is_same else "nothing" if replaced is None else type(replaced).__name__,
        "channels": [layer.out_channels, int(width) if isinstance(width, int) else 0],
        "params": [layer.params, sum(part.params for part in parts)],
        "macs": [layer.macs, sum(part.macs for part in parts)],
    }


def _form(parts: Sequence[LayerFacts], bits: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    told = [bits[part.name] for part in parts if part.name in bits]
    if not told:
        return {"weight_bits": None, "activation_bits": None, "computes": "float"}
    return {
        "weight_bits": told[0]["weight_bits"],
        "activation_bits": told[0]["activation_bits"],
        "computes": "float" if all(one.get("in_float") for one in told) else "integers",
    }


def _times(name: str, parts: Sequence[LayerFacts], times: Sequence[LayerTimes]) -> list[float | None]:
    own = [times[0].layers.get(name)]
    known = [times[1].layers[part.name] for part in parts if part.name in times[1].layers]
    found = [*own, sum(known) if known else None]
    return [None if seconds is None else round(1e6 * seconds, 2) for seconds in found]
