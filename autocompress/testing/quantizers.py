"""Rules for quantizers."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import nn

from autocompress.contract import Context, FakeQuantizer, Hardened, Params, Quantizer, TensorSpec
from autocompress.repair import ROUNDINGS
from autocompress.testing.example import example_context, example_model
from autocompress.testing.networks import check_untouched
from autocompress.testing.rules import Points, Report, other_draws, require, through_json
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
    report.check(_check_words, report, method, params)
    context = example_context(model, teacher=copy.deepcopy(model))
    points = Points()
    for spec, tensor in _tensors(method):
        own = Report()
        _check_tensor(own, method, params, context, spec, tensor)
        points.add(f"{spec.role} '{spec.name}' {spec.shape} at {spec.bits} bits", own.rules)
    report.rules += points.rules()
    assert context.teacher is not None
    report.check(check_untouched, context.teacher, model, "apply must leave context.teacher as it is")
    report.end()


def _check_words(report: Report, method: Quantizer, params: Params) -> None:
    """Checks what the method says about calibration and rounding."""
    count = method.calibration_images(params)
    whole = isinstance(count, int) and not isinstance(count, bool) and count >= 1
    report.check(require, whole, f"calibration_images must return a whole number of at least 1, not {count!r}")
    for bits in method.weight_bits:
        name = method.rounding(params, bits)
        rule = f"rounding must return one of {', '.join(ROUNDINGS)}, not {name!r} (as for {bits} bits)"
        report.check(require, name in ROUNDINGS, rule)


def _check_tensor(
    report: Report, method: Quantizer, params: Params, context: Context, spec: TensorSpec, tensor: torch.Tensor
) -> None:
    """All rules for one weight or activation."""
    fake = report.check(_made, method, params, context, spec)
    if fake is None:
        return
    with other_draws(12345, method):  # every draw must come from context.seed, not from here
        twin = method.apply(spec, params, context)
    given = tensor.clone()
    report.check(_observe, fake, given)
    fake.observing, fake.enabled = False, True
    quantized = report.check(_check_forward, fake, given)
    report.check(_check_gradient, fake, given)
    hardened = report.check(method.harden, fake, given if spec.role == "weight" else None)
    if hardened is not None and quantized is not None:
        report.check(_check_hardened, hardened, fake.spec, given, quantized)
    report.check(require, torch.equal(given, tensor), "nothing may change the tensor that it is given")
    report.check(_check_again, twin, tensor, quantized)
    report.check(_check_state, method.apply(spec, params, context), fake, tensor)
    report.check(_check_levels, method, method.apply(spec, params, context), tensor)


def _made(method: Quantizer, params: Params, context: Context, spec: TensorSpec) -> FakeQuantizer:
    fake = method.apply(spec, params, context)
    require(isinstance(fake, FakeQuantizer), f"apply must return a FakeQuantizer, not {type(fake).__name__}")
    kept = replace(fake.spec, bits=spec.bits) == spec and fake.spec.bits >= spec.bits
    require(kept, "the fake-quantizer must keep its spec, except for more bits")
    return fake


def _check_again(twin: FakeQuantizer, tensor: torch.Tensor, quantized: torch.Tensor | None) -> None:
    _observe(twin, tensor)
    with torch.no_grad():
        same = quantized is not None and torch.equal(twin.eval()(tensor), quantized)
    require(
        same or quantized is None,
        "equal context.seed and equal tensors must give equal results, whatever was quantized before",
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
        for name, tensor in (("dead.weight", dead), ("zero.weight", torch.zeros_like(dead))):  # of a norm with gamma 0
            yield TensorSpec(name, "weight", "layer1", "conv", (8, 4, 3, 3), bits, channel_axis=0), tensor
    for bits in method.activation_bits:
        for nonnegative in (False, True):
            values = torch.randn(1, 8, 6, 6, generator=generator)
            spec = TensorSpec("relu", "activation", "layer1", "conv", (1, 8, 6, 6), bits, nonnegative=nonnegative)
            yield spec, values.relu() if nonnegative else values
        zeros = TensorSpec("dead", "activation", "layer1", "conv", (1, 8, 6, 6), bits, nonnegative=True)
        yield zeros, torch.zeros(1, 8, 6, 6)


def _observe(fake: FakeQuantizer, tensor: torch.Tensor) -> None:
    fake.observing, fake.enabled = True, False
    with torch.no_grad():
        require(torch.equal(fake(tensor), tensor), "while observing, forward must return its input unchanged")
    fake.finish_observing()
    fake.observing = False
    with torch.no_grad():
        require(torch.equal(fake(tensor), tensor), "while disabled, forward must return its input unchanged")
    fake.enabled = True


def _check_forward(fake: FakeQuantizer, tensor: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        quantized = fake.eval()(tensor)
    require(
        quantized.shape == tensor.shape and quantized.dtype == tensor.dtype,
        "forward must keep shape and type",
    )
    require(bool(quantized.isfinite().all()), "the result of forward has numbers that are not finite")
    narrow = tensor.bfloat16()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        mixed = fake(narrow)
    with torch.no_grad():
        expected = fake(narrow.float())
    require(
        mixed.dtype == torch.float32 and torch.equal(mixed, expected),
        "under autocast forward must compute and return float32, because 16 bits cannot hold the grid",
    )
    return quantized


def _check_gradient(fake: FakeQuantizer, tensor: torch.Tensor) -> None:
    leaf = tensor.clone().requires_grad_()
    output = fake.train()(leaf)
    factors = torch.randn(output.shape, generator=torch.Generator().manual_seed(0))
    (output * factors).sum().backward()  # a sum alone has no gradient if a mean is subtracted
    fake.eval()
    reached = [leaf.grad, *(parameter.grad for parameter in fake.parameters())]
    gradients = [gradient for gradient in reached if gradient is not None]
    require(
        bool(gradients) and all(bool(gradient.isfinite().all()) for gradient in gradients),
        "a finite gradient must reach the input or the parameters of the quantizer",
    )
    require(
        not tensor.any() or any(bool(gradient.any()) for gradient in gradients),
        "the gradient must not be 0 everywhere, or nothing can be trained: it is that of the identity within the range "
        "(x + (rounded - x).detach())",
    )


def _check_hardened(hardened: Hardened, spec: TensorSpec, tensor: torch.Tensor, quantized: torch.Tensor) -> None:
    require(isinstance(hardened, Hardened), "harden must return a Hardened")
    fits = hardened.bits <= 8 and (hardened.high - hardened.low) // hardened.step < 2**hardened.bits
    require(fits, "the range needs more bits than 'bits'")
    require(
        hardened.bits <= spec.bits,
        f"harden must give at most the bits of the spec: {hardened.bits} are more than {spec.bits}, so a recipe of "
        "fewer bits would give no smaller file (a fake-quantizer that needs more bits says so in its spec)",
    )
    scale, zero_point = hardened.scale, hardened.zero_point
    require(scale.dtype == torch.float32 and bool((scale > 0).all()), "scales must be float32 and above 0")
    require(zero_point.dtype == torch.int32, "zero points must be int32")
    if spec.role == "activation":
        require(scale.numel() == 1, "an activation must have one scale")
        require(hardened.low >= 0 and hardened.high <= 255, "activations must fit uint8")
        at_the_end = int(zero_point) == hardened.low
        require(at_the_end or not spec.nonnegative, "behind a ReLU the zero point must be the low end")
        return
    integers = hardened.integers
    if integers is None or integers.dtype != torch.int8 or integers.shape != tensor.shape:
        require(False, "the integers of a weight must be int8, in its shape")
        return
    require(
        bool((integers >= hardened.low).all() and (integers <= hardened.high).all()),
        "integers must be between low and high",
    )
    require(
        bool(((integers.int() - hardened.low) % hardened.step == 0).all()),
        "integers must be low plus a multiple of step, because the file stores (integer - low) / step",
    )
    if hardened.channel_axis is not None:
        shape = [1] * tensor.ndim
        shape[hardened.channel_axis] = -1
        scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
    restored = (integers.float() - zero_point) * scale
    require(
        torch.allclose(restored, quantized, rtol=1e-4, atol=float(scale.max()) * 1e-3),
        "(integers - zero point) * scale must be the result of forward, so that file and model agree",
    )


def _check_levels(method: Quantizer, fake: FakeQuantizer, tensor: torch.Tensor) -> None:
    """Checks that a weight which the engine rounded stays on its levels, also after calibration."""
    levels = fake.levels()
    if levels is None:
        return
    steps = levels.diff()
    require(
        len(levels) > 1 and bool((steps > 0).all()) and torch.allclose(steps, steps[:1].expand_as(steps)),
        "levels must be ascending and evenly spaced",
    )
    scale = tensor.flatten(1).abs().amax(1).clamp(min=1e-3) / levels[-1]
    scale = scale.amax().expand_as(scale) if fake.shares_scale else scale
    rounded = fake.round_to(tensor, scale.reshape(-1, *[1] * (tensor.ndim - 1)))
    fake.settle(scale)
    _observe(fake, rounded)
    with torch.no_grad():
        same = torch.allclose(fake.eval()(rounded), rounded, rtol=1e-4, atol=float(scale.max()) * 1e-3)
    require(same, "a weight on the levels of a settled scale must stay what it is")
    integers = method.harden(fake, rounded).integers
    require(integers is not None, "a weight on its levels must be hardened to integers")


def _check_state(fresh: FakeQuantizer, fake: FakeQuantizer, tensor: torch.Tensor) -> None:
    """Checks that a finished quantizer can be restored from its tensors."""
    fresh.load_state_dict(fake.state_dict())
    fresh.eval()
    fresh.enabled = True
    with torch.no_grad():
        require(
            torch.equal(fresh(tensor), fake(tensor)),
            "a new fake-quantizer with the state_dict loaded must give the same output",
        )
