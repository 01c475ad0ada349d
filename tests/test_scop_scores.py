"""Importance of channels in SCOP.

Values of the score, and scores of couplings from those of layers.
"""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autocompress.channels.couplings import couplings
from autocompress.contract import Context, Coupling, Space, coupling_scores
from autocompress.contract.coupling import Part
from autocompress.contract.scores import origin_of
from autocompress.models import input_size, stem
from autocompress.recipes.choosers import Replay
from autocompress.testing import example_context, example_model
from autocompress_ghost import Ghost, GhostConv2d
from autocompress_scop.scores import importance, pairs_of


def coupling(name: str, *writers: str, width: int = 4) -> Coupling:
    index = tuple((i,) for i in range(width))
    parts = tuple(Part(writer, "out", index, width) for writer in writers or (name,))
    return Coupling(name, width, parts, blocks=(tuple(range(width)),))


# --- values of the score --------------------------------------------------------------------------


def test_values_of_the_score() -> None:
    found = importance(torch.tensor([-2.0, 3.0]), torch.tensor([0.75, 0.25]))
    assert found.tolist() == [1.0, -1.5]
    assert torch.equal(importance(torch.randn(7), torch.full((7,), 0.5)), torch.zeros(7)), "0 at the start, exactly"
    assert importance(None, torch.tensor([0.75])).tolist() == [0.5]


@settings(max_examples=30, deadline=None)
@given(gamma=st.floats(-50, 50), beta=st.floats(0, 1))
def test_importance_is_within_gamma_and_negative_if_the_knockoff_wins(gamma: float, beta: float) -> None:
    """The score is between -gamma and gamma, and its sign is that of the comparison (section 3)."""
    found = importance(torch.tensor([gamma], dtype=torch.float64), torch.tensor([beta], dtype=torch.float64))
    assert abs(float(found)) <= abs(gamma) * (1 + 1e-12)
    assert float(found) == pytest.approx(abs(gamma) * (beta - (1 - beta)), abs=1e-9)


def test_all_layers_with_a_norm_except_the_stem_are_scored() -> None:
    model = example_model()
    size = input_size(model)
    pairs = pairs_of(couplings(model, size, "group"), stem(model))
    assert "layer2.0.downsample.1" in pairs
    assert pairs["layer1.0.conv1"] == "layer1.0.bn1"
    assert not set(pairs) & {*stem(model), "fc"}
    inner = pairs_of(couplings(model, size, "inner"), stem(model))
    assert set(inner) < set(pairs)


# --- from layers to couplings ---------------------------------------------------------------------


def test_a_shared_stream_gets_the_mean_of_its_writers() -> None:
    """It is the plain mean. Outputs are added, so the layer with large gammas decides."""
    scores = {"a": torch.tensor([1.0, 0, 0, 2.0]), "b": torch.tensor([0.0, 100, 0, -4.0])}
    model = nn.ModuleDict({"a": nn.Identity(), "b": nn.Identity(), "unscored": nn.Identity()})
    found = coupling_scores(coupling("a", "a", "b", "unscored"), scores, model)
    assert found is not None
    assert found.tolist() == [0.5, 50.0, 0.0, -1.0]
    assert coupling_scores(coupling("unscored"), scores, model) is None


def test_a_head_gets_the_mean_of_its_rows() -> None:
    index = ((0, 2), (1, 3))
    heads = Coupling("qkv", 2, (Part("qkv", "out", index, 4),), blocks=((0, 1),))
    found = coupling_scores(heads, {"qkv": torch.tensor([1.0, 3.0, 2.0, 5.0])}, nn.ModuleDict({"qkv": nn.Identity()}))
    assert found is not None
    assert found[1] / found[0] == pytest.approx(8 / 3)


def test_a_part_belongs_to_the_layer_that_it_replaces() -> None:
    assert origin_of("layer1.0.conv1.primary", {"layer1.0.conv1"}) == "layer1.0.conv1"
    assert origin_of("layer1.0.conv10", {"layer1.0.conv1"}) is None


def test_scores_reach_a_ghost_module_through_its_channel_map() -> None:
    """A channel of the coupling is an intrinsic map with its ghosts.

    Its score is the mean of those of the original channels that it replaces, in any order.
    """
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
    found = next(c for c in every if name in [origin_of(writer, scores) for writer in c.producers])
    got = coupling_scores(found, scores, ghosted, Ghost.layers)
    assert got is not None
    m = found.channels
    assert m == module.out_channels // 2
    original = scores[name][Ghost.layers[0].channel_map(module)]
    assert torch.allclose(got, (original[:m] + original[m:]) / 2)
