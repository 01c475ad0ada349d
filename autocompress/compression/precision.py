"""QUANTIZE: turns the bits that each group chose into fake-quantizers, calibrates them and hardens the network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn

from autocompress import models
from autocompress.compression.recipe import Recipe
from autocompress.contract import Context, FakeQuantizer, Hardened, Method, Plan, Quantizer, TensorSpec
from autocompress.graph import NetworkFacts
from autocompress.quantization import network
from autocompress.quantization.placement import LayerBits

EXEMPT_BITS = 8
"""The stem and the classifier are exempt from low bits: they run at 8, not in float."""
CALIBRATION_BATCH = 64


def assign(network_facts: NetworkFacts, baseline: nn.Module, granularity: str, recipe: Recipe) -> dict[str, LayerBits]:
    """The quantizers and widths of every layer of the transformed network, by name. Layers of float groups are absent.

    Groups are prefixes of the baseline's module names; a replaced module keeps its name, so its inner layers still
    belong to the group.
    """
    if not recipe.bits:
        return {}
    groups = models.groups(baseline, granularity)
    exempt = (*models.stem(baseline), *models.classifier(baseline))
    assigned: dict[str, LayerBits] = {}
    for name in network_facts.layers:
        group = models.group_of(name, groups)
        chosen = recipe.bits.get(group)
        if chosen is None:
            continue
        is_exempt = any(name == prefix or name.startswith(prefix + ".") for prefix in exempt)
        floor = EXEMPT_BITS if is_exempt else 1
        assigned[name] = LayerBits(
            group=group,
            weight_quantizer=chosen.activation_quantizer if chosen.weight_bits < floor else chosen.weight_quantizer,
            weight_bits=max(chosen.weight_bits, floor),
            activation_quantizer=chosen.activation_quantizer,
            activation_bits=max(chosen.activation_bits, floor),
        )
    return assigned


def quantize(
    model: nn.Module, assigned: Mapping[str, LayerBits], recipe: Recipe, methods: Mapping[str, Method], context: Context
) -> tuple[nn.Module, Plan]:
    """Places, calibrates and hardens; returns the deployable network and its plan.

    Raises:
        TrialFailed: if ranges are not finite.
    """

    def make(quantizer: str, spec: TensorSpec) -> FakeQuantizer:
        return _quantizer(methods, quantizer).apply(spec, recipe.quantizers[quantizer], context)

    def harden(quantizer: str, fake: FakeQuantizer, weight: torch.Tensor | None) -> Hardened:
        return _quantizer(methods, quantizer).harden(fake, weight)

    quantized = network.quantize(model, assigned, make, input_size=context.input_size)
    wanted = max(_quantizer(methods, name).calibration_images(params) for name, params in recipe.quantizers.items())
    network.calibrate(quantized, () if context.dry_run else _calibration_images(context, wanted))
    hardened = network.harden(quantized, harden, dry_run=context.dry_run)
    return hardened, network.plan(hardened)


def _quantizer(methods: Mapping[str, Method], name: str) -> Quantizer:
    method = methods[name]
    assert isinstance(method, Quantizer)
    return method


def _calibration_images(context: Context, wanted: int) -> Iterator[torch.Tensor]:
    assert context.transfer is not None
    split = context.transfer.calibration
    for images, _ in split.subset(min(wanted, len(split)), context.seed).loader(CALIBRATION_BATCH):
        yield images
