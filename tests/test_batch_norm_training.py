"""Batch norm during training with fake-quantized weights (whitepaper 3.2.2, eq. 22-31)."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autocompress.quantization import LayerBits, calibrate, harden, quantize
from autocompress.quantization.fakelayers import FakeLayer
from autocompress.quantization.fakequant import UniformFakeQuantizer
from autocompress.quantization.network import QuantizedNetwork

SIZE = (3, 8, 8)


def model(groups: int = 1, bias: bool = False, seed: int = 0) -> nn.Sequential:
    """Convolution, norm with its own long-term statistics, ReLU, classifier."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=bias, groups=3 if groups > 1 else 1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    )
    norm = net[1]
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_()
        norm.running_mean.normal_()  # type: ignore[union-attr]
        norm.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
    return net.eval()


def trainable(net: nn.Module, bits: int = 8, *, enabled: bool = True, **options: object) -> QuantizedNetwork:
    config = {name: LayerBits("q", bits) for name, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    network = quantize(net, config, lambda _, spec: UniformFakeQuantizer(spec), input_size=SIZE, trainable=True)
    calibrate(network, [torch.randn(16, *SIZE)])
    for fake in [*network.weight_fakes().values(), *network.activation_fakes().values()]:
        fake.enabled = enabled
    return network


def convolution(network: QuantizedNetwork) -> FakeLayer:
    return network.fake_layers()["0"]


@given(groups=st.sampled_from([1, 3]), bias=st.booleans(), seed=st.integers(0, 100), batch=st.integers(2, 9))
@settings(max_examples=20, deadline=None)
def test_without_quantization_it_is_batch_norm_in_training(groups: int, bias: bool, seed: int, batch: int) -> None:
    """Before the freeze of statistics, a layer equals a convolution and a batch norm in training.

    Outputs, long-term statistics and all gradients are equal.
    """
    plain = model(groups, bias, seed)
    layer = convolution(trainable(plain, enabled=False)).train()
    reference = copy.deepcopy(plain[:2]).train()
    x = torch.randn(batch, *SIZE)
    got, expected = layer(x), reference(x)
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(layer.norm.running_mean, reference[1].running_mean)  # type: ignore[union-attr]
    torch.testing.assert_close(layer.norm.running_var, reference[1].running_var)  # type: ignore[union-attr]
    weights = torch.randn_like(got)
    (got * weights).sum().backward()
    (expected * weights).sum().backward()
    for ours, theirs in (
        (layer.weight, reference[0].weight),
        (layer.norm.weight, reference[1].weight),  # type: ignore[union-attr]
        (layer.norm.bias, reference[1].bias),  # type: ignore[union-attr]
    ):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=2e-3, rtol=2e-3)


def test_without_quantization_the_frozen_phase_is_batch_norm_in_evaluation() -> None:
    plain = model(bias=True)
    layer = convolution(trainable(plain, enabled=False)).train()
    layer.norm.eval()  # type: ignore[union-attr]
    x = torch.randn(4, *SIZE)
    torch.testing.assert_close(layer(x), plain[:2](x), atol=1e-5, rtol=1e-5)


def test_weights_are_quantized_after_scaling_by_long_term_statistics() -> None:
    """The quantizer reads ``gamma W / sigma``, with the long-term sigma, for every batch.

    While long-term statistics stay the same, two batches have equal quantized weights.
    """
    network = trainable(model(), 4)
    layer = convolution(network).train()
    layer.norm.momentum = 0.0  # type: ignore[union-attr]
    seen: list[torch.Tensor] = []
    layer.weight_quantizer.register_forward_hook(lambda _m, args, out: seen.extend((args[0], out)))
    for scale in (0.1, 10.0):
        layer(scale * torch.randn(8, *SIZE))
    norm = layer.norm
    assert norm is not None
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()  # type: ignore[operator]
    torch.testing.assert_close(seen[0], layer.weight * factor.reshape(-1, 1, 1, 1))
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[3])


def test_the_naive_treatment_scales_by_the_batch() -> None:
    network = trainable(model(), 4)
    layer = convolution(network).train()
    layer.norm_treatment = "naive"
    layer.norm.momentum = 0.0  # type: ignore[union-attr]
    seen: list[torch.Tensor] = []
    layer.weight_quantizer.register_forward_hook(lambda _m, args, out: seen.append(args[0]))
    for scale in (0.1, 10.0):
        layer(scale * torch.randn(8, *SIZE))
    assert not torch.allclose(seen[0], seen[1])


def test_both_phases_are_equal_if_batch_and_long_term_statistics_are() -> None:
    """Before the freeze, a layer corrects its outputs by ratios of batch to long-term statistics.

    If both have equal mean and variance, the layer computes the same before and after the freeze.
    """
    network = trainable(model(), 4)
    for fake in network.activation_fakes().values():
        fake.enabled = False  # the frozen phase rounds biases to steps of a quantized input
    layer = convolution(network).train()
    x = torch.randn(64, *SIZE)
    norm = layer.norm
    assert norm is not None
    with torch.no_grad():
        y = layer.operate(x, layer.weight, layer.bias)
        norm.running_mean.copy_(y.mean((0, 2, 3)))  # type: ignore[union-attr]
        norm.running_var.copy_(y.var((0, 2, 3), correction=0))  # type: ignore[union-attr]
        norm.momentum = 0.0
        moving = layer(x)
        norm.eval()
        torch.testing.assert_close(moving, layer(x), atol=1e-5, rtol=1e-5)


def test_after_the_freeze_only_the_affine_parameters_learn() -> None:
    network = trainable(model(), 4)
    layer = convolution(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    network.train()
    norm = layer.norm
    assert norm is not None
    norm.eval()
    before = copy.deepcopy(norm.state_dict())
    for _ in range(3):
        optimizer.zero_grad()
        network(torch.randn(8, *SIZE)).square().sum().backward()
        optimizer.step()
    after = norm.state_dict()
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(before[name], after[name])
    assert not torch.equal(before["weight"], after["weight"])
    assert not torch.equal(before["bias"], after["bias"])


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_the_hardened_network_equals_the_trained_one(bits: int) -> None:
    """After training, the fake-quantized and the hardened network have equal outputs."""
    network = trainable(model(bias=True), bits)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    network.train()
    master = convolution(network).weight.detach().clone()
    for fake in network.weight_fakes().values():
        fake.tracking = True
    for _ in range(5):
        optimizer.zero_grad()
        network(torch.randn(8, *SIZE)).square().sum().backward()
        optimizer.step()
    assert not torch.equal(master, convolution(network).weight)
    network.eval()
    for layer in network.fake_layers().values():  # as `tracking` leaves them: ranges of the weights of the last step
        layer.weight_quantizer.tracking = False
        layer.weight_quantizer(layer.quantized_weight())
    x = torch.randn(16, *SIZE)
    torch.testing.assert_close(harden(network)(x), network(x), atol=2e-5, rtol=1e-4)


def test_before_training_the_trainable_network_equals_the_folded_one() -> None:
    """They have equal places, names and outputs in eval mode, and equal hardened states."""
    plain = model()
    config = {name: LayerBits("q", 4) for name in ("0", "5")}
    images = torch.randn(16, *SIZE)
    networks = []
    for kept in (False, True):
        net = quantize(plain, config, lambda _, spec: UniformFakeQuantizer(spec), input_size=SIZE, trainable=kept)
        calibrate(net, [images])
        networks.append(net)
    folded, kept_norms = networks
    assert folded.placement.activations.keys() == kept_norms.placement.activations.keys()
    torch.testing.assert_close(folded(images), kept_norms(images), atol=1e-5, rtol=1e-5)
    ours, theirs = harden(kept_norms).state_dict(), harden(folded).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(value.dtype == theirs[name].dtype for name, value in ours.items())


def test_a_layer_that_stays_in_float_keeps_its_folded_norm() -> None:
    plain = model()
    network = quantize(
        plain,
        {"0": LayerBits(None), "5": LayerBits("q")},
        lambda _, spec: UniformFakeQuantizer(spec),
        input_size=SIZE,
        trainable=True,
    )
    for fake in [*network.weight_fakes().values(), *network.activation_fakes().values()]:
        fake.enabled = False
    x = torch.randn(4, *SIZE)
    torch.testing.assert_close(network(x), plain(x), atol=1e-5, rtol=1e-5)


def test_statistics_are_as_exact_under_autocast_as_those_of_batch_norm() -> None:
    plain = model()
    layer = convolution(trainable(plain, enabled=False)).train()
    x = torch.randn(32, *SIZE) + 2
    with torch.autocast("cpu", torch.bfloat16):
        layer(x)
        plain[:2].train()(x)
    norm = plain[1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert layer.norm is not None
    torch.testing.assert_close(layer.norm.running_mean, norm.running_mean, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(layer.norm.running_var, norm.running_var, atol=1e-6, rtol=1e-6)
