"""Measures a sensitivity table: outputs of a float network with one group at fewer bits."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, astuple, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from autocompress import models
from autocompress.compression.layertypes import layer_specs, leaves
from autocompress.compression.quantize import EXEMPT_BITS, assign
from autocompress.contract import Context, FakeQuantizer, Hardened, Quantizer, TensorSpec
from autocompress.files import digest
from autocompress.graph import NetworkFacts, facts
from autocompress.quantization import Point, QuantizedNetwork, quantize
from autocompress.recipes.bits import GroupBits
from autocompress.recipes.recipe import Recipe
from autocompress.sensitivity.slots import Slot, SlotRunner
from autocompress.sensitivity.table import Sensitivity, Setting, Width
from autocompress.store import Store
from autocompress.training import computed_with

VERSION = "1"
MOST_IMAGES, LEAST_IMAGES = 128, 8
MOST_MACS = 3.5e11
"""Maximum multiply-accumulates of a table. Large networks and fine groups get fewer images."""
BATCH = 64
_PROBE = EXEMPT_BITS - 1
"""Bits that are assigned to all groups once, to find the exempt tensors: these get other bits.

Exempt are stem, classifier and image.
"""
log = logging.getLogger("autocompress.compression")


def kept(
    store: Store,
    model_key: str,
    model: nn.Module,
    widths: Sequence[Width],
    setting: Setting,
    context: Context,
    **progress: Any,
) -> list[Sensitivity]:
    """The table of :func:`measure`, stored and shared by workers and runs.

    Args:
        store: stores the table.
        model_key: content key of ``model``.
        model, widths, setting, context, progress: as for :func:`measure`.
    """
    assert context.transfer is not None
    used = {name: [setting.methods[name].version, params] for name, params in setting.params.items()}
    about = [context.transfer.digest, context.seed, setting.granularity, used, [asdict(width) for width in widths]]
    about += [own] if (own := setting.table.record()) else []
    key = digest("sensitivity", VERSION, model_key, computed_with(context.compute), *about)
    found = store.get(key) if store.has(key) else None
    if found is not None:
        return [Sensitivity(**row) for row in found[1]["rows"]]
    table = measure(model, widths, setting, context, **progress)
    store.put(key, {}, {"rows": [asdict(row) for row in table]})
    return table


def measure(
    model: nn.Module,
    widths: Sequence[Width],
    setting: Setting,
    context: Context,
    *,
    progress: Callable[[float, str], None] | None = None,
    pause: Callable[[], None] | None = None,
) -> list[Sensitivity]:
    """The table: the loss of each of ``widths`` when it is applied alone to the float network.

    The network is traced and folded once. Weights are replaced by those of the file, and
    activations pass calibrated fake-quantizers. For each group, only the network behind its first
    tensor is computed again. Layers that are exempt from low bits have 8 bits, as in QUANTIZE, so
    all rows of a group with only such layers are equal. A width that fails is logged and left out.

    Args:
        model: the float baseline, eval; it is not changed.
        widths: the choices to measure, with groups in network order.
        setting: quantizers and groups.
        context: context with the images; ``context.transfer.calibration`` is used.
        progress: called with the finished fraction and a text.
        pause: called between rows.

    Raises:
        UntraceableModel: if ``model`` cannot be traced.
    """
    probe = _Probe(model, widths, setting, context)
    table: list[Sensitivity] = []
    for number, width in enumerate(widths):
        if progress is not None:
            progress(number / len(widths), f"sensitivity of {width.group}")
        if pause is not None:
            pause()
        try:
            found = probe.row(width)
        except Exception as error:  # an error of a plugin must not end the search
            log.warning("no sensitivity of %s: %s: %s", astuple(width), type(error).__name__, error)
            continue
        table += [] if found is None else [Sensitivity(**asdict(width), loss=found[0], agreement=found[1])]
    return table


class _Probe:
    """The traced network with a slot at each quantizable tensor, and its float outputs."""

    def __init__(self, model: nn.Module, widths: Sequence[Width], setting: Setting, context: Context) -> None:
        self._setting, self._context = setting, context
        self._task = models.task_ref(model).task()
        self._specs = layer_specs(list(setting.methods.values()))
        known = facts(model, context.input_size, leaves(list(setting.methods.values())))
        self._network = self._slotted(model, known).to(context.device)
        self._runner = SlotRunner(self._network)
        points = self._network.placement
        self._weights = _by_group(points.weights.values())
        self._activations = _by_group(points.activations.values())
        self._slots: dict[str, Slot] = {}
        for fake in [*self._network.weight_fakes().values(), *self._network.activation_fakes().values()]:
            assert isinstance(fake, Slot)
            self._slots[fake.spec.name] = fake
        self._images = images_for(known.macs * max(1, len(widths)))
        self._batches = list(self._load())
        self._float = list(self._runner.answers(self._batches))
        self._fakes: dict[tuple[str, int], dict[str, FakeQuantizer]] = {}
        self._known: dict[Any, tuple[float, float]] = {}

    def row(self, width: Width) -> tuple[float, float] | None:
        """Loss and agreement; None if the group has no tensor of that role."""
        points = (self._weights if width.role == "weight" else self._activations).get(width.group, [])
        if not points:
            return None
        specs = [self._spec(point, width) for point in points]
        key = [(spec.name, spec.bits, name) for spec, name in specs]
        if (known := self._known.get(tuple(key))) is not None:
            return known
        acts = self._weights_at(specs) if width.role == "weight" else self._activations_at(specs, width)
        self._runner.advance(self._first_node(width.group))
        for name, act in acts.items():
            self._slots[name].given(act)
        try:
            found = self._compare(self._runner.rest())
        finally:
            for name in acts:
                self._slots[name].given(None)
        return self._known.setdefault(tuple(key), found)

    # --- building ---------------------------------------------------------------------------------

    def _slotted(self, model: nn.Module, known: NetworkFacts) -> QuantizedNetwork:
        # All groups are needed, because the group of a tensor depends on its neighbours.
        groups = models.groups(model, self._setting.granularity)
        everywhere = {group.name: GroupBits("probe", _PROBE, "probe", _PROBE) for group in groups}
        assigned = assign(known, model, self._setting.granularity, Recipe(values={}, bits=everywhere))
        params = self._setting.params.items()
        equalise = any(self._quantizer(name).equalises(given) for name, given in params)
        network = quantize(
            model,
            assigned,
            lambda _, spec: Slot(spec),
            input_size=self._context.input_size,
            equalise=equalise,
            specs=self._specs,
            table=self._setting.table,
        )
        return network.eval()

    def _load(self) -> Iterable[torch.Tensor]:
        assert self._context.transfer is not None
        split = self._context.transfer.calibration
        for images, _ in split.subset(min(self._images, len(split)), self._context.seed).loader(BATCH):
            yield images.to(self._context.device)

    def _quantizer(self, name: str) -> Quantizer:
        method = self._setting.methods[name]
        assert isinstance(method, Quantizer)
        return method

    # --- fake-quantizers of a row -----------------------------------------------------------------

    def _spec(self, point: Point, width: Width) -> tuple[TensorSpec, str]:
        """The tensor with these bits, and its quantizer. Exempt tensors have 8 bits."""
        follows = point.spec.bits == _PROBE
        is_own = follows or width.role == "activation" or width.bits == point.spec.bits
        name = width.quantizer if is_own else self._uniform(width)
        return replace(point.spec, bits=width.bits if follows else point.spec.bits), name

    def _uniform(self, width: Width) -> str:
        """The quantizer of exempt weights: that of activations (:func:`quantize.assign`)."""
        if self._quantizer(width.quantizer).activation_bits:
            return width.quantizer
        return next(name for name in self._setting.params if self._quantizer(name).activation_bits)

    def _make(self, spec: TensorSpec, name: str) -> FakeQuantizer:
        fake = self._quantizer(name).apply(spec, self._setting.params[name], self._context)
        return fake.to(self._context.device).eval()

    def _weights_at(self, specs: Sequence[tuple[TensorSpec, str]]) -> dict[str, Callable[..., torch.Tensor]]:
        layers = {layer.weight_quantizer.spec.name: layer for layer in self._network.fake_layers().values()}
        acts: dict[str, Callable[..., torch.Tensor]] = {}
        for spec, name in specs:
            weight = layers[spec.name].weight.detach()
            fake = self._make(spec, name)
            fake.observing = True
            fake(weight)
            fake.finish_observing()
            fake.observing = False
            acts[spec.name] = partial(_given, _values(self._quantizer(name).harden(fake, weight)))
        return acts

    def _activations_at(self, specs: Sequence[tuple[TensorSpec, str]], width: Width) -> dict[str, FakeQuantizer]:
        key = width.quantizer, width.bits
        if key not in self._fakes:
            self._fakes[key] = self._calibrated(width)
        return {spec.name: self._fakes[key][spec.name] for spec, _ in specs}

    def _calibrated(self, width: Width) -> dict[str, FakeQuantizer]:
        """Fake-quantizers of all activations, with ranges observed in one pass."""
        points = [point for group in self._activations.values() for point in group]
        fakes = {point.spec.name: self._make(*self._spec(point, width)) for point in points}
        for name, fake in fakes.items():
            fake.observing = True
            self._slots[name].given(fake)
        try:
            self._runner.answers(self._batches)
        finally:
            for name in fakes:
                self._slots[name].given(None)
        for fake in fakes.values():
            fake.finish_observing()
            fake.observing = False
        return fakes

    # --- comparing --------------------------------------------------------------------------------

    def _first_node(self, group: str) -> int:
        names = {point.spec.name for point in (*self._weights.get(group, []), *self._activations.get(group, []))}
        return self._runner.first(names)

    def _compare(self, answers: Iterable[torch.Tensor]) -> tuple[float, float]:
        loss, same, images = 0.0, 0.0, 0
        for logits, wanted in zip(answers, self._float, strict=True):
            found = logits.float()
            loss += float(self._task.total_divergence(wanted, found))
            same += float(self._task.agreement(wanted, found).sum())
            images += len(logits)
        if not math.isfinite(loss):
            raise ValueError("the outputs are not finite numbers")
        return max(0.0, loss / images), 100.0 * same / images  # rounding can give a value slightly below zero


def images_for(macs: float) -> int:
    """The number of images for a table.

    Args:
        macs: multiply-accumulates of one image over all rows.
    """
    return int(min(MOST_IMAGES, max(LEAST_IMAGES, MOST_MACS // max(macs, 1))))


def _by_group(points: Iterable[Point]) -> dict[str, list[Point]]:
    found: dict[str, list[Point]] = {}
    for point in points:
        found.setdefault(point.spec.group, []).append(point)
    return found


def _given(values: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return values


def _values(hardened: Hardened) -> torch.Tensor:
    """The weights of these integers, float32."""
    assert hardened.integers is not None
    scale, zero = hardened.scale, hardened.zero_point
    if hardened.channel_axis is not None:
        shape = [1] * hardened.integers.ndim
        shape[hardened.channel_axis] = -1
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    return (hardened.integers.float() - zero) * scale
