"""The adder layer.

Operation and gradients as in the paper, removal of channels, integers, and its file.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autocompress.contract import FakeQuantizer, Grid, Hardened, TensorSpec
from autocompress.export import check_agreement, custom_operators, export, operator_histogram
from autocompress.graph import trace
from autocompress.quantization import operator_counts
from autocompress.quantization.fakequant import UniformFakeQuantizer
from autocompress.quantization.ops import fake_quant
from autocompress.training import make_optimizer
from autocompress_adder import exporting
from autocompress_adder.integers import HardenedAdder2d, cut_off, simulated
from autocompress_adder.layer import AdderConv2d
from autocompress_adder.spec import AdderSpec

SPEC = AdderSpec()


def layer(
    channels: int = 4, filters: int = 6, kernel: int = 3, stride: int = 1, padding: int = 1, *, norm: bool = False
) -> AdderConv2d:
    made = AdderConv2d(channels, filters, kernel, (stride, stride), (padding, padding), norm=norm)
    with torch.no_grad():
        made.bias.copy_(torch.randn(filters))
    if isinstance(made.norm, nn.BatchNorm2d):
        nn.init.normal_(made.norm.weight)
        nn.init.normal_(made.norm.bias)
        made.norm.running_mean = torch.randn(filters) - channels * kernel**2
        made.norm.running_var = torch.rand(filters) * channels * kernel**2 + 0.5
    return made.eval()


def by_hand(x: torch.Tensor, weight: torch.Tensor, stride: int, padding: int) -> torch.Tensor:
    """The definition, with every difference written out, in double precision."""
    patches = F.unfold(x.double(), weight.shape[2:], padding=padding, stride=stride)
    distances = (patches[:, None] - weight.double().flatten(1)[None, :, :, None]).abs().sum(2)
    high = (x.shape[2] + 2 * padding - weight.shape[2]) // stride + 1
    return -distances.unflatten(2, (high, -1))


class OneLayer(nn.Module):
    """A network of one adder layer and a classifier."""

    def __init__(self, adder: nn.Module, classes: int = 5) -> None:
        super().__init__()
        self.adder = adder
        self.fc = nn.Linear(adder.out_channels, classes)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.adder(x).mean((2, 3)))


# --- the operation --------------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (1, 1, 0), (1, 2, 0), (5, 2, 2)])
def test_it_is_the_negative_distance_and_the_bias(kernel: int, stride: int, padding: int) -> None:
    adder, x = layer(kernel=kernel, stride=stride, padding=padding), torch.randn(2, 4, 9, 7)
    expected = by_hand(x, adder.weight.detach(), stride, padding) + adder.bias.double()[:, None, None]
    torch.testing.assert_close(adder(x).double(), expected, rtol=1e-5, atol=1e-4)


def test_small_examples() -> None:
    adder = AdderConv2d(1, 1, 2)
    adder.weight.data = torch.tensor([[[[0.0, 1.0], [2.0, 5.0]]]])
    assert adder(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])).item() == -4
    assert adder(adder.weight.detach()).item() == 0
    padded = AdderConv2d(1, 1, 3, padding=(1, 1))
    padded.weight.data.fill_(2.0)
    expected = torch.tensor([[[[-14.0, -12, -14], [-12, -9, -12], [-14, -12, -14]]]])
    assert torch.equal(padded(torch.ones(1, 1, 3, 3)), expected)


def test_the_filters_gradient_has_full_precision() -> None:
    """The gradient is sum_m G (P - W), as autograd computes it for ``-||P - W||^2 / 2``."""
    adder, x = layer(stride=2).double(), torch.randn(2, 4, 7, 7).double()
    slope = torch.randn(2, 6, 4, 4).double()
    adder(x).backward(slope)
    assert adder.weight.grad is not None
    weight = adder.weight.detach().clone().requires_grad_()
    patches = F.unfold(x, 3, padding=1, stride=2)
    squares = -0.5 * (patches[:, None] - weight.flatten(1)[None, :, :, None]).square().sum(2)
    squares.backward(slope.flatten(2))
    torch.testing.assert_close(adder.weight.grad, weight.grad, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("apart", "expected"), [(3.0, -1.0), (0.5, -0.5), (-3.0, 1.0)])
def test_the_inputs_gradient_is_clipped(apart: float, expected: float) -> None:
    """The gradient of the input is x - w, limited to -1..1 (HardTanh, AdderNet, section 3.2)."""
    adder = AdderConv2d(1, 1, 1)
    x = (adder.weight.detach() + apart).requires_grad_()
    adder(x).sum().backward()
    assert x.grad is not None
    assert float(x.grad) == pytest.approx(expected, abs=1e-6)


def test_mean_and_variance_of_outputs() -> None:
    """The variance is (1 - 2/pi) K (Var X + Var F) with K = 576, the mean -K sqrt(2/pi) sqrt(2)."""
    adder = AdderConv2d(576, 1024, 1)
    y = adder(torch.randn(8, 576, 16, 16)).detach().double()
    assert float(y.var()) == pytest.approx((1 - 2 / math.pi) * 576 * 2, rel=0.03)
    assert float(y.mean()) == pytest.approx(-576 * math.sqrt(2 / math.pi) * math.sqrt(2), rel=0.01)


def test_before_its_turn_it_is_a_convolution() -> None:
    adder, x = layer(stride=2), torch.randn(2, 4, 9, 9)
    adder.as_convolution = True
    torch.testing.assert_close(adder(x), F.conv2d(x, adder.weight, adder.bias, 2, 1))
    adder.p = 1.5
    adder.finish()
    expected = by_hand(x, adder.weight.detach(), 2, 1) + adder.bias.double()[:, None, None]
    torch.testing.assert_close(adder(x).double(), expected, rtol=1e-5, atol=1e-4)


def test_operators_are_counted_without_multiplications() -> None:
    """M output positions, O filters and K taps for each filter need 2 M K O additions."""
    model = OneLayer(layer(channels=4, filters=6, stride=2)).eval()
    counts = operator_counts(model, (4, 8, 8), [SPEC])
    taps = 16 * (4 * 9) * 6
    found = {c.kind: c.operations for c in counts if c.layer == "adder"}
    assert found == {"add": taps, "accumulate": taps}, "2 M K O additions, no multiplication"


def test_it_is_one_node_of_the_graph() -> None:
    names = [node.target for node in trace(OneLayer(layer(norm=True)), (SPEC.layer_type,)).graph.nodes]
    assert names[1] == "adder"
    assert SPEC.channel_map(layer()).tolist() == list(range(6))


# --- integers -------------------------------------------------------------------------------------


@given(
    low=st.floats(-3, 0),
    width=st.floats(0.1, 3),
    spread=st.floats(0.1, 5),
    seed=st.integers(0, 99),
    stride=st.sampled_from([1, 2]),
)
@settings(max_examples=20, deadline=None)
def test_clipped_weights_add_a_constant(low: float, width: float, spread: float, seed: int, stride: int) -> None:
    """This holds for any range that contains the inputs and the zero of the padding."""
    torch.manual_seed(seed)
    high = max(low + width, 0.0)
    x = torch.rand(2, 3, 6, 6, dtype=torch.float64) * (high - low) + low
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64) * spread
    whole = by_hand(x, weight, stride, 1)
    clipped = by_hand(x, weight.clamp(low, high), stride, 1) + cut_off(weight, low, high)[:, None, None]
    torch.testing.assert_close(clipped, whole, rtol=1e-9, atol=1e-9)


@given(scale=st.floats(0.01, 50), other=st.floats(1.2, 4), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_only_a_scale_shared_by_inputs_and_weights_scales_outputs(scale: float, other: float, seed: int) -> None:
    torch.manual_seed(seed)
    adder, x = AdderConv2d(3, 4, 3, padding=(1, 1)).double(), torch.randn(2, 3, 5, 5).double()
    scaled, unequal = copy.deepcopy(adder), copy.deepcopy(adder)
    scaled.weight.data *= scale
    unequal.weight.data *= scale * other
    torch.testing.assert_close(scaled(x * scale), adder(x) * scale, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(unequal(x * scale), adder(x) * scale, rtol=1e-3)


def test_shifting_inputs_and_weights_equally_changes_nothing() -> None:
    """There is no padding, because its zeros would not be shifted."""
    adder, x = layer(padding=0).double(), torch.randn(2, 4, 6, 6).double()
    shifted = copy.deepcopy(adder)
    shifted.weight.data += 1.7
    torch.testing.assert_close(shifted(x + 1.7), adder(x), rtol=1e-9, atol=1e-9)


def quantizer(x: torch.Tensor, bits: int, *, nonnegative: bool) -> UniformFakeQuantizer:
    """Of an activation, calibrated on ``x``."""
    spec = TensorSpec("a", "activation", "g", "activation", tuple(x.shape), bits, nonnegative=nonnegative)
    fake = UniformFakeQuantizer(spec, estimator="minmax")
    fake.observing, fake.enabled = True, False
    fake(x)
    fake.finish_observing()
    fake.observing, fake.enabled = False, True
    return fake


def reads(layer: AdderConv2d, fake: UniformFakeQuantizer) -> AdderConv2d:
    """Sets the quantizer without registering it as a submodule, as the engine does.

    The network owns it.
    """
    layer.__dict__["input_quantizer"] = fake
    return layer


def grid_of(fake: UniformFakeQuantizer) -> Grid:
    return Grid(float(fake.scale), int(fake.zero_point), fake.codes.low, fake.codes.high)


@pytest.mark.parametrize("bits", [8, 6, 4])
@pytest.mark.parametrize("nonnegative", [True, False])
@pytest.mark.parametrize("norm", [True, False])
def test_the_hardened_layer_equals_the_simulated_one(bits: int, nonnegative: bool, norm: bool) -> None:
    adder, x = layer(stride=2, norm=norm), torch.randn(3, 4, 9, 9)
    x = x.relu() if nonnegative else x
    fake = quantizer(x, bits, nonnegative=nonnegative)
    simulation = SPEC.simulated(adder)
    assert isinstance(simulation, AdderConv2d)
    assert dict(simulation.named_parameters()).keys() == dict(adder.named_parameters()).keys()
    assert simulation.weight is adder.weight
    reads(simulation, fake)
    hardened = SPEC.hardened(simulation, grid_of(fake))
    assert isinstance(hardened, SPEC.layer_type)
    assert isinstance(hardened, HardenedAdder2d)
    assert hardened.weight_bits == hardened.input_bits == bits
    assert hardened.weight.dtype == torch.uint8
    assert int(hardened.weight.max()) < 2**bits
    with torch.no_grad():
        torch.testing.assert_close(hardened(fake(x)), simulation(fake(x)), rtol=1e-4, atol=1e-3)
    assert not list(hardened.parameters())
    rest = AdderSpec().hardened(copy.deepcopy(simulation), Grid(1.0, 3, 0, 2**bits - 1))
    shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in hardened.state_dict().items()}
    assert shapes == {name: (tensor.shape, tensor.dtype) for name, tensor in rest.state_dict().items()}


def test_eight_bits_are_near_the_float_layer() -> None:
    """The weights are far wider than the inputs, so nearly all are clipped. Outputs still agree."""
    adder, x = layer(channels=16, filters=8), torch.randn(2, 16, 8, 8).relu()
    adder.weight.data *= 8
    fake = quantizer(x, 8, nonnegative=True)
    simulation = reads(simulated(adder), fake)
    with torch.no_grad():
        error = (simulation(fake(x)) - adder(x)).std() / adder(x).std(dim=(0, 2, 3)).mean()
        fake.enabled = False
        assert torch.equal(simulation(x), adder(x)), "the layer is in float if its input is"
        fake.enabled, fake.observing = True, True
        assert torch.equal(simulation(x), adder(x))
    assert float(error) < 0.02


def test_the_simulated_layer_trains_its_own_weight() -> None:
    adder, x = layer(norm=True), torch.randn(4, 4, 8, 8)
    fake = quantizer(x, 6, nonnegative=False)
    simulation = reads(simulated(adder).train(), fake)
    simulation(fake(x)).square().sum().backward()
    assert adder.weight.grad is not None
    assert bool(adder.weight.grad.isfinite().all())
    assert float(adder.weight.grad.abs().max()) > 0
    clone = copy.deepcopy(nn.ModuleDict({"fake": fake, "layer": simulation}))
    assert clone["layer"].input_quantizer is clone["fake"]


def test_weights_outside_the_grid_are_trained_too() -> None:
    """Section 2: the gradient is G^T P - (sum G) W, without clipping.

    After a ReLU, every negative weight is outside the grid.
    """
    adder, x = layer(padding=0), torch.randn(4, 4, 6, 6).relu()
    fake = quantizer(x, 8, nonnegative=True)
    simulation = reads(simulated(adder), fake)
    y = simulation(fake(x))
    g = torch.randn_like(y)
    y.backward(g)
    held = fake_quant(adder.weight.detach(), fake.scale, fake.zero_point, fake.codes.low, fake.codes.high)
    patches = F.unfold(fake(x), 3)  # (N, K, L)
    by_rule = torch.einsum("nol,nkl->ok", g.flatten(2), patches) - g.sum((0, 2, 3))[:, None] * held.flatten(1)
    assert adder.weight.grad is not None
    torch.testing.assert_close(adder.weight.grad.flatten(1), by_rule, rtol=1e-4, atol=1e-3)
    assert float(adder.weight.grad[adder.weight < 0].abs().min()) > 0


class Foreign(FakeQuantizer):
    """A quantizer of another plugin, which shows its grid only in ``harden``."""

    def __init__(self, inner: UniformFakeQuantizer) -> None:
        super().__init__(inner.spec)
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.inner(x)
        return found

    def harden(self, weight: torch.Tensor | None = None) -> Hardened:
        return self.inner.harden(weight)


def test_the_grid_of_any_quantizer_is_found() -> None:
    adder, x = layer(), torch.randn(2, 4, 6, 6)
    fake = quantizer(x, 4, nonnegative=False)
    foreign = Foreign(fake)
    foreign.observing, foreign.enabled = False, True
    known, unknown = (reads(simulated(adder), one) for one in (fake, foreign))  # type: ignore[arg-type]
    assert not torch.equal(known(fake(x)), adder(fake(x)))
    torch.testing.assert_close(unknown(fake(x)), known(fake(x)))


# --- channels removed -----------------------------------------------------------------------------


def test_a_zero_input_channel_can_be_removed() -> None:
    adder, x = layer(stride=2, norm=True).double(), torch.randn(2, 4, 7, 7).double()
    x[:, [1, 3]] = 0
    before, tensors = adder(x), [adder.weight.clone(), adder.bias.clone()]
    sliced = copy.deepcopy(adder, {id(tensor): tensor for tensor in adder.parameters()})
    pruner = SPEC.pruner()
    pruner.prune_in_channels(sliced, [1, 3])  # type: ignore[attr-defined]
    assert (sliced.in_channels, pruner.get_in_channels(sliced)) == (2, 2)  # type: ignore[attr-defined]
    torch.testing.assert_close(sliced(x[:, [0, 2]]), before, rtol=1e-9, atol=1e-9)
    assert torch.equal(adder.weight, tensors[0])
    assert torch.equal(adder.bias, tensors[1]), "slicing must replace tensors, never write into one"


def test_filters_can_be_removed() -> None:
    adder, x = layer(norm=True), torch.randn(2, 4, 7, 7)
    before = adder(x)
    SPEC.pruner().prune_out_channels(adder, [0, 5])  # type: ignore[attr-defined]
    assert adder.out_channels == 4
    torch.testing.assert_close(adder(x), before[:, 1:5])


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [6, 3, 2, 4, 1])
def test_the_file_agrees(most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For all filters at once, in equal chunks, in unequal chunks, and one by one.

    It is always one node.
    """
    monkeypatch.setattr(exporting, "NUMBERS", 36 * 16 * most)
    model, file = OneLayer(layer(stride=2, norm=True)).eval(), tmp_path / "m.onnx"
    export(model, file, (4, 8, 8), specs=[SPEC])
    assert not custom_operators(file)
    assert operator_histogram(file).get("Scan", 0) == (most < 6)
    assert str(Path(exporting.__file__).parent).encode() not in file.read_bytes(), "also not in the body of a loop"
    agreement = check_agreement(file, model, torch.randn(33, 4, 8, 8), batch_size=32)
    assert agreement.labels == 1.0
    assert agreement.max_error < 1e-5


@pytest.mark.parametrize("most", [6, 4])
def test_the_hardened_file_agrees(most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "NUMBERS", 36 * 64 * most)
    x = torch.randn(16, 4, 8, 8)
    fake = quantizer(x, 8, nonnegative=False)
    simulation = simulated(layer(norm=True))
    model = OneLayer(HardenedAdder2d(simulation, grid_of(fake))).eval()
    export(model, tmp_path / "m.onnx", (4, 8, 8), specs=[SPEC])
    assert not custom_operators(tmp_path / "m.onnx")
    agreement = check_agreement(tmp_path / "m.onnx", model, fake(x))
    assert agreement.labels == 1.0
    assert agreement.max_error < 1e-5


def test_filters_are_computed_in_chunks_that_fit_into_memory() -> None:
    assert exporting.chunk(64, 100) == 64
    assert exporting.chunk(64, exporting.NUMBERS) == 1
    assert exporting.chunk(16, exporting.NUMBERS // 4) == 4
    assert exporting.chunk(10, exporting.NUMBERS // 9) == 5, "two chunks of equal size need no padding"
    assert exporting.chunk(8, 10 * exporting.NUMBERS) == 1


def test_it_trains_in_channels_last() -> None:
    adder = layer(norm=True).train().to(memory_format=torch.channels_last)
    x = torch.randn(4, 4, 8, 8).to(memory_format=torch.channels_last)
    plain = copy.deepcopy(adder).to(memory_format=torch.contiguous_format)
    torch.testing.assert_close(adder(x), plain(x.contiguous()), rtol=1e-4, atol=1e-4)
    optimizer = make_optimizer("sgd", [{"params": [adder.weight]}], 0.1)
    adder(x).square().mean().backward()
    optimizer.step()
    assert bool(adder.weight.isfinite().all())
