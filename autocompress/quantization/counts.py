"""Operator counts of a model by layer and bits, for cost models."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from autocompress.contract import LayerSpec, OperatorCount
from autocompress.graph.facts import layer_macs
from autocompress.graph.shapes import blank_images
from autocompress.graph.trace import evaluating
from autocompress.quantization.fakelayers import FakeLayer
from autocompress.quantization.layers import HardenedConv2d, HardenedLinear
from autocompress.quantization.leaves import input_quantizer_of, leaf_spec

_LAYERS = (nn.Conv2d, nn.Linear, HardenedConv2d, HardenedLinear)


def operator_counts(
    model: nn.Module, input_size: tuple[int, int, int], specs: Sequence[LayerSpec] = ()
) -> list[OperatorCount]:
    """Operations of each layer for one image: runs ``model`` once on a blank image.

    Args:
        model: float, fake-quantized or hardened.
        input_size: (channels, height, width).
        specs: descriptions of the layer types that methods brought; those with ``leaf`` count their
            own operators.
    """
    found: list[OperatorCount] = []
    work = copy.deepcopy(model)
    whole: tuple[str, ...] = ()
    for name, layer in work.named_modules():
        if name.startswith(whole):
            continue  # inside a layer that counts its own operators
        spec = leaf_spec(layer, specs)
        if spec is not None or isinstance(layer, _LAYERS):
            layer.register_forward_hook(_counter(name, spec, found))
        whole += () if spec is None else (f"{name}.",)
    with evaluating(work):
        work(blank_images(work, input_size))
    return found


def _counter(name: str, spec: LayerSpec | None, found: list[OperatorCount]) -> Any:
    def count(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        weight_bits, activation_bits = _bits(layer)
        if spec is None:
            counts = {"multiply-add": layer_macs(layer, tuple(output.shape))}
        else:
            counts = spec.operator_counts(layer, tuple(inputs[0].shape), tuple(output.shape))
        found.extend(OperatorCount(name, kind, n, weight_bits, activation_bits) for kind, n in counts.items())

    return count


def _bits(layer: nn.Module) -> tuple[int, int]:
    """(weight bits, bits of the input tensor)."""
    if isinstance(layer, FakeLayer):
        source = layer.input_quantizer
        return layer.weight_quantizer.spec.bits, 32 if source is None else source.spec.bits
    if (shared := input_quantizer_of(layer)) is not None:
        return shared.spec.bits, shared.spec.bits
    return int(getattr(layer, "weight_bits", 32)), int(getattr(layer, "input_bits", 32))
