"""Exact statements of the quantization whitepaper (arXiv 1806.08342) about networks.

Statements about grids are in test_scales, about observers in test_observers, about one
fake-quantizer in test_fakequant, about batch norm while training in test_batch_norm_training, about
training in test_qat, about sizes in test_export. Stochastic rounding (section 2.3) is not
implemented, because the paper finds that it makes training worse and does not help without
training.
"""

from __future__ import annotations

import math

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_bn_folding import randomize
from torch import nn

from autocompress.contract import Context, TensorSpec
from autocompress.graph import facts
from autocompress.graph.kinds import activation_name, kind
from autocompress.quantization import LayerBits, QuantizedNetwork, calibrate, fold_batch_norm, harden, quantize
from autocompress.quantization.fakequant import UniformFakeQuantizer
from autocompress.quantization.observers import MovingAverage
from autocompress_quantize import Quantize

SIZE = (3, 32, 32)
PARAMS = {
    "weight_granularity": "per_channel",
    "weight_grid": "symmetric",
    "depthwise_bits": "same",
    "weight_range": "minmax",
    "activation_range": "ema_minmax",
    "calibration_images": 256,
}


def quantized(
    model: nn.Module, images: torch.Tensor, bits: int = 8, exempt: tuple[str, ...] = (), **params: str
) -> QuantizedNetwork:
    size = (images.shape[1], images.shape[2], images.shape[3])
    context, method = Context(input_size=size), Quantize()
    config = {
        name: LayerBits("quantize", bits, 8, group="all") for name in facts(model, size).layers if name not in exempt
    }
    network = quantize(
        model, config, lambda _, spec: method.apply(spec, {**PARAMS, **params}, context), input_size=size
    )
    calibrate(network, [images])
    return network


def decibels(signal: torch.Tensor, other: torch.Tensor) -> float:
    """The signal-to-noise ratio, as in appendix A."""
    return 10 * math.log10(float(signal.square().sum() / (signal - other).square().sum()))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.sampled_from([(8, 16, 1), (8, 16, 4), (8, 8, 8), (8, 16, 8)]), st.booleans(), st.integers(0, 2**31))
def test_a_folded_norm_gives_equal_outputs(shape: tuple[int, int, int], bias: bool, seed: int) -> None:
    """Eq.

    20 and 21: to 1e-5 in float32 and exactly in float64, for plain, grouped and depthwise layers.
    """
    torch.manual_seed(seed)
    channels, outputs, groups = shape
    model = nn.Sequential(nn.Conv2d(channels, outputs, 3, groups=groups, bias=bias), nn.BatchNorm2d(outputs))
    model, x = randomize(model), torch.randn(2, channels, 6, 6)
    with torch.no_grad():
        expected = model(x)
        assert float((fold_batch_norm(model)(x) - expected).abs().max()) < 1e-5 * max(1.0, float(expected.abs().max()))
        model, x = model.double(), x.double()
        expected = model(x)
        assert float((fold_batch_norm(model)(x) - expected).abs().max()) < 5e-15 * float(expected.abs().max())


def test_ranges_come_from_the_folded_weight() -> None:
    """Section 3.2.1.

    Without folding first, results would be better than those of the deployed model.
    """
    model = randomize(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()))
    scale = quantized(model, torch.randn(4, *SIZE)).fake_layers()["0"].weight_quantizer.scale
    norm = model[1]
    folded = model[0].weight * (norm.weight / (norm.running_var + norm.eps).sqrt()).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(scale, folded.detach().abs().flatten(1).amax(1) / 127)


@given(st.floats(0.125, 100, width=32), st.floats(-1.5, 5, width=32), st.booleans())
@settings(max_examples=40, deadline=None, derandomize=True)
def test_a_moving_average_range_always_contains_zero(size: float, offset: float, is_symmetric: bool) -> None:
    x = size * (torch.rand(4, 8) + offset)
    fake = UniformFakeQuantizer(TensorSpec("x", "activation", "", "conv", (1, 8)), is_symmetric=is_symmetric)
    fake.observing = True
    fake(x)
    fake.observing = False
    fake.finish_observing()
    low = (fake.codes.low - fake.zero_point) * fake.scale
    high = (fake.codes.high - fake.zero_point) * fake.scale
    assert float(low) <= 0.0 <= float(high)
    assert float(fake(torch.zeros(1))) == 0.0
    assert float(low) <= float(x.min()) + 0.51 * float(fake.scale)
    assert float(x.max()) <= float(high) + 0.51 * float(fake.scale)


def test_a_moving_average_is_constant_for_constants_and_in_evaluation() -> None:
    average = MovingAverage()
    for _ in range(5):
        average.observe(torch.tensor([-2.0, 3.0]))
    assert [float(end) for end in average.range()] == pytest.approx([-2.0, 3.0])
    fake = UniformFakeQuantizer(TensorSpec("x", "activation", "", "conv", (1, 8)))
    fake.observing = True
    fake(torch.tensor([[-2.0, 3.0]]))
    fake.observing = False
    fake.finish_observing()
    before, fake.tracking = fake.scale.clone(), True
    fake.eval()(torch.tensor([[-20.0, 30.0]]))
    assert torch.equal(fake.scale, before)
    fake.train()(torch.tensor([[-20.0, 30.0]]))
    assert float(fake.scale) > float(before)


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050", "densenet121"])
def test_every_layer_except_the_exempt_is_quantized(name: str) -> None:
    """Layers are counted, so that none stays in float unnoticed."""
    model = timm.create_model(name, num_classes=10).eval()
    layers = {n for n, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    exempt = tuple(sorted(layers))[:2]
    network = quantized(model, torch.rand(2, *SIZE), exempt=exempt)
    of_model = {
        n for n in network.fake_layers() if n in layers
    }  # besides them, there are norms that became layers of their own
    assert of_model == layers - set(exempt)


@pytest.mark.parametrize("name", ["resnet10t", "regnety_002"])
def test_there_is_no_rounding_between_an_addition_and_its_relu(name: str) -> None:
    """Section 3.2.1: the runtime fuses them to one operator."""
    network = quantized(timm.create_model(name, num_classes=10).eval(), torch.rand(2, *SIZE))
    additions = [node for node in network.graph.nodes if kind(node) == "add"]
    assert additions
    for node in additions:
        (reader,) = node.users
        assert kind(reader) == "activation"
        assert activation_name(reader) == "relu"
        assert all(str(user.target).startswith("quantizers.") for user in reader.users)


def test_dead_channels_stay_dead_through_a_network() -> None:
    """Weights are zero, and so are their norms. There must be no NaN and no infinity."""
    model = randomize(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3, bias=False)))
    with torch.no_grad():
        model[1].weight[2], model[1].bias[2] = 0.0, 0.0
        model[3].weight[1] = 0.0
    images = torch.randn(4, *SIZE)
    for grid in Quantize.grids:
        for bits in (2, 8):
            network = quantized(model, images, bits, weight_grid=grid)
            for found in (network, harden(network)):
                with torch.no_grad():
                    y = found(images)
                assert bool(y.isfinite().all())
                assert not y[:, 1].any()


def uneven_network() -> nn.Module:
    """A network with very uneven folded weights, as in a MobileNet.

    The inputs of a depthwise layer differ in size, and its norm makes them equal again. So the
    folded weights of both layers differ between channels by a factor of a thousand, and all
    channels matter equally.
    """
    layers: list[nn.Module] = []
    for before, behind, groups in ((3, 16, 1), (16, 16, 16), (16, 16, 1)):
        layers += [nn.Conv2d(before, behind, 3, groups=groups, bias=False), nn.BatchNorm2d(behind), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Conv2d(16, 10, 1))
    model[1].weight.data = torch.logspace(-2, 1, 16)[torch.randperm(16)]
    for norm in (model[1], model[4], model[7]):
        norm.eps = 1e-12
    for _ in range(100):
        model(torch.rand(16, *SIZE))
    return model.eval()


def test_with_folded_norms_one_scale_per_layer_loses_accuracy() -> None:
    """Table 2 (weights alone) and appendix A.

    At 8 bits, scales per channel lose little and one scale per layer almost everything, because
    folded norms make channels differ by a factor of a thousand. At 4 bits, scales per channel are
    not enough.
    """
    model, images = uneven_network(), torch.rand(16, *SIZE)
    ratio = {}
    with torch.no_grad():
        expected = model(images)
        for bits in (8, 4):
            for granularity in Quantize.granularities:
                network = quantized(model, images, bits, weight_granularity=granularity)
                for fake in network.activation_fakes().values():
                    fake.enabled = False
                ratio[bits, granularity] = decibels(expected, network(images))
    assert ratio[8, "per_channel"] > 35
    assert ratio[8, "per_tensor"] < 10
    assert ratio[4, "per_tensor"] < ratio[4, "per_channel"] < ratio[8, "per_channel"] - 15
