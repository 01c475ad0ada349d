"""What SCOP cannot prune or score is an error or a reason, never a model that was silently left whole (rates in YAML:
``test_scop_settings``; keep-sets: ``test_channel_removal``)."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from autocompress.compression.recipe import Replay
from autocompress.contract import Context, Params, Space, TransferSet
from autocompress.errors import InvalidRecipe
from autocompress.testing import example_context, example_job, example_model
from autocompress_scop import knockoffs
from autocompress_scop.control import ScaleSettings
from autocompress_scop.method import Scop
from autocompress_scop.scoring import ScoreSettings

SIZE = (3, 8, 8)
QUICK = ScoreSettings(scales=ScaleSettings(epochs=1))
CHEAP = ScoreSettings(criteria=("magnitude",))


class Small(nn.Module):
    """Two convolutions and a classifier; ``pretrained_cfg`` as timm's models have it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv, self.act = nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()
        self.fc = nn.Linear(8, 10)
        self.pretrained_cfg: dict[str, Any] = {"input_size": SIZE, "num_classes": 10, "first_conv": "stem"}

    def body(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.conv(self.act(self.norm(self.stem(x)))))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.body(x).mean((2, 3)))


class Deciding(Small):
    """Its graph depends on the image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x if x.sum() > 0 else -x)


class TiedToOutput(Small):
    """The last convolution gives the classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(8, 10, 1), nn.Identity()


class TiedToImage(Small):
    """Also a residual connection from the image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(8, 3, 1), nn.Conv2d(3, 10, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.conv(self.act(self.norm(self.stem(x)))) + x).mean((2, 3))


def params_of(model: nn.Module, scop: Scop, **values: Any) -> Params:
    limits = {"scop.rate": 0.5, "scop.multiple": 1, **{f"scop.{name}": value for name, value in values.items()}}
    return scop.search_space(Space(Replay({}), "model", limits).scope("scop"), model)


def context_with(model: nn.Module, images: int) -> Context:
    found = example_context(model, teacher=copy.deepcopy(model))
    assert found.transfer is not None
    some = found.transfer.train.take(torch.arange(images))
    return replace(found, transfer=TransferSet(some, some, f"{images} images"))


# --- rates ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan")])
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_rate_outside_zero_and_one(rate: float, dry_run: bool) -> None:
    model, scop = example_model(), Scop(CHEAP)
    params = params_of(model, scop)
    context = example_context(model, dry_run=dry_run, teacher=None if dry_run else copy.deepcopy(model))
    for ranking in ("uniform", "global"):
        wrong = {**params, "ranking": ranking, "rates": dict.fromkeys(params["rates"], rate)}
        with pytest.raises(InvalidRecipe, match=r"\[0, 1\)"):
            scop.apply(copy.deepcopy(model), wrong, context)
    with pytest.raises(InvalidRecipe, match="cannot be"):
        scop.search_space(Space(Replay({"rate.model": rate}), "model"), model)


# --- networks -------------------------------------------------------------------------------------------------------


def test_a_network_that_cannot_be_traced() -> None:
    reasons = Scop().check(Deciding(), example_job())
    assert len(reasons) == 1
    assert "Deciding" in reasons[0]


def test_another_transform_that_leaves_a_network_untraceable() -> None:
    model, scop = Small(), Scop(CHEAP)
    assert not scop.check(model, example_job())
    context = Context(input_size=SIZE, dry_run=True)
    with pytest.raises(InvalidRecipe, match="Deciding"):
        scop.apply(Deciding(), params_of(model, scop), context)


def test_a_network_of_which_all_is_tied() -> None:
    """Nothing behind the stem can go: the method says so, and is left out."""
    scop = Scop(CHEAP)
    for model, reason in ((TiedToOutput(), "network's output"), (TiedToImage(), "input image")):
        assert reason in scop.reasons(model)["conv"]
        told = scop.check(model, example_job())
        assert len(told) == 1
        assert "none of its channels can be removed" in told[0]
        assert reason in told[0]  # not that the stem stays


def test_tied_layers_stay_whole_where_others_go() -> None:
    model, scop = Small(), Scop(CHEAP)
    assert "network's output" in scop.reasons(model)["fc"]
    pruned, plan = scop.apply(copy.deepcopy(model), params_of(model, scop), Context(input_size=SIZE, dry_run=True))
    assert set(plan["keep"]) == {"conv"}
    assert (pruned.fc.in_features, pruned.fc.out_features, pruned.stem.out_channels) == (4, 10, 8)


def test_a_removal_that_the_network_does_not_have_is_no_plan() -> None:
    model, scop = Small(), Scop(CHEAP)
    plan = {"mode": "inner", "input_size": list(SIZE), "keep": {"fc": [0, 1]}}
    with pytest.raises(InvalidRecipe, match="network's output"):
        scop.rebuild(model, plan)


@pytest.mark.parametrize("state", [None, {"layers": {"magnitude": {}}}])
def test_a_real_run_without_scores(state: Any) -> None:
    """Never the first channels by default."""
    model, scop = Small(), Scop(CHEAP)
    with pytest.raises(InvalidRecipe, match="no scores"):
        scop.apply(copy.deepcopy(model), params_of(model, scop), Context(input_size=SIZE, state=state))


# --- images ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("images", [2, 3, 33])
def test_odd_batches_and_a_last_batch_of_one(images: int) -> None:
    """33 images are a batch of 32 and one of a single image."""
    model, scop = example_model(), Scop(QUICK)
    context = context_with(model, images)
    state = scop.prepare(copy.deepcopy(model), context)
    assert all(bool(scores.isfinite().all()) for scores in state["layers"]["scop"].values())
    assert any(bool((beta != 0.5).any()) for beta in state["beta"].values())
    params = params_of(model, scop, criterion="scop")
    pruned, plan = scop.apply(copy.deepcopy(model), params, replace(context, state=state))
    assert plan["keep"]
    assert bool(pruned(torch.randn(1, *context.input_size)).isfinite().all())


@pytest.mark.parametrize("kind", knockoffs.KINDS)
@pytest.mark.parametrize("images", [0, 1])
def test_too_few_images_for_a_control_group(images: int, kind: str) -> None:
    """One image is its own only look-alike: every score would be 0, and the order of channels would choose."""
    model = example_model()
    scop = Scop(replace(QUICK, knockoffs=kind))
    with pytest.raises(ValueError, match="there are none" if images == 0 else "at least two"):
        scop.prepare(copy.deepcopy(model), context_with(model, images))


@pytest.mark.parametrize("kind", ["gaussian", "gan_cond"])
def test_images_that_are_all_the_same(kind: str) -> None:
    split = example_context(example_model()).transfer.train  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="all images are the same"):
        knockoffs.make(kind, split.take(torch.zeros(8, dtype=torch.int64)))
