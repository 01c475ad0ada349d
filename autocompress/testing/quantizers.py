"""Rules for quantizers."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import nn

from autocompress.contract import Context, FakeQuantizer, Hardened, Params, Quantizer, TensorSpec
from autocompress.testing.example import example_context, example_model
from autocompress.testing.networks import check_untouched
from autocompress.testing.rules import Report, other_draws, require, through_json
from autocompress.testing.spaces import ask, by_rule


def check_quantizer(method: Quantizer, model: nn.Module | None = None, params: Params | None = None) -> None:
    """Quantizes weights and activations of several shapes with all numbers of bits of the method.

    Args:
        method: the quantizer.
        model: model whose space the method is asked for; the example model by default.
        params: one point of its space; the defaults by default.

    Raises:
        ContractViolation: if a rule is broken; the message lists all broken rules.
    """
    model = model if model is not None else example_model()
    params = params if params is not None else ask(method, model, by_rule("default"))[0]
    report = Report()
    report.check(
        require,
        all(1 <= bits <= 8 for bits in (*method.weight_bits, *method.activation_bits)),
        "weight_bits and activation_bits must be between 1 and 8",
    )
    report.check(through_json, params, "params")
    context = example_context(model, teacher=copy.deepcopy(model))
    for spec, tensor in _tensors(method):
        _check_tensor(report, method, params, context, spec, tensor)
    assert context.teacher is not None
    report.check(check_untouched, context.teacher, model, "apply must leave context.teacher as it is")
    report.end()


def _check_tensor(
    report: Report, method: Quantizer, params: Params, context: Context, spec: TensorSpec, tensor: torch.Tensor
) -> None:
    """All rules for one weight or activation."""
    where = f"{spec.role} {spec.shape} at {spec.bits} bits"
    fake = report.check(_made, method, params, context, spec, where)
    if fake is None:
        return
    with other_draws(12345):  # every draw must come from context.seed, not from here
        twin = method.apply(spec, params, context)
    given = tensor.clone()
    report.check(_observe, fake, given, where)
    fake.observing, fake.enabled = False, True
    quantized = report.check(_check_forward, fake, given, where)
    report.check(_check_gradient, fake, given, where)
    hardened = report.check(method.harden, fake, given if spec.role == "weight" else None)
    if hardened is not None and quantized is not None:
        report.check(_check_hardened, hardened, spec, given, quantized, where)
    report.check(require, torch.equal(given, tensor), f"{where}: nothing may change the tensor that it is given")
    report.check(_check_again, twin, tensor, quantized, where)
    report.check(_check_state, method.apply(spec, params, context), fake, tensor, where)
    report.check(_check_levels, method, method.apply(spec, params, context), tensor, where)


def _made(method: Quantizer, params: Params, context: Context, spec: TensorSpec, where: str) -> FakeQuantizer:
    fake = method.apply(spec, params, context)
    require(isinstance(fake, FakeQuantizer), f"{where}: apply must return a FakeQuantizer, not {type(fake).__name__}")
    kept = replace(fake.spec, bits=spec.bits) == spec and fake.spec.bits >= spec.bits
    require(kept, f"{where}: the fake-quantizer must keep its spec, except for more bits")
    return fake


def _check_again(twin: FakeQuantizer, tensor: torch.Tensor, quantized: torch.Tensor | None, where: str) -> None:
    _observe(twin, tensor, where)
    with torch.no_grad():
        same = quantized is not None and torch.equal(twin.eval()(tensor), quantized)
    require(
        same or quantized is None,
        f"{where}: equal context.seed and equal tensors must give equal results, whatever was quantized before",
    )


def _tensors(method: Quantizer) -> Iterator[tuple[TensorSpec, torch.Tensor]]:
    """Specs as in a network, each with an example tensor."""
    generator = torch.Generator().manual_seed(0)
    weights = {"conv": (8, 4, 3, 3), "depthwise": (8, 1, 3, 3), "linear": (10, 16)}
    for bits in method.weight_bits:
        for operator, shape in weights.items():
            spec = TensorSpec(f"{operator}.weight", "weight", "layer1", operator, shape, bits, channel_axis=0)
            yield spec, 0.1 * torch.randn(shape, generator=generator)
        dead = 0.1 * torch.randn(weights["conv"], generator=generator)
        dead[0] = 0.0
        yield TensorSpec("dead.weight", "weight", "layer1", "conv", (8, 4, 3, 3), bits, channel_axis=0), dead
    for bits in method.activation_bits:
        for nonnegative in (False, True):
            values = torch.randn(1, 8, 6, 6, generator=generator)
            spec = TensorSpec("relu", "activation", "layer1", "conv", (1, 8, 6, 6), bits, nonnegative=nonnegative)
            yield spec, values.relu() if nonnegative else values


def _observe(fake: FakeQuantizer, tensor: torch.Tensor, where: str) -> None:
    fake.observing, fake.enabled = True, False
    with torch.no_grad():
        require(torch.equal(fake(tensor), tensor), f"{where}: while observing, forward must return its input unchanged")
    fake.finish_observing()
    fake.observing = False
    with torch.no_grad():
        require(torch.equal(fake(tensor), tensor), f"{where}: while disabled, forward must return its input unchanged")
    fake.enabled = True


def _check_forward(fake: FakeQuantizer, tensor: torch.Tensor, where: str) -> torch.Tensor:
    with torch.no_grad():
        quantized = fake.eval()(tensor)
    require(
        quantized.shape == tensor.shape and quantized.dtype == tensor.dtype,
        f"{where}: forward must keep shape and type",
    )
    require(bool(quantized.isfinite().all()), f"{where}: the result of forward has numbers that are not finite")
    narrow = tensor.bfloat16()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        mixed = fake(narrow)
    with torch.no_grad():
        expected = fake(narrow.float())
    require(
        mixed.dtype == torch.float32 and torch.equal(mixed, expected),
        f"{where}: under autocast forward must compute and return float32, because 16 bits cannot hold the grid",
    )
    return quantized


def _check_gradient(fake: FakeQuantizer, tensor: torch.Tensor, where: str) -> None:
    leaf = tensor.clone().requires_grad_()
    output = fake.train()(leaf)
    output.sum().backward()
    fake.eval()
    reached = [leaf.grad, *(parameter.grad for parameter in fake.parameters())]
    gradients = [gradient for gradient in reached if gradient is not None]
    require(
        bool(gradients) and all(bool(gradient.isfinite().all()) for gradient in gradients),
        f"{where}: a finite gradient must reach the input or the parameters of the quantizer",
    )


def _check_hardened(
    hardened: Hardened, spec: TensorSpec, tensor: torch.Tensor, quantized: torch.Tensor, where: str
) -> None:
    require(isinstance(hardened, Hardened), f"{where}: harden must return a Hardened")
    fits = hardened.bits <= 8 and (hardened.high - hardened.low) // hardened.step < 2**hardened.bits
    require(fits, f"{where}: the range needs more bits than 'bits'")
    scale, zero_point = hardened.scale, hardened.zero_point
    require(scale.dtype == torch.float32 and bool((scale > 0).all()), f"{where}: scales must be float32 and above 0")
    require(zero_point.dtype == torch.int32, f"{where}: zero points must be int32")
    if spec.role == "activation":
        require(scale.numel() == 1, f"{where}: an activation must have one scale")
        require(hardened.low >= 0 and hardened.high <= 255, f"{where}: activations must fit uint8")
        at_the_end = int(zero_point) == hardened.low
        require(at_the_end or not spec.nonnegative, f"{where}: behind a ReLU the zero point must be the low end")
        return
    integers = hardened.integers
    if integers is None or integers.dtype != torch.int8 or integers.shape != tensor.shape:
        require(False, f"{where}: the integers of a weight must be int8, in its shape")
        return
    require(
        bool((integers >= hardened.low).all() and (integers <= hardened.high).all()),
        f"{where}: integers must be between low and high",
    )
    require(
        bool(((integers.int() - hardened.low) % hardened.step == 0).all()),
        f"{where}: integers must be low plus a multiple of step, because the file stores (integer - low) / step",
    )
    if hardened.channel_axis is not None:
        shape = [1] * tensor.ndim
        shape[hardened.channel_axis] = -1
        scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
    restored = (integers.float() - zero_point) * scale
    require(
        torch.allclose(restored, quantized, rtol=1e-4, atol=float(scale.max()) * 1e-3),
        f"{where}: (integers - zero point) * scale must be the result of forward, so that file and model agree",
    )


def _check_levels(method: Quantizer, fake: FakeQuantizer, tensor: torch.Tensor, where: str) -> None:
    """Checks that a weight which the engine rounded stays on its levels, also after calibration."""
    levels = fake.levels()
    if levels is None:
        return
    steps = levels.diff()
    require(
        len(levels) > 1 and bool((steps > 0).all()) and torch.allclose(steps, steps[:1].expand_as(steps)),
        f"{where}: levels must be ascending and evenly spaced",
    )
    scale = tensor.flatten(1).abs().amax(1).clamp(min=1e-3) / levels[-1]
    scale = scale.amax().expand_as(scale) if fake.shares_scale else scale
    rounded = fake.round_to(tensor, scale.reshape(-1, *[1] * (tensor.ndim - 1)))
    fake.settle(scale)
    _observe(fake, rounded, where)
    with torch.no_grad():
        same = torch.allclose(fake.eval()(rounded), rounded, rtol=1e-4, atol=float(scale.max()) * 1e-3)
    require(same, f"{where}: a weight on the levels of a settled scale must stay what it is")
    integers = method.harden(fake, rounded).integers
    require(integers is not None, f"{where}: a weight on its levels must be hardened to integers")


def _check_state(fresh: FakeQuantizer, fake: FakeQuantizer, tensor: torch.Tensor, where: str) -> None:
    """Checks that a finished quantizer can be restored from its tensors."""
    fresh.load_state_dict(fake.state_dict())
    fresh.eval()
    fresh.enabled = True
    with torch.no_grad():
        require(
            torch.equal(fresh(tensor), fake(tensor)),
            f"{where}: a new fake-quantizer with the state_dict loaded must give the same output",
        )
