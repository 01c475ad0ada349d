"""Rule for GPUs: a method computes on ``context.device``, with tensors of that device only."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import nn

from autocompress import models
from autocompress.compute import Compute
from autocompress.contract import DataSource, Method, Params, Quantizer, TensorSpec, Transform
from autocompress.testing.example import example_context, example_model
from autocompress.testing.preparing import prepared
from autocompress.testing.pretended import DeviceMismatch, pretended_gpu
from autocompress.testing.rules import ContractViolation, require
from autocompress.testing.spaces import ask, by_rule

SHAPES = {"weight": (8, 4, 3, 3), "activation": (1, 8, 6, 6)}


def check_gpu(method: Method, model: nn.Module | None = None, params: Params | None = None) -> None:
    """Applies a transform, a quantizer or a data source on a pretended GPU.

    Args:
        method: the method; a pruner is not called.
        model: the example model by default. It is not changed.
        params: one point of its space; the defaults by default.

    Raises:
        ContractViolation: naming the operation whose operands are on different devices.
    """
    model = model if model is not None else example_model()
    params = params if params is not None else ask(method, model, by_rule("default"))[0]
    state = prepared(method, model, params) if isinstance(method, Transform) and method.prepares else None
    try:
        with pretended_gpu() as gpu:
            if isinstance(method, Transform):
                _transform(method, model, params, gpu.compute, state)
            elif isinstance(method, Quantizer):
                _quantizer(method, model, params, gpu.compute)
            elif isinstance(method, DataSource):
                teacher = copy.deepcopy(model).to(gpu.compute.device)
                method.apply(teacher, params, replace(example_context(model, teacher=teacher), compute=gpu.compute))
    except DeviceMismatch as error:
        raise ContractViolation(
            f"a method must compute on context.device: {error}; make tensors with device=x.device, or move them there"
        ) from None


def _transform(method: Transform, model: nn.Module, params: Params, compute: Compute, state: object) -> None:
    given, teacher = (copy.deepcopy(model).to(compute.device) for _ in range(2))
    context = replace(example_context(model, teacher=teacher), compute=compute, state=state)
    result, _ = method.apply(given, params, context)
    outputs = result(torch.zeros(2, *models.input_size(model), device=compute.device))
    require(outputs.device.type == "cuda", "apply must return a model on context.device")


def _quantizer(method: Quantizer, model: nn.Module, params: Params, compute: Compute) -> None:
    context = replace(example_context(model), compute=compute)
    for role, widths in (("weight", method.weight_bits), ("activation", method.activation_bits)):
        if not widths:
            continue
        axis = 0 if role == "weight" else None
        spec = TensorSpec(role, role, "layer1", "conv", SHAPES[role], max(widths), channel_axis=axis)  # type: ignore[arg-type]
        fake = method.apply(spec, params, context).to(compute.device)
        tensor = torch.randn(SHAPES[role], generator=torch.Generator().manual_seed(0)).to(compute.device)
        fake.observing, fake.enabled = True, False
        fake(tensor)
        fake.finish_observing()
        fake.observing, fake.enabled = False, True
        fake(tensor)
