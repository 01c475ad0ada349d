"""Cross-layer equalisation (Nagel et al. 2019, section 4.1): equal outputs, equal ranges."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_bn_folding import randomize
from torch import fx, nn

from autocompress.graph import trace
from autocompress.quantization import LayerBits, calibrate, fold_batch_norm, quantize
from autocompress.quantization.equalise import equalise
from autocompress.quantization.fakequant import UniformFakeQuantizer
from autocompress.quantization.lowering import lower


def lowered(model: nn.Module) -> fx.GraphModule:
    module = fold_batch_norm(model)
    lower(module)
    return module


def uneven(layer: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    """Sets output channels to very different sizes."""
    with torch.no_grad():
        factor = torch.logspace(-1.5, 1.5, layer.weight.shape[0])[torch.randperm(layer.weight.shape[0])]
        layer.weight.mul_(factor.reshape(-1, *[1] * (layer.weight.ndim - 1)))
    return layer


def of_outputs(layer: nn.Module) -> torch.Tensor:
    return layer.weight.detach().abs().flatten(1).amax(1)


def of_inputs(layer: nn.Module) -> torch.Tensor:
    """Ranges of the input channels of a layer without groups."""
    return layer.weight.detach().abs().transpose(0, 1).flatten(1).amax(1)


def unchanged(module: nn.Module, x: torch.Tensor, pairs: int | None = None) -> fx.GraphModule:
    """Equalises a copy in float64, and compares it."""
    graph, x = lowered(module.double().eval()), x.double()
    with torch.no_grad():
        before = graph(x)
        found = equalise(graph)
        after = graph(x)
    # In double precision: the order of additions differs between processors, and costs three more
    # digits in a deep network.
    torch.testing.assert_close(after, before, rtol=1e-7, atol=1e-8 * float(before.abs().max()))
    assert pairs is None or found == pairs
    return graph


def test_the_ranges_of_a_pair_become_their_geometric_mean() -> None:
    """Eq. 11: s = sqrt(r1 r2) / r2, so both sides have sqrt(r1 r2)."""
    model = nn.Sequential(uneven(nn.Conv2d(3, 8, 3, bias=False)), nn.ReLU(), nn.Conv2d(8, 5, 3))
    expected = (of_outputs(model[0]) * of_inputs(model[2])).sqrt()
    graph = unchanged(model, torch.randn(2, 3, 9, 9), pairs=1)
    torch.testing.assert_close(of_outputs(graph.get_submodule("0")).float(), expected)
    torch.testing.assert_close(of_inputs(graph.get_submodule("2")).float(), expected)


def test_a_chain_with_a_depthwise_layer_converges() -> None:
    first, depthwise, last = (
        nn.Conv2d(4, 8, 1, bias=False),
        nn.Conv2d(8, 8, 3, groups=8, bias=False),
        nn.Conv2d(8, 6, 1),
    )
    graph = unchanged(
        nn.Sequential(uneven(first), nn.ReLU(), uneven(depthwise), nn.ReLU(), last), torch.randn(2, 4, 8, 8), 2
    )
    first, depthwise, last = (graph.get_submodule(name) for name in "024")
    torch.testing.assert_close(of_outputs(first), of_outputs(depthwise), rtol=1e-2, atol=0)
    torch.testing.assert_close(of_outputs(depthwise), of_inputs(last), rtol=1e-2, atol=0)


class Net(nn.Module):
    """Two layers with a function between them."""

    def __init__(self, between: Callable[[torch.Tensor], torch.Tensor], second: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), second or nn.Conv2d(8, 4, 3)
        self.prelu, self.norm = nn.PReLU(8), nn.GroupNorm(2, 8)
        self.between = between

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.between(self, self.first(x)))


CROSSED = {
    "nothing": lambda _, y: y,
    "relu": lambda _, y: F.relu(y),
    "method": lambda _, y: y.relu(),
    "clamp at zero": lambda _, y: y.clamp(min=0),
    "leaky": lambda _, y: F.leaky_relu(y, 0.2),
    "prelu": lambda net, y: net.prelu(y),
    "dropout": lambda _, y: F.dropout(y.relu(), 0.5, False),
    "max pool": lambda _, y: F.max_pool2d(y, 2),
    "average pool": lambda _, y: F.avg_pool2d(y.relu(), 2),
    "zeros": lambda _, y: F.pad(y, (1, 1, 1, 1)),
}
BORDERS = {
    "relu6": lambda _, y: F.relu6(y),
    "clamp": lambda _, y: y.clamp(0, 3),
    "clamp above zero": lambda _, y: y.clamp(min=0.5),
    "hard swish": lambda _, y: F.hardswish(y),
    "silu": lambda _, y: F.silu(y),
    "gelu": lambda _, y: F.gelu(y),
    "sigmoid": lambda _, y: y.sigmoid(),
    "group norm": lambda net, y: net.norm(y),
    "offset": lambda _, y: y + 1.0,
    "residual": lambda _, y: y + y.relu(),
    "gate": lambda _, y: y * y.mean((2, 3), keepdim=True).sigmoid(),
    "ones": lambda _, y: F.pad(y, (1, 1, 1, 1), value=1.0),
    "more channels": lambda _, y: F.pad(y, (0, 0, 0, 0, 0, 4))[:, 4:],
    "shuffle": lambda _, y: y.flip(1),
}


@pytest.mark.parametrize("name", CROSSED)
def test_homogeneous_functions_are_crossed(name: str) -> None:
    unchanged(Net(CROSSED[name]), torch.randn(2, 3, 12, 12), pairs=1)


@pytest.mark.parametrize("name", BORDERS)
def test_other_functions_are_not_crossed(name: str) -> None:
    unchanged(Net(BORDERS[name], nn.Conv2d(8, 4, 3)), torch.randn(2, 3, 12, 12), pairs=0)


def test_from_a_convolution_to_the_classifier() -> None:
    heads = {
        "pool and flatten": lambda _, y: F.adaptive_avg_pool2d(y.relu(), 1).flatten(1),
        "mean": lambda _, y: y.relu().mean((2, 3)),
    }
    for head in heads.values():
        unchanged(Net(head, nn.Linear(8, 5)), torch.randn(2, 3, 12, 12), pairs=1)
    positions = Net(lambda _, y: y.relu().flatten(1), nn.Linear(8 * 100, 5))
    unchanged(positions, torch.randn(2, 3, 12, 12), pairs=0)
    columns = Net(lambda _, y: y.relu(), nn.Linear(10, 5))  # reads the last axis, not the channels
    unchanged(columns, torch.randn(2, 3, 12, 12), pairs=0)
    regrouped = Net(lambda _, y: F.adaptive_avg_pool2d(y, 1).reshape(-1, 4), nn.Linear(4, 5))
    unchanged(regrouped, torch.randn(2, 3, 12, 12), pairs=0)


def test_a_layer_that_is_called_twice_is_not_changed() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.shared = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.shared(self.shared(self.first(x)).relu())

    unchanged(Twice(), torch.randn(3, 4), pairs=0)


LAYER = st.tuples(
    st.sampled_from([4, 8, 12]),  # output channels
    st.sampled_from([1, 2, 4, "depthwise"]),  # groups
    st.sampled_from([nn.ReLU, nn.Identity, lambda: nn.LeakyReLU(0.1), lambda: nn.MaxPool2d(3, 1, 1)]),
    st.booleans(),  # a bias
    st.booleans(),  # a batch norm
)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(LAYER, min_size=2, max_size=4), st.integers(0, 2**31))
def test_outputs_stay_equal(stack: list[tuple[int, int | str, Callable[[], nn.Module], bool, bool]], seed: int) -> None:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    width = 4
    for wanted, groups, act, bias, norm in stack:
        before, width = width, width if groups == "depthwise" else wanted
        parts = before if groups == "depthwise" else int(groups)
        layers.append(uneven(nn.Conv2d(before, width, 3, padding=1, groups=parts, bias=bias)))
        layers += [nn.BatchNorm2d(width)] if norm else []
        layers.append(act())
    unchanged(randomize(nn.Sequential(*layers)), torch.randn(2, 4, 6, 6), pairs=len(stack) - 1)


def test_a_norm_of_its_own_is_a_layer_too() -> None:
    """A norm that cannot be folded becomes a depthwise convolution, as in DenseNets."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    unchanged(randomize(model), torch.randn(2, 3, 12, 12), pairs=2)


@pytest.mark.parametrize(
    ("name", "pairs"),
    [("resnet18", 8), ("regnety_002", 26), ("mobilenetv3_small_100", 14), ("convnext_atto", 0)],
)
def test_whole_networks(name: str, pairs: int) -> None:
    """There are two layers in a basic block and squeeze-and-excite gates with ReLU.

    GELU is not crossed.
    """
    unchanged(randomize(timm.create_model(name, num_classes=10)), torch.randn(2, 3, 32, 32), pairs)


def test_dead_channels_and_large_biases_are_respected() -> None:
    first, second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 1)
    with torch.no_grad():
        first.weight[0] = 0.0  # no input
        second.weight[:, 1] = 0.0  # no reader
        first.weight[2], first.bias[2] = 1e-5, 0.3  # almost nothing but a bias
        first.bias[3] = 0.6
    before = [first.weight.clone(), first.bias.clone(), second.weight.clone()]
    graph = unchanged(nn.Sequential(first, nn.ReLU(), second), torch.randn(2, 3, 5, 5), pairs=1)
    first, second = graph.get_submodule("0"), graph.get_submodule("2")
    for channel in (0, 1):
        assert torch.equal(first.weight[channel].float(), before[0][channel])
        assert torch.equal(second.weight[:, channel].float(), before[2][:, channel])
    assert float(first.bias[2].detach().abs()) <= 0.6 + 1e-6  # alone, the weights would give a factor of 100
    assert bool(torch.isfinite(first.weight).all())


def test_nan_weights_change_no_other_pair() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    model[0].weight.data[1, 1] = math.nan
    graph = trace(model.eval())
    equalise(graph)
    assert bool(torch.isfinite(model[2].weight).all())


@pytest.mark.parametrize("trainable", [False, True])
def test_it_improves_the_quantized_network(trainable: bool) -> None:
    """With one scale per layer and very different channels, the error falls.

    Norms may be folded or not.
    """
    torch.manual_seed(1)
    convolutions = [uneven(nn.Conv2d(3, 16, 3)), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 8, 3)]
    model = nn.Sequential(
        convolutions[0], nn.BatchNorm2d(16), nn.ReLU(), convolutions[1], nn.BatchNorm2d(16), nn.ReLU(), convolutions[2]
    )
    images = torch.randn(16, 3, 12, 12)
    for _ in range(20):
        model(images)
    with torch.no_grad():
        model[1].weight.copy_(torch.logspace(-2, 1, 16))
        convolutions[1].weight.mul_(torch.logspace(2, -1, 16).reshape(1, -1, 1, 1))
    model.eval()
    config = {str(index): LayerBits("quantize", group="all") for index in (0, 3, 6)}
    errors = {}
    for equalised in (False, True):
        network = quantize(
            model,
            config,
            lambda _, spec: UniformFakeQuantizer(spec, per_channel=False),
            input_size=(3, 12, 12),
            trainable=trainable,
            equalise=equalised,
        )
        calibrate(network, [images])
        with torch.no_grad():
            errors[equalised] = float((network(images) - model(images)).square().mean())
    assert errors[True] < 0.3 * errors[False]
