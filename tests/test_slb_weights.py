"""SLB's weight quantizer.

Initial values, training form, hard form, scales, state.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autocompress.contract import TensorSpec
from autocompress.errors import TrialFailed
from autocompress.quantization.fakelayers import FakeLayer, with_fake_weight
from autocompress.quantization.layers import HardenedConv2d, harden_layer
from autocompress.training import make_optimizer
from autocompress_slb.fakequant import SlbFakeQuantizer
from autocompress_slb.settings import Settings
from autocompress_slb.values import best, values


def searched(bits: int, *, normed: bool = True, **options: Any) -> FakeLayer:
    """A convolution with SLB's weights, with its batch norm as a child."""
    conv = nn.Conv2d(3, 8, 3, bias=not normed)
    if normed:
        norm = nn.BatchNorm2d(8)
        with torch.no_grad():
            norm.running_mean.uniform_(-1, 1)  # type: ignore[union-attr]
            norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
            norm.weight.uniform_(-1, 1)
        conv.add_module("norm", norm)
    spec = TensorSpec("conv.weight", "weight", "g", "conv", tuple(conv.weight.shape), bits, 0, normed=normed)
    return with_fake_weight(conv, SlbFakeQuantizer(spec, bits, Settings(**options)))


def fake_of(layer: FakeLayer) -> SlbFakeQuantizer:
    fake = layer.weight_quantizer
    assert isinstance(fake, SlbFakeQuantizer)
    return fake


def start(layer: FakeLayer) -> SlbFakeQuantizer:
    fake = fake_of(layer)
    fake.start_search(layer.weight)
    return fake


@given(st.integers(1, 4), st.integers(0, 1000))
@settings(max_examples=30)
def test_the_search_starts_at_the_nearest_values(bits: int, seed: int) -> None:
    torch.manual_seed(seed)
    layer = searched(bits)
    untrained = layer.weight_quantizer.eval()(layer.weight)
    fake = start(layer)
    assert fake.logits is not None
    assert fake.logits.numel() == layer.weight.numel() * 2**bits
    size = layer.weight.abs().flatten(1)
    size = (size.mean(1) if bits == 1 else size.amax(1)).reshape(-1, 1, 1, 1)
    u = layer.weight.detach() / size
    expected = values(bits)[(u[..., None] - values(bits)).abs().argmin(-1)] * size
    torch.testing.assert_close(fake.eval()(layer.weight), expected)
    assert torch.equal(untrained, fake(layer.weight))


def test_the_expectation_starts_near_the_trained_weights() -> None:
    torch.manual_seed(0)
    for bits, most in ((2, 0.15), (3, 0.06), (4, 0.03)):
        layer = searched(bits)
        fake = start(layer).train()
        error = (fake(layer.weight) - layer.weight).abs().mean() / layer.weight.abs().mean()
        assert float(error.detach()) < most
        fake.temperature = 1e6
        torch.testing.assert_close(fake(layer.weight), fake.eval()(layer.weight))


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_evaluation_is_a_plain_convolution_with_few_values(bits: int) -> None:
    layer = searched(bits, normed=False).eval()
    start(layer)
    x = torch.randn(2, 3, 8, 8)
    weight = layer.weight_quantizer(layer.weight)
    assert torch.equal(layer(x), nn.functional.conv2d(x, weight, layer.bias))
    assert all(len(channel.unique()) <= 2**bits for channel in weight)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("normed", [True, False])
def test_the_hardened_layer_computes_the_same(bits: int, normed: bool) -> None:
    torch.manual_seed(bits)
    layer = searched(bits, normed=normed).eval()
    fake = start(layer)
    hardened = fake.harden(layer.weight)
    last = 2**bits - 1
    assert (hardened.low, hardened.high, hardened.step, hardened.bits) == (-last, last, 2, bits)
    assert hardened.integers is not None
    assert bool((hardened.integers % 2 != 0).all())
    finished = harden_layer(layer, hardened, None)
    assert isinstance(finished, HardenedConv2d)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(finished(x), layer(x), atol=1e-5, rtol=1e-5)
    assert not list(finished.parameters())
    index = (finished.weight.int() - finished.weight_low) // finished.weight_step
    assert int(index.min()) >= 0
    assert int(index.max()) < 2**finished.weight_bits == 2**bits  # n weights take n * bits on disk


def test_when_hard_logits_have_no_gradient_and_the_norm_still_has() -> None:
    layer = searched(2).train()
    fake = start(layer)
    fake.hard = True
    assert torch.equal(fake(layer.weight), fake.eval()(layer.weight))
    layer.train()
    layer(torch.randn(4, 3, 8, 8)).square().sum().backward()
    assert fake.logits is not None
    assert fake.logits.grad is None
    assert layer.norm is not None
    assert layer.norm.weight.grad is not None
    assert layer.norm.bias.grad is not None


def test_the_arg_max_is_updated_after_steps_of_the_optimizer() -> None:
    """It is updated even if it was computed before the step.

    A fused optimizer changes the logits without changing their version.
    """
    layer = searched(2)
    fake = start(layer)
    assert fake.logits is not None
    optimizer = make_optimizer("adamw", [{"params": [fake.logits]}], 1.0)
    before = fake.eval()(layer.weight).clone()
    for _ in range(3):
        (fake.train()(layer.weight) + layer.weight.detach()).square().sum().backward()
        optimizer.step()
        integers = fake.integers[best(fake.logits).int()]
        assert torch.equal(fake.eval()(layer.weight), fake._scaled(integers))
        assert torch.equal(fake.harden(layer.weight).integers, integers.to(torch.int8))  # type: ignore[arg-type]
    assert not torch.equal(before, fake(layer.weight))


def test_a_copy_uses_its_own_logits() -> None:
    layer = searched(2)
    fake = start(layer).eval()
    assert fake.logits is not None
    fake(layer.weight)
    with torch.no_grad():
        fake.logits.neg_()
    assert torch.equal(copy.deepcopy(fake)(layer.weight), fake(layer.weight))


def test_he_normal_is_random_and_seeded() -> None:
    torch.manual_seed(0)
    one, two = start(searched(2, init="he_normal")), start(searched(2, init="he_normal"))
    assert one.logits is not None
    assert two.logits is not None
    assert torch.equal(one.logits, two.logits)
    assert float(one.logits.std()) == pytest.approx((2 / (8 * 9 * 4)) ** 0.5, rel=0.1)
    assert len(one._best(torch.zeros(())).unique()) == 4


@pytest.mark.parametrize("has_bias", [False, True])
def test_before_a_norm_no_scale_equals_a_fixed_scale(has_bias: bool) -> None:
    """Outputs in eval and training mode, and gradients of the logits, are equal."""
    x, results = torch.randn(8, 3, 8, 8), []
    for scale in ("none", "fixed"):
        torch.manual_seed(0)
        layer = searched(2, scale=scale)
        if has_bias:
            layer.bias = nn.Parameter(torch.randn(8))
        fake = start(layer)
        assert layer.norm is not None
        outputs = [layer.eval()(x)]
        if scale == "none":
            fake.absorb(layer.norm, layer.bias)
            assert bool((fake.magnitude == 1).all())
            outputs.append(layer(x))
            torch.testing.assert_close(outputs[1], outputs[0], atol=1e-4, rtol=1e-4)
        y = layer.train()(x)
        y.pow(3).sum().backward()
        assert fake.logits is not None
        results.append((outputs[0].detach(), y.detach(), fake.logits.grad))
    for none, fixed in zip(*results, strict=True):
        torch.testing.assert_close(none, fixed, atol=2e-3, rtol=2e-3)  # eps is not scaled


def test_a_learned_scale_is_trained_if_no_norm_follows() -> None:
    assert fake_of(searched(2, scale="learned")).log_scale is None
    layer = searched(2, normed=False, scale="learned").train()
    fake = start(layer)
    layer(torch.randn(2, 3, 8, 8)).square().sum().backward()
    assert fake.log_scale is not None
    assert fake.log_scale.grad is not None
    before = fake.eval()(layer.weight)
    with torch.no_grad():
        fake.log_scale.add_(0.5)
    torch.testing.assert_close(fake(layer.weight), before * torch.e**0.5)
    hardened = fake.harden(layer.weight)
    assert hardened.integers is not None
    torch.testing.assert_close(hardened.integers * hardened.scale.reshape(-1, 1, 1, 1), fake(layer.weight))


def test_a_disabled_quantizer_returns_the_float_weight_and_keeps_its_logits() -> None:
    layer = searched(2).train()
    fake = start(layer)
    quantized, logits = fake(layer.weight), fake.logits
    fake.enabled = False
    assert torch.equal(fake(layer.weight), layer.weight)
    fake.enabled = True
    assert fake.logits is logits
    assert torch.equal(fake(layer.weight), quantized)


def test_state_is_restored_with_and_without_logits() -> None:
    torch.manual_seed(0)
    layer, fresh = searched(2), searched(2)
    fresh.load_state_dict(layer.state_dict())
    assert fake_of(fresh).logits is None
    fake = start(layer)
    with torch.no_grad():
        assert fake.logits is not None
        fake.logits.copy_(torch.randn_like(fake.logits))
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fake_of(fresh).eval()(layer.weight), fake.eval()(layer.weight))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_dead_channel_stays_finite_and_small(bits: int) -> None:
    layer = searched(bits)
    with torch.no_grad():
        layer.weight[0] = 0
    fake = start(layer).eval()
    assert float(fake(layer.weight)[0].abs().max()) < 1e-5
    assert bool((fake.harden(layer.weight).scale > 0).all())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_weights_end_the_trial(value: float) -> None:
    layer = searched(2)
    with torch.no_grad():
        layer.weight[0, 0, 0, 0] = value
    with pytest.raises(TrialFailed, match="not finite"):
        start(layer)


def test_the_integers_of_an_untrained_weight_need_the_weight() -> None:
    with pytest.raises(ValueError, match="float tensor"):
        fake_of(searched(2)).harden()
