"""Moments, refits, error curves and elimination, compared with brute force on explicit samples."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from autocompress.repair import (
    Columns,
    Moments,
    choose_ridge,
    curve,
    eliminate,
    gather,
    has_columns,
    output_error,
    readers,
    refit,
    sequential,
)
from autocompress.repair import (
    moments as moments_room,
)

LAYERS = {
    "plain": lambda: nn.Conv2d(4, 6, 3, padding=1),
    "strided": lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1),
    "wide": lambda: nn.Conv2d(4, 6, (3, 5), padding=(0, 2), dilation=(2, 1)),
    "pointwise": lambda: nn.Conv2d(4, 6, 1, stride=2),
    "grouped": lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2),
    "depthwise": lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4),
    "same": lambda: nn.Conv2d(4, 6, 4, padding="same"),
    "tensorflow": lambda: Conv2dSame(4, 6, 3, stride=2),
    "linear": lambda: nn.Linear(4, 6),
}


def _input(kind: str, images: int = 3) -> torch.Tensor:
    return torch.randn(images, 7, 4) if kind == "linear" else torch.randn(images, 4, 7, 6)


def _outputs(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """All outputs, ``[N, positions, channels]``."""
    y = layer(x)
    return y if isinstance(layer, nn.Linear) else y.flatten(2).transpose(1, 2)


@pytest.mark.parametrize("kind", LAYERS)
@torch.no_grad()
def test_weights_times_columns_are_the_outputs_of_the_layer(kind: str) -> None:
    layer, x = LAYERS[kind]().double(), _input(kind).double()
    columns = Columns.of(layer, x.shape[1:])
    samples, places = columns.sample(layer, x, torch.Generator().manual_seed(0), positions=5)
    given = (columns.weight(layer) @ samples.transpose(1, 2)).flatten(0, 1).T + layer.bias
    images = torch.arange(len(x))[:, None]
    torch.testing.assert_close(given, _outputs(layer, x)[images, places].flatten(0, 1))


@torch.no_grad()
def test_taps_that_only_read_padding_have_no_column_and_keep_their_weight() -> None:
    layer = nn.Conv2d(3, 2, 3, padding=1).double()
    columns = Columns.of(layer, (3, 1, 1))
    assert columns.taps == ((1, 1),)
    assert columns.width == 3
    before = layer.weight.clone()
    columns.write(layer, torch.zeros_like(columns.weight(layer)))
    assert not layer.weight[:, :, 1, 1].any()
    before[:, :, 1, 1] = 0
    torch.testing.assert_close(layer.weight, before)


def test_a_layer_that_standardises_its_weights_has_no_columns() -> None:
    from timm.layers import StdConv2d

    assert not has_columns(StdConv2d(4, 6, 3))
    with pytest.raises(TypeError, match="StdConv2d"):
        Columns.of(StdConv2d(4, 6, 3), (4, 8, 8))


def test_class_tokens_are_always_sampled() -> None:
    layer, x = nn.Linear(4, 6), torch.randn(5, 50, 4)
    columns = Columns.of(layer, x.shape[1:])
    _, places = columns.sample(layer, x, torch.Generator().manual_seed(0), positions=8, first=2)
    assert (places[:, :2].sort(1).values == torch.tensor([0, 1])).all()
    assert places.shape == (5, 8)
    assert all(len(set(row.tolist())) == 8 for row in places)


class _Net(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def _moments(kind: str = "plain", images: int = 40, mean: float = 3.0) -> tuple[nn.Module, torch.Tensor, Moments]:
    layer = LAYERS[kind]()
    x = _input(kind, images) @ torch.randn(_input(kind).shape[-1], _input(kind).shape[-1]) + mean
    found = gather(_Net(layer), ["layer"], lambda: x.split(16), positions=None)
    return layer, x, found["layer"]


def _all_columns(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    columns = Columns.of(layer, x.shape[1:])
    return columns.sample(layer, x, torch.Generator(), positions=None)[0].double()


@pytest.mark.parametrize("kind", ["plain", "grouped", "linear"])
def test_moments_are_mean_and_covariance_of_the_columns(kind: str) -> None:
    layer, x, moments = _moments(kind, mean=100.0)
    samples = _all_columns(layer, x)
    torch.testing.assert_close(moments.mean, samples.mean(1), rtol=1e-5, atol=1e-5)
    centred = samples - samples.mean(1, keepdim=True)
    expected = centred.transpose(1, 2) @ centred / samples.shape[1]
    torch.testing.assert_close(moments.covariance, expected, rtol=1e-4, atol=1e-4)
    assert moments.count == samples.shape[1]


def _ridge_fit(samples: torch.Tensor, weight: torch.Tensor, kept: torch.Tensor, ridge: float) -> torch.Tensor:
    """Least squares to the old outputs and, with the ridge as weight, to the old weights."""
    centred = samples - samples.mean(0)
    scale = ridge * centred.square().mean()
    inside = centred[:, kept]
    target = centred @ weight.T - inside @ weight[:, kept].T
    rows = torch.cat([inside, (len(inside) * scale).sqrt() * torch.eye(int(kept.sum()), dtype=torch.float64)])
    wanted = torch.cat([target, target.new_zeros((int(kept.sum()), target.shape[1]))])
    return weight[:, kept] + torch.linalg.lstsq(rows, wanted).solution.T


@pytest.mark.parametrize("kind", ["plain", "grouped", "linear"])
@pytest.mark.parametrize("dual", [False, True])
def test_a_refit_is_the_ridge_solution(kind: str, dual: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if dual:
        monkeypatch.setattr(moments_room, "MOST_COLUMNS", 1)
    layer, x, moments = _moments(kind)
    assert (moments.covariance is None) is dual
    matrix = moments.columns.weight(layer)
    kept = torch.rand(moments.mean.shape) < 0.6
    new, shift = refit(matrix, moments, kept, 1e-2)
    samples = _all_columns(layer, x)
    for group in range(len(matrix)):
        expected = _ridge_fit(samples[group], matrix[group], kept[group], 1e-2)
        torch.testing.assert_close(new[group][:, kept[group]], expected, rtol=1e-3, atol=1e-4)
        assert not new[group][:, ~kept[group]].any()
    error = (matrix - new) @ samples.transpose(1, 2) - shift[:, :, None]
    torch.testing.assert_close(error.mean(2), torch.zeros_like(shift), rtol=0, atol=1e-4)
    torch.testing.assert_close(
        output_error(matrix, new, shift, moments), error.square().mean(2).sum(1), rtol=1e-3, atol=1e-5
    )


@given(seed=st.integers(0, 100), copies=st.integers(1, 3))
@settings(max_examples=10, deadline=None)
def test_copies_of_an_input_are_removed_without_error(seed: int, copies: int) -> None:
    torch.manual_seed(seed)
    layer, x = nn.Linear(6, 5), torch.randn(30, 20, 6)
    x[..., 6 - copies :] = x[..., :1] * torch.arange(1, copies + 1) + 0.5  # scaled and shifted copies
    moments = gather(_Net(layer), ["layer"], lambda: [x])["layer"]
    matrix = moments.columns.weight(layer)
    kept = torch.ones((1, 6), dtype=torch.bool)
    kept[0, 6 - copies :] = False
    new, shift = refit(matrix, moments, kept, 1e-9)
    # The outputs are computed in float64. G comes from products in float32, so an error computed
    # from it would be about 1e-7.
    lost = (matrix - new) @ _all_columns(layer, x).transpose(1, 2) - shift[:, :, None]
    assert float(lost.square().mean(2).sum()) < 1e-6 * float(moments.energy(matrix).sum())


def test_constant_inputs_keep_their_weights_and_become_a_shift() -> None:
    layer = nn.Linear(4, 3)
    moments = gather(_Net(layer), ["layer"], lambda: [torch.ones(10, 5, 4)])["layer"]
    matrix = moments.columns.weight(layer)
    kept = torch.tensor([[True, True, False, True]])
    new, shift = refit(matrix, moments, kept)
    torch.testing.assert_close(new[:, :, kept[0]], matrix[:, :, kept[0]])
    torch.testing.assert_close(shift, matrix[:, :, 2])


def test_nan_inputs_are_an_error_that_names_the_layer() -> None:
    with pytest.raises(ValueError, match="layer"):
        gather(_Net(nn.Linear(4, 3)), ["layer"], lambda: [torch.full((2, 5, 4), torch.nan)])


def test_moments_that_overflow_are_an_error_that_names_the_layer() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    images = 1e25 * torch.randn(4, 3, 8, 8)
    with pytest.raises(ValueError, match="NaN or infinite values, at '0'"):
        gather(model, ["0"], lambda: [images], choose_ridge=choose_ridge)


def test_no_images_are_an_error() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        gather(_Net(nn.Linear(4, 3)), ["layer"], lambda: [])


def test_several_passes_give_the_same_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3))
    x = torch.randn(8, 3, 9, 9)
    calls = []

    def batches() -> list[torch.Tensor]:
        calls.append(1)
        return [x]

    at_once = gather(net, ["0", "2"], batches)
    before = len(calls)
    monkeypatch.setattr(moments_room, "MEMORY_BYTES", 1)
    apart = gather(net, ["0", "2"], batches)
    assert len(calls) - before == before + 1
    for name, moments in at_once.items():
        torch.testing.assert_close(moments.covariance, apart[name].covariance)


def test_more_noise_gives_a_stronger_ridge() -> None:
    layer = nn.Linear(40, 8)
    common = torch.randn(4000, 1, 10) @ torch.randn(10, 40)
    noise = torch.randn(4000, 1, 40)

    def chosen(images: int, strength: float) -> float:
        x = (common + strength * noise)[:images]
        return gather(_Net(layer), ["layer"], lambda: [x], choose_ridge=choose_ridge)["layer"].ridge

    assert chosen(4000, 1e-3) < chosen(50, 1.0)


def test_moments_can_be_stored() -> None:
    _, _, moments = _moments("grouped")
    tensors, record = moments.state()
    again = Moments.from_state(tensors, record)
    assert again.columns == moments.columns
    torch.testing.assert_close(again.covariance, moments.covariance, rtol=1e-6, atol=1e-6)
    assert (again.count, again.ridge) == (moments.count, moments.ridge)


def _error_without(matrix: torch.Tensor, moments: Moments, index: list[tuple[int, ...]], gone: list[int]) -> float:
    """The definition: W_R (Schur complement of the regularised G) W_R^T."""
    total = 0.0
    removed = moments.columns.of_inputs([position for channel in gone for position in index[channel]])
    for group in range(len(matrix)):
        out = torch.zeros(moments.columns.width, dtype=torch.bool)
        out[removed[removed[:, 0] == group, 1]] = True
        system = moments.regularised(group)
        rest = system[~out][:, ~out]
        schur = system[out][:, out] - system[out][:, ~out] @ torch.linalg.solve(rest, system[~out][:, out])
        weight = matrix[group][:, out]
        total += float((weight @ schur * weight).sum())
    return total


INDICES = {"one": [(0,), (1,), (2,), (3,)], "pairs": [(0, 1), (2, 3)], "some": [(1,), (3,)]}


@pytest.mark.parametrize("kind", ["plain", "grouped"])
@pytest.mark.parametrize("index", INDICES)
def test_a_curve_has_the_error_of_every_prefix(kind: str, index: str) -> None:
    layer, _, moments = _moments(kind)
    matrix, channels = moments.columns.weight(layer), INDICES[index]
    order = torch.randperm(len(channels)).tolist()
    errors = curve(matrix, moments, channels, order)
    expected = [_error_without(matrix, moments, channels, order[:count]) for count in range(len(order) + 1)]
    if index == "one":  # if nothing is kept, it is the whole energy of the outputs, and the ridge
        expected[-1] = float(errors[-1])
    torch.testing.assert_close(errors, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", ["plain", "grouped"])
def test_elimination_removes_the_channel_with_the_smallest_loss(kind: str) -> None:
    layer, _, moments = _moments(kind)
    matrix, index = moments.columns.weight(layer), INDICES["one"]
    own = {"layer": readers(matrix, moments, index)}
    order = eliminate(4, own, {"layer": 1.0}, [(0, 1, 2, 3)])
    assert sorted(order) == [0, 1, 2, 3]
    for count in range(3):
        before = order[:count]
        costs = {
            channel: _error_without(matrix, moments, index, [*before, channel])
            for channel in range(4)
            if channel not in before
        }
        assert costs[order[count]] == pytest.approx(min(costs.values()), rel=1e-3)


def test_elimination_removes_equally_from_every_block() -> None:
    layer, _, moments = _moments("grouped")
    own = {"layer": readers(moments.columns.weight(layer), moments, INDICES["one"])}
    blocks = [(0, 1), (2, 3)]
    order = eliminate(4, own, {"layer": 1.0}, blocks)
    for half in (order[:2], order[2:]):
        assert {channel // 2 for channel in half} == {0, 1}


def test_weights_of_outputs_change_the_order() -> None:
    torch.manual_seed(3)
    layer = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    moments = gather(_Net(layer), ["layer"], lambda: [torch.randn(100, 1, 2)])["layer"]
    matrix = moments.columns.weight(layer)

    def first(weights: list[float]) -> int:
        given = torch.tensor([weights], dtype=torch.float64)
        own = {"layer": readers(matrix, moments, [(0,), (1,)], given)}
        return eliminate(2, own, {"layer": 1.0}, [(0, 1)])[0]

    assert first([1.0, 100.0]) == 0
    assert first([100.0, 1.0]) == 1


def test_with_fewer_samples_than_columns_samples_are_stored() -> None:
    """This is the dual form. Its lambda is chosen too."""
    layer = nn.Linear(60, 4)
    x = torch.randn(40, 1, 5) @ torch.randn(5, 60) + 0.3 * torch.randn(40, 1, 60)
    few = gather(_Net(layer), ["layer"], lambda: x.split(8), choose_ridge=choose_ridge)["layer"]
    assert few.covariance is None
    assert few.samples is not None
    assert few.samples.shape == (1, 40, 60)
    many = gather(_Net(layer), ["layer"], lambda: [x, x], choose_ridge=lambda *_: few.ridge)["layer"]
    assert many.covariance is not None
    kept = torch.rand(1, 60) < 0.5
    matrix = few.columns.weight(layer)
    for one, other in zip(refit(matrix, few, kept), refit(matrix, many, kept), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    assert gather(_Net(layer), ["layer"], lambda: [x], choose_ridge=lambda *_: 7.0)["layer"].ridge == 7.0


@pytest.mark.parametrize("groups", [1, 2])
def test_a_sequential_fit_in_the_dual_form_is_equal(groups: int) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(groups, 20, 30), torch.randn(groups, 20, 6)
    columns = Columns(groups, 30)
    matrix = torch.randn(groups, 6, 30, dtype=torch.float64)
    sums, pairs = sequential.PairSums(x.mean(1).double(), y.mean(1).double()), sequential.DualPairs()
    for part in (slice(0, 12), slice(12, 20)):
        sums.add_pair(x[:, part], y[:, part])
        pairs.add_pair(x[:, part], y[:, part])
    for one, other in zip(sums.targets(), pairs.targets(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    for ridge in (1e-3, 1e-1):
        fits = [sequential.fit(matrix, own.moments(columns), own.targets()[1], ridge) for own in (sums, pairs)]
        torch.testing.assert_close(*fits, rtol=1e-3, atol=1e-3)
