"""Importance and rankings: the digest's numbers (checks 4 and 5), and how a layer's scores become a coupling's."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autocompress.compression.recipe import Replay
from autocompress.contract import Context, Space
from autocompress.contract.coupling import Coupling, Part
from autocompress.models import input_size, stem
from autocompress.pruning.couplings import couplings
from autocompress.testing import example_context, example_model
from autocompress_ghost import Ghost, GhostConv2d
from autocompress_scop.scores import (
    MOST_OF_A_COUPLING,
    baseline_layer,
    from_weights,
    global_rates,
    importance,
    normalised,
    of_coupling,
    pairs_of,
)


def coupling(name: str, *writers: str, width: int = 4) -> Coupling:
    index = tuple((i,) for i in range(width))
    parts = tuple(Part(writer, "out", index, width) for writer in writers or (name,))
    return Coupling(name, width, parts, blocks=(tuple(range(width)),))


# --- checks 4 and 5, and the score at the start (check 3) -----------------------------------------------------------


def test_the_digests_numbers() -> None:
    found = importance(torch.tensor([-2.0, 3.0]), torch.tensor([0.75, 0.25]))
    assert found.tolist() == [1.0, -1.5]
    assert torch.equal(importance(torch.randn(7), torch.full((7,), 0.5)), torch.zeros(7)), "0 at the start, exactly"
    assert importance(None, torch.tensor([0.75])).tolist() == [0.5]


@settings(max_examples=30, deadline=None)
@given(gamma=st.floats(-50, 50), beta=st.floats(0, 1))
def test_importance_lies_within_gamma_and_is_negative_where_the_knockoff_won(gamma: float, beta: float) -> None:
    """Section 3: the range, and the sign."""
    found = importance(torch.tensor([gamma], dtype=torch.float64), torch.tensor([beta], dtype=torch.float64))
    assert abs(float(found)) <= abs(gamma) * (1 + 1e-12)
    assert float(found) == pytest.approx(abs(gamma) * (beta - (1 - beta)), abs=1e-9)


@pytest.mark.parametrize(("width", "dropped"), [(64, 28), (16, 7)])
def test_a_rate_drops_the_floor_of_the_lowest(width: int, dropped: int) -> None:
    scores = torch.randperm(width, generator=torch.Generator().manual_seed(0)).float()
    kept = coupling("a", width=width).choose(scores.tolist(), 0.45)
    assert len(kept) == width - dropped
    assert sorted(scores[kept].tolist()) == list(range(dropped, width))


# --- criteria -------------------------------------------------------------------------------------------------------


def test_criteria_from_weights() -> None:
    model = example_model()
    pairs = {"layer1.0.conv1": "layer1.0.bn1", "layer2.0.conv1": None}
    conv, norm = model.get_submodule("layer1.0.conv1"), model.get_submodule("layer1.0.bn1")
    nn.init.uniform_(norm.weight, -2, 2)
    found = from_weights("magnitude", model, pairs)
    assert torch.allclose(found["layer1.0.conv1"], conv.weight.abs().sum((1, 2, 3)))
    assert torch.equal(from_weights("bn-scale", model, pairs)["layer1.0.conv1"], norm.weight.detach().abs())
    first, again, other = (from_weights("random", model, pairs, seed)["layer1.0.conv1"] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, from_weights("random", model, pairs)["layer2.0.conv1"][: len(first)])
    with pytest.raises(ValueError, match="unknown criterion"):
        from_weights("beauty", model, pairs)


def test_scored_layers_are_those_with_a_norm_and_never_the_stem() -> None:
    model = example_model()
    size = input_size(model)
    pairs = pairs_of(couplings(model, size, "group"), stem(model))
    assert "layer2.0.downsample.1" in pairs
    assert pairs["layer1.0.conv1"] == "layer1.0.bn1"
    assert not set(pairs) & {*stem(model), "fc"}
    inner = pairs_of(couplings(model, size, "inner"), stem(model))
    assert set(inner) < set(pairs)


# --- from layers to couplings ---------------------------------------------------------------------------------------


# Subnormal numbers are left out: divided by anything they may become 0, and lose their sign.
@settings(max_examples=30, deadline=None)
@given(
    values=st.lists(st.floats(-100, 100, allow_subnormal=False), min_size=1, max_size=20),
    factor=st.floats(0.01, 1000),
)
def test_normalised_scores_do_not_know_the_size_of_their_layer(values: list[float], factor: float) -> None:
    scores = torch.tensor(values, dtype=torch.float64)
    assert torch.allclose(normalised(scores), normalised(scores * factor), atol=1e-9)
    assert torch.equal(normalised(scores).sign(), scores.sign())


def test_between_layers_gamma_has_no_unit_and_what_beta_says_stays() -> None:
    """Ten times the gammas change nothing; betas that hardly left one half stay near 0, beside decided ones."""
    gamma, beta = torch.tensor([1.0, -2.0, 3.0]), torch.tensor([0.9, 0.1, 0.6])
    ranked = normalised(importance(gamma, beta), gamma)
    assert torch.allclose(ranked, normalised(importance(10 * gamma, beta), 10 * gamma))
    undecided = normalised(importance(gamma, 0.5 + (beta - 0.5) / 1000), gamma)
    assert torch.allclose(undecided, ranked / 1000, atol=1e-6)


def test_a_shared_stream_takes_the_mean_of_its_writers() -> None:
    """The plain mean: what they write is added, so the one with the large gammas makes the channel."""
    scores = {"a": torch.tensor([1.0, 0, 0, 2.0]), "b": torch.tensor([0.0, 100, 0, -4.0])}
    model = nn.ModuleDict({"a": nn.Identity(), "b": nn.Identity(), "unscored": nn.Identity()})
    found = of_coupling(coupling("a", "a", "b", "unscored"), scores, model)
    assert found is not None
    assert found.tolist() == [0.5, 50.0, 0.0, -1.0]
    assert of_coupling(coupling("unscored"), scores, model) is None


def test_a_head_takes_the_mean_of_its_rows() -> None:
    index = ((0, 2), (1, 3))
    heads = Coupling("qkv", 2, (Part("qkv", "out", index, 4),), blocks=((0, 1),))
    found = of_coupling(heads, {"qkv": torch.tensor([1.0, 3.0, 2.0, 5.0])}, nn.ModuleDict({"qkv": nn.Identity()}))
    assert found is not None
    assert found[1] / found[0] == pytest.approx(8 / 3)


def test_a_part_belongs_to_the_layer_it_was_made_for() -> None:
    assert baseline_layer("layer1.0.conv1.primary", {"layer1.0.conv1"}) == "layer1.0.conv1"
    assert baseline_layer("layer1.0.conv10", {"layer1.0.conv1"}) is None


def test_scores_reach_a_ghost_module_through_its_channel_map() -> None:
    """A channel of the coupling is an intrinsic map with its ghosts; it gets the mean of the original channels that
    they stand for, whatever their order."""
    model = example_model()
    chooser = Replay({"ratio.model": 2, "kernel": 3, "variant": "bn-act", "init": "lstsq"})
    params = Ghost().search_space(Space(chooser, "model"), model)
    context: Context = example_context(model, teacher=model)
    ghosted, _ = Ghost().apply(copy.deepcopy(model), params, context)
    name = "layer2.0.conv1"
    module = ghosted.get_submodule(name)
    assert isinstance(module, GhostConv2d)
    scores = {name: torch.rand(module.out_channels, generator=torch.Generator().manual_seed(0))}
    every = couplings(ghosted, input_size(model), "inner", Ghost.layers)
    found = next(c for c in every if name in [baseline_layer(writer, scores) for writer in c.producers])
    got = of_coupling(found, scores, ghosted, Ghost.layers)
    assert got is not None
    m = found.channels
    assert m == module.out_channels // 2
    original = scores[name][Ghost.layers[0].channel_map(module)]
    assert torch.allclose(got, (original[:m] + original[m:]) / 2)


# --- one ranking for all --------------------------------------------------------------------------------------------


def test_a_global_ranking_takes_the_lowest_wherever_they_are() -> None:
    scores = {"a": torch.tensor([9.0, 8.0, 7.0, 6.0]), "b": torch.tensor([1.0, 2.0, 10.0, 11.0])}
    assert global_rates(scores, 0.25) == {"a": 0.0, "b": 0.5}
    assert global_rates(scores, 0.5) == {"a": 0.5, "b": 0.5}
    assert global_rates({}, 0.5) == {}
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        global_rates(scores, 1.0)


@settings(max_examples=50, deadline=None)
@given(
    widths=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    rate=st.floats(0, 0.95),
    seed=st.integers(0, 1000),
)
def test_a_global_rate_is_the_share_of_all_channels_and_leaves_something_everywhere(
    widths: list[int], rate: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = {str(i): torch.randn(width, generator=generator) for i, width in enumerate(widths)}
    found = global_rates(scores, rate)
    lost = sum(round(found[name] * len(own)) for name, own in scores.items())
    assert lost <= int(rate * sum(widths) + 1e-9)
    assert all(0 <= share <= MOST_OF_A_COUPLING for share in found.values())
    if max(found.values()) < MOST_OF_A_COUPLING:
        assert lost == int(rate * sum(widths) + 1e-9)
    for name, own in scores.items():
        kept = coupling(name, width=len(own)).choose(own.tolist(), found[name])
        assert kept, "at least one channel everywhere"
