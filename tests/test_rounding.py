"""Rounding from moments: its algebra, the levels of quantizers, and whole networks."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn

from autocompress.compression import quantize
from autocompress.contract import Context, Space, TensorSpec, TransferSet
from autocompress.data import DataInfo
from autocompress.data.tensors import TensorSplit
from autocompress.graph import facts
from autocompress.quantization import network
from autocompress.quantization.fakequant import UniformFakeQuantizer
from autocompress.quantization.placement import LayerBits
from autocompress.quantization.rounding import offered, round_in_order, round_layers
from autocompress.recipes.bits import GroupBits
from autocompress.recipes.choosers import Replay
from autocompress.recipes.recipe import Recipe, params_of
from autocompress.repair import Columns, Levels, Moments, gather, rounded
from autocompress.repair.rounding import DEFAULT_RIDGE, error, least_squares_scale
from autocompress_quantize import Quantize
from autocompress_slb import Slb
from autocompress_slb.fakequant import SlbFakeQuantizer
from autocompress_slb.settings import Settings

GRIDS = (Levels(-7, 1, 14), Levels(-1, 1, 2), Levels(-3, 2, 3), Levels(-1, 2, 1))
SIZE = (3, 32, 32)


def moments_of(x: torch.Tensor, groups: int = 1) -> Moments:
    """Moments of samples ``[n, width]``, equal for each group."""
    mean = x.mean(0)
    covariance = (x - mean).T @ (x - mean) / len(x)
    columns = Columns(groups, x.shape[1])
    return Moments(columns, len(x), mean.expand(groups, -1), covariance.expand(groups, -1, -1).clone())


def problem(seed: int, groups: int, rows: int, width: int) -> tuple[torch.Tensor, Moments]:
    """Weights and moments of correlated inputs."""
    drawn = torch.Generator().manual_seed(seed)
    mixed = torch.randn(4 * width, width, generator=drawn, dtype=torch.float64) @ torch.randn(
        width, width, generator=drawn, dtype=torch.float64
    )
    weights = torch.randn(groups, rows, width, generator=drawn, dtype=torch.float64)
    return weights, moments_of(mixed.relu(), groups)


def is_on(values: torch.Tensor, scale: torch.Tensor, levels: Levels) -> bool:
    index = (values / scale[..., None] - levels.low) / levels.step
    inside = (index > -0.01) & (index < levels.last + 0.01)
    return bool(inside.all() and (index - index.round()).abs().max() < 1e-3)


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    groups=st.integers(1, 3),
    rows=st.integers(1, 5),
    width=st.integers(1, 40),
    grid=st.sampled_from(GRIDS),
    shared=st.booleans(),
)
def test_rounded_weights_are_on_the_levels_and_descent_is_at_least_as_good_as_gptq(
    seed: int, groups: int, rows: int, width: int, grid: Levels, shared: bool
) -> None:
    weight, moments = problem(seed, groups, rows, width)
    found = {how: rounded(weight, moments, grid, how, shared=shared) for how in ("nearest", "gptq", "descent")}
    for new, scale in found.values():
        assert is_on(new, scale, grid)
        assert bool((scale > 0).all())
        assert not shared or scale.unique().numel() == 1
    lost = {how: error(weight, new, moments) for how, (new, _) in found.items()}
    assert lost["descent"] <= lost["gptq"] * 1.0001 + 1e-9


@pytest.mark.parametrize("grid", GRIDS)
def test_moments_reduce_the_error(grid: Levels) -> None:
    weight, moments = problem(0, 1, 16, 200)  # more columns than a block has
    lost = [error(weight, rounded(weight, moments, grid, how)[0], moments) for how in ("nearest", "gptq", "descent")]
    assert lost[1] < 0.8 * lost[0]
    assert lost[2] < 0.95 * lost[1]


def test_gptq_follows_its_equation() -> None:
    """The expected result is computed in float64, column by column.

    The error of a column is distributed over the later ones.
    """
    weight, moments = problem(1, 1, 4, 150)
    levels = GRIDS[0]
    scale = least_squares_scale(weight, levels)
    got, _ = rounded(weight, moments, levels, "gptq", scale=scale)
    system = moments.covariance[0] + DEFAULT_RIDGE * moments.scale[0] * torch.eye(150)  # type: ignore[index]
    order = system.diagonal().argsort(descending=True)
    left = weight[0][:, order].clone()
    upper = torch.linalg.cholesky(torch.linalg.inv(system[order][:, order]), upper=True)
    expected = torch.empty_like(left)
    for i in range(150):
        expected[:, i] = levels.nearest(left[:, i : i + 1], scale[0])[:, 0]
        step = (left[:, i] - expected[:, i]) / upper[i, i]
        left[:, i + 1 :] -= step[:, None] * upper[i, i + 1 :]
    same = (got[0][:, order].double() - expected).abs() < 1e-5
    assert same.float().mean() > 0.99  # float32 may round a tie the other way


def test_descent_ends_when_no_single_change_helps() -> None:
    weight, moments = problem(2, 1, 3, 6)
    levels = GRIDS[1]
    new, scale = rounded(weight, moments, levels, "descent")
    least = error(weight, new, moments)
    for row, column in itertools.product(range(3), range(6)):
        for level in (-1.0, 0.0, 1.0):
            other = new.clone()
            other[0, row, column] = level * scale[0, row]
            assert error(weight, other, moments) >= least * 0.999


def test_few_samples_give_the_result_of_their_covariance() -> None:
    weight, _ = problem(3, 1, 4, 30)
    drawn = torch.randn(20, 30, dtype=torch.float64)
    whole = moments_of(drawn)
    dual = replace(whole, covariance=None, samples=(drawn - drawn.mean(0)).float()[None])
    one, other = (rounded(weight, own, GRIDS[0], "descent")[0] for own in (whole, dual))
    assert error(weight, other, whole) == pytest.approx(error(weight, one, whole), rel=0.05)


def test_dead_channels_and_constant_inputs_are_rounded_too() -> None:
    weight, _ = problem(4, 1, 3, 5)
    weight[0, 1] = 0
    new, scale = rounded(weight, moments_of(torch.ones(50, 5, dtype=torch.float64)), GRIDS[0], "descent")
    assert torch.isfinite(new).all()
    assert bool((scale > 0).all())
    assert not new[0, 1].any()


# --- what quantizers say --------------------------------------------------------------------------


def weight_spec(bits: int, shape: tuple[int, ...] = (4, 3, 3, 3)) -> TensorSpec:
    return TensorSpec("layer.weight", "weight", "all", "conv", shape, bits, channel_axis=0)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_levels_are_the_outputs_of_the_quantizer(bits: int) -> None:
    fakes = [UniformFakeQuantizer(weight_spec(bits)), UniformFakeQuantizer(weight_spec(bits), per_channel=False)]
    fakes += [SlbFakeQuantizer(weight_spec(bits), bits)] if bits <= 4 else []  # type: ignore[list-item]
    for fake in fakes:
        levels = fake.levels()
        assert levels is not None
        scale = torch.full((4,), 0.25)
        fake.settle(scale)
        weight = fake.round_to(torch.randn(4, 3, 3, 3), scale[:, None, None, None])
        assert set((weight / 0.25).unique().tolist()) <= set(levels.tolist())
        fake.eval()
        torch.testing.assert_close(fake(weight), weight)
        hardened = fake.harden(weight)
        assert hardened.integers is not None
        torch.testing.assert_close(hardened.integers * 0.25, weight)
        fake.observing = True  # calibration
        fake(torch.randn(4, 3, 3, 3))
        fake.finish_observing()
        fake.observing = False
        torch.testing.assert_close(fake(weight), weight)


def test_quantizers_with_zero_points_and_of_activations_have_no_levels() -> None:
    asymmetric = UniformFakeQuantizer(weight_spec(4), is_symmetric=False)
    for fake in (asymmetric, UniformFakeQuantizer(replace(weight_spec(4), role="activation", channel_axis=None))):
        assert fake.levels() is None
        with pytest.raises(ValueError, match="no levels"):
            fake.round_to(torch.zeros(1), torch.ones(1))
    with pytest.raises(ValueError, match="no levels"):
        super(UniformFakeQuantizer, asymmetric).settle(torch.ones(4))


def test_the_default_method_depends_on_the_bits() -> None:
    method, params = Quantize(), params_of(Quantize(), Space(Replay({})), nn.Conv2d(1, 1, 1))
    ways = {bits: method.rounding(params, bits) for bits in (8, 5, 4, 3, 2)}
    assert ways == {8: "nearest", 5: "nearest", 4: "gptq", 3: "descent", 2: "descent"}
    assert method.rounding({**params, "rounding": "gptq"}, 8) == "gptq"


# --- networks -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    made = timm.create_model("test_resnet", num_classes=10, zero_init_last=False)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # running statistics are those of the images
    made(smooth(256, seed=0))
    return made.eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return smooth(160, seed=1)


def smooth(count: int, seed: int) -> torch.Tensor:
    """Images whose neighbouring pixels are similar, as in pictures."""
    coarse = torch.randn(count, SIZE[0], 8, 8, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=SIZE[1:], mode="bicubic")


def context_of(model: nn.Module, images: torch.Tensor) -> Context:
    info = DataInfo(10, SIZE[0], SIZE[1:], (0.0,) * 3, (1.0,) * 3, tuple("abcdefghij"))
    split = TensorSplit(images, torch.zeros(len(images), dtype=torch.int64), info)
    return Context(SIZE, TransferSet(split, split, "images"), teacher=model)


def quantized(model: nn.Module, images: torch.Tensor, bits: int, **params: Any) -> fx.GraphModule:
    recipe = recipe_of(model, bits, **params)
    network_facts = facts(model, SIZE)
    assigned = {name: LayerBits("quantize", bits) for name in network_facts.layers}
    made, _ = quantize.quantize(model, assigned, recipe, {"quantize": Quantize()}, context_of(model, images))
    assert isinstance(made, fx.GraphModule)
    return made


def recipe_of(model: nn.Module, bits: int, **params: Any) -> Recipe:
    known = params_of(Quantize(), Space(Replay({})), model)
    chosen = {"all": GroupBits("quantize", bits, "quantize", 8)}
    return Recipe(values={}, bits=chosen, quantizers={"quantize": {**known, **params}})


def loss(model: nn.Module, made: nn.Module, images: torch.Tensor) -> float:
    with torch.no_grad():
        return float((model(images) - made(images)).square().mean() / model(images).var())


@pytest.mark.slow
@pytest.mark.parametrize("bits", [4, 3])
def test_outputs_differ_less_than_with_nearest_rounding(model: nn.Module, images: torch.Tensor, bits: int) -> None:
    other = smooth(128, seed=2)
    ways: Sequence[Mapping[str, Any]] = [{"rounding": "nearest", "weight_range": "mse"}, {"rounding": "gptq"}, {}]
    lost = [loss(model, quantized(model, images, bits, **way), other) for way in ways]
    assert lost[2] < 0.8 * lost[0]
    assert lost[2] <= lost[1] * 1.05


def test_eight_bits_need_no_moments(model: nn.Module, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize.rounding, "round_layers", None)
    monkeypatch.setattr(quantize.rounding, "round_in_order", None)
    quantized(model, images, 8)
    quantized(model, images, 3, weight_grid="asymmetric")  # neither do zero points
    with pytest.raises(TypeError):
        quantized(model, images, 3)


def test_chosen_integers_are_in_the_network(model: nn.Module, images: torch.Tensor) -> None:
    """Calibration does not change rounded weights and their scales."""
    layers = facts(model, SIZE).layers
    made = network.quantize(
        model,
        {name: LayerBits("quantize", 3) for name in layers},
        lambda _, spec: UniformFakeQuantizer(spec, is_symmetric=spec.role == "weight"),
        input_size=SIZE,
    )
    before = {name: layer.weight.detach().clone() for name, layer in made.fake_layers().items()}
    how = offered(made, dict.fromkeys(layers, "descent"))
    assert set(how) == set(layers)
    round_layers(made, how, [images])
    chosen = {name: layer.weight.detach().clone() for name, layer in made.fake_layers().items()}
    network.calibrate(made, [images])
    for name, layer in made.fake_layers().items():
        live = live_weights(layer, layers[name].input_shape)
        assert not torch.equal(live(before[name]), live(chosen[name]))
        torch.testing.assert_close(live(layer.weight_quantizer(layer.weight)), live(chosen[name]))


def live_weights(layer: nn.Module, shape: tuple[int, ...]) -> Callable[[torch.Tensor], torch.Tensor]:
    """Leaves out taps that only read padding, for which there are no moments."""
    columns = Columns.of(layer, shape[1:])

    def live(weight: torch.Tensor) -> torch.Tensor:
        other = copy.copy(layer)
        other._parameters = {"weight": nn.Parameter(weight.detach())}
        return columns.weight(other)

    return live


@pytest.mark.slow
def test_later_layers_compensate_for_earlier_ones(model: nn.Module, images: torch.Tensor) -> None:
    layers = facts(model, SIZE).layers
    other = smooth(128, seed=2)
    many = smooth(768, seed=3)
    lost = []
    for act in (round_layers, round_in_order):
        made = network.quantize(
            model,
            {name: LayerBits("slb", 1) for name in layers},
            lambda _, spec: (
                SlbFakeQuantizer(spec, 1) if spec.role == "weight" else UniformFakeQuantizer(spec, is_symmetric=False)
            ),
            input_size=SIZE,
        )
        act(made, offered(made, dict.fromkeys(layers, "descent")), list(many.split(64)))
        network.calibrate(made, [images])
        lost.append(loss(model, made.eval(), other))
    assert lost[1] < 0.8 * lost[0]


def test_slb_starts_from_rounded_weights(model: nn.Module, images: torch.Tensor) -> None:
    """Each layer keeps its batch norm, as in training."""
    layers, rounded_start = facts(model, SIZE).layers, Settings(init="rounded")
    made = network.quantize(
        model,
        {name: LayerBits("slb", 2) for name in layers},
        lambda _, spec: (
            SlbFakeQuantizer(spec, 2, rounded_start)
            if spec.role == "weight"
            else UniformFakeQuantizer(spec, is_symmetric=False)
        ),
        input_size=SIZE,
        trainable=True,
    )
    assert all(layer.weight_quantizer.starts_from_rounding for layer in made.fake_layers().values())
    assert not UniformFakeQuantizer(weight_spec(4)).starts_from_rounding
    assert Slb().rounding({}, 2) == "descent"
    round_layers(made, offered(made, dict.fromkeys(layers, "descent")), [images])
    network.calibrate(made, [images])
    for name, layer in made.fake_layers().items():
        fake = layer.weight_quantizer
        assert isinstance(fake, SlbFakeQuantizer)
        fake.start_search(layer.weight)
        live = live_weights(layer, layers[name].input_shape)
        torch.testing.assert_close(live(fake.eval()(layer.weight)), live(layer.weight))


def test_a_grouped_layer_is_rounded_by_group() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 14 * 14, 3)).eval()
    images = torch.randn(64, 4, 16, 16)
    moments = gather(model, ["0"], lambda: [images])["0"]
    new, scale = rounded(moments.columns.weight(model[0]), moments, GRIDS[0], "descent")
    assert new.shape == (2, 3, 18)
    assert scale.shape == (2, 3)
