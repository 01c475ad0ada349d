"""ZSKD's soft labels.

Class similarity, concentrations, Dirichlet draws, equal shares, and the last layer.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_teacher import SIZE, TinyNet, described
from torch import nn

from autocompress.testing import example_model
from autocompress_zskd.head import head_weight
from autocompress_zskd.sampling import (
    EPSILON,
    all_soft_labels,
    class_similarity,
    concentrations,
    scaled,
    shares,
    soft_labels,
)


def draws(alpha: list[float], beta: float, n: int = 200_000) -> torch.Tensor:
    return soft_labels(torch.tensor(alpha, dtype=torch.float64), beta, n, np.random.default_rng(0))


# --- similarity and concentrations ----------------------------------------------------------------


@given(classes=st.integers(2, 12), width=st.integers(12, 40), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_similarity_depends_on_directions_only(classes: int, width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, width, generator=generator)
    similarity = class_similarity(weight)
    assert torch.allclose(similarity, similarity.T)
    assert torch.allclose(similarity.diagonal(), torch.ones(classes).double())
    lengths = 0.1 + 5 * torch.rand(classes, 1, generator=generator)
    assert torch.allclose(class_similarity(weight * lengths), similarity, atol=1e-6)
    alpha = concentrations(similarity)
    assert torch.equal(alpha.min(1).values, torch.zeros(classes).double())
    assert torch.equal(alpha.max(1).values, torch.ones(classes).double())
    assert torch.equal(alpha.argmax(1), torch.arange(classes))


def test_values_by_hand() -> None:
    assert torch.allclose(concentrations(class_similarity(2 * torch.eye(4))), torch.eye(4).double())
    similarity = class_similarity(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
    assert torch.allclose(similarity, torch.tensor([[1, 0, -1], [0, 1, 0], [-1, 0, 1]]).double())
    alpha = concentrations(similarity)
    assert torch.allclose(alpha, torch.tensor([[1, 0.5, 0], [0, 1, 0], [0, 0.5, 1]]).double())
    assert not torch.allclose(alpha, alpha.T), "each row is normalised"


def test_equal_rows_give_equal_concentrations() -> None:
    alpha = concentrations(class_similarity(torch.ones(3, 5)))
    assert torch.equal(alpha, torch.ones(3, 3).double())
    assert torch.isfinite(concentrations(class_similarity(torch.zeros(3, 5)))).all()


def test_beta_has_an_effect() -> None:
    """In the official code it has no effect, because a second normalisation cancels it."""
    alpha = concentrations(class_similarity(torch.randn(5, 8)))
    assert torch.allclose(scaled(alpha, 2.0) - EPSILON, 2 * (scaled(alpha, 1.0) - EPSILON))
    assert not torch.allclose(scaled(alpha, 0.1), scaled(alpha, 1.0))
    assert (scaled(alpha, 0.1) > 0).all()


# --- draws ----------------------------------------------------------------------------------------


@given(alpha=st.lists(st.floats(0, 1), min_size=2, max_size=8), beta=st.floats(0.01, 10), n=st.integers(0, 20))
@settings(max_examples=30, deadline=None)
def test_draws_are_probabilities(alpha: list[float], beta: float, n: int) -> None:
    drawn = draws(alpha, beta, n)
    assert drawn.shape == (n, len(alpha))
    assert drawn.dtype == torch.float32
    assert (drawn >= 0).all()
    assert torch.allclose(drawn.sum(1), torch.ones(n), atol=1e-5)


@pytest.mark.parametrize(("beta", "variance"), [(1.0, 0.063131), (0.1, 0.124008)])
def test_moments(beta: float, variance: float) -> None:
    drawn = draws([1.0, 0.1, 0.1], beta)
    # Epsilon changes the mean by a thousandth at 0.1. Four standard errors of the draws are 3e-3.
    weights = torch.tensor([beta, 0.1 * beta, 0.1 * beta]) + EPSILON
    assert torch.allclose(drawn.mean(0), weights / weights.sum(), atol=3e-3)
    assert torch.allclose(drawn.mean(0), torch.tensor([0.8333, 0.0833, 0.0833]), atol=5e-3)
    assert float(drawn[:, 0].var()) == pytest.approx(variance, rel=0.02)
    mean, total = 1 / 1.2, 1.2 * beta
    assert variance == pytest.approx(mean * (1 - mean) / (total + 1), rel=1e-4), "m (1 - m) / (A + 1)"


def test_a_small_beta_is_sharper_but_not_always_for_the_class_itself() -> None:
    flat, sharp = (draws([1.0, 0.5, 0.2, 0.0], beta, 5000) for beta in (1.0, 0.1))
    assert sharp.max(1).values.mean() > flat.max(1).values.mean() + 0.1
    share = float((sharp.argmax(1) == 0).float().mean())
    assert share == pytest.approx(1 / 1.7, abs=0.05), "alpha_k / sum alpha of the draws"


# --- shares ---------------------------------------------------------------------------------------


@given(images=st.integers(0, 300), classes=st.integers(2, 12), betas=st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_images_are_shared_equally(images: int, classes: int, betas: int) -> None:
    scales = [1.0, 0.1, 0.5][:betas]
    found = shares(images, classes, scales)
    counts = [n for _, _, n in found]
    assert sum(counts) == images
    assert max(counts) - min(counts) <= 1
    by_class = [sum(n for k, _, n in found if k == number) for number in range(classes)]
    assert max(by_class) - min(by_class) <= 1
    assert {(k, beta) for k, beta, _ in found} == {(k, beta) for k in range(classes) for beta in scales}


def test_labels_of_a_set_depend_on_the_seed_only() -> None:
    weight = torch.randn(4, 6)
    first, again, other = (all_soft_labels(weight, 37, [1.0, 0.1], np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.shape == (37, 4)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(first[:12].argmax(1).unique()) > 1, "classes are mixed"


# --- the head -------------------------------------------------------------------------------------


def test_rows_of_the_last_layer() -> None:
    model: Any = example_model()
    assert torch.equal(head_weight(model), model.fc.weight)
    one_by_one = example_model("test_efficientnet")
    assert head_weight(one_by_one).shape[0] == 10


def test_a_convolution_over_one_position_is_flattened() -> None:
    net: Any = TinyNet()
    net.fc = nn.Sequential(nn.Conv2d(384, 10, 1), nn.Flatten())
    model = described(net, SIZE, 10)
    assert torch.equal(head_weight(model), net.fc[0].weight.flatten(1))
    net.fc = nn.Sequential(nn.Conv2d(24, 10, 4), nn.Flatten())
    with pytest.raises(ValueError, match="a convolution over places"):
        head_weight(model)


def test_heads_that_are_not_linear() -> None:
    headless: Any = copy.deepcopy(example_model())
    headless.pretrained_cfg["num_classes"] = 0
    with pytest.raises(ValueError, match="no classifier"):
        head_weight(headless)
    headless = described(nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), SIZE, 10)
    with pytest.raises(ValueError, match="a convolution over places"):
        head_weight(headless)
    with pytest.raises(ValueError, match="fewer than two classes"):
        head_weight(described(TinyNet(classes=1), SIZE, 1))
    narrow = described(nn.Sequential(nn.Flatten(), nn.Linear(256, 3)), SIZE, 10)
    with pytest.raises(ValueError, match="has 3 rows, not one for each of 10 classes"):
        head_weight(narrow)
