"""Channels that cannot be removed give a reason or an error, and tied weights are kept whole."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from pruning_stage import asked, kept, pruned
from torch import nn

from autocompress.compression import prune
from autocompress.contract import Context
from autocompress.errors import InvalidRecipe, UserError
from autocompress.models import stem
from autocompress.opened.applicable import applicable
from autocompress.recipes.pruning import kept_whole, refusal_to_prune
from autocompress.testing import example_context, example_job, example_model
from autocompress_simple_pruners import Magnitude

SIZE = (3, 8, 8)
DRY = Context(input_size=SIZE, dry_run=True)


class Small(nn.Module):
    """Two convolutions and a classifier, with a ``pretrained_cfg`` as in timm's models."""

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
    """Also has a residual connection from the image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(8, 3, 1), nn.Conv2d(3, 10, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.conv(self.act(self.norm(self.stem(x)))) + x).mean((2, 3))


class LinearAlone(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))
        self.pretrained_cfg: dict[str, Any] = {"input_size": SIZE, "num_classes": 10}


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (Deciding, "Deciding"),
        (TiedToOutput, "none of .* can be removed, for example those of 'conv': .*network's output"),  # except the stem
        (TiedToImage, "none of its channels can be removed, .*input image"),
        (LinearAlone, "none of its channels can be removed"),
    ],
)
def test_a_network_without_removable_channels_has_no_pruner(made: type[nn.Module], told: str) -> None:
    fit, refused = applicable([Magnitude()], made(), example_job(), None, has_images=True, devices=[])
    assert not fit
    (reason,) = refused["magnitude"]
    with pytest.raises(UserError, match=f"the method 'magnitude' cannot apply to test_resnet: .*{told}"):
        applicable([Magnitude()], made(), example_job(), ["magnitude"], has_images=True, devices=[])
    assert reason == refusal_to_prune(made())


@pytest.mark.parametrize(("made", "reason"), [(TiedToOutput, "network's output"), (TiedToImage, "input image")])
def test_couplings_of_image_and_output_have_a_reason(made: type[nn.Module], reason: str) -> None:
    assert reason in kept_whole(made())["conv"]


def test_a_transform_that_makes_a_network_untraceable() -> None:
    model = Small()
    assert refusal_to_prune(model) is None
    with pytest.raises(InvalidRecipe, match="Deciding"):
        pruned(model, Magnitude(), DRY, entering=Deciding())


def test_tied_layers_are_kept_whole_and_others_pruned() -> None:
    model = Small()
    assert "network's output" in kept_whole(model)["fc"]
    small, _ = pruned(model, Magnitude(), DRY)
    conv, fc, first = (small.get_submodule(name) for name in ("conv", "fc", "stem"))
    assert (conv.out_channels, fc.in_features, fc.out_features, first.out_channels) == (4, 4, 10, 8)


@pytest.mark.parametrize("mode", ["inner", "group"])
def test_stem_and_output_keep_their_width(mode: str) -> None:
    model = example_model()
    _, steps = pruned(model, Magnitude(), example_context(model, teacher=model), mode=mode)
    reasons, keep = kept_whole(model, mode), kept(steps)
    assert not set(keep) & {*stem(model), "fc"}
    assert "output" in reasons["fc"]
    assert "reads the image" in reasons[stem(model)[0]]
    assert not set(reasons) & set(keep)


def test_a_plan_with_unknown_removals_is_refused() -> None:
    plan = {"mode": "inner", "input_size": list(SIZE), "keep": {"fc": [0, 1]}}
    with pytest.raises(InvalidRecipe, match="network's output"):
        prune.rebuild(Small(), plan, [])


@pytest.mark.parametrize("multiple", [1, 16])
def test_a_recipe_that_would_remove_nothing_is_invalid(multiple: int) -> None:
    """A share of 0.99 removes none of 16 to 96 channels.

    Neither does 15/16 with multiples of 16.
    """
    model = example_model()
    keep = {"layer1.0.conv1": 15 / 16} if multiple == 16 else 0.995
    told = f"no layer loses a channel at these widths.*multiples of {multiple}: '[\\w.]+' keeps its \\d+ channels"
    with pytest.raises(InvalidRecipe, match=told):
        asked(model, Magnitude(), keep, multiple=multiple)


class Multiplied(Small):
    """Two layers share all channels that can be removed, as in StarNet."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Conv2d(8, 8, 3, padding=1)

    def body(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.norm(self.stem(x)))
        return self.conv(x) * self.act(self.other(x))


def test_a_network_without_private_channels_is_pruned_in_mode_group() -> None:
    found = asked(Multiplied(), Magnitude(), 0.5)
    assert found is not None
    assert found.mode == "group"


def test_a_mode_in_which_nothing_can_be_removed_is_an_invalid_recipe() -> None:
    with pytest.raises(InvalidRecipe, match=r"no channel can be removed in prune\.mode inner, for example none of '"):
        asked(Multiplied(), Magnitude(), {}, mode="inner")


def test_a_recipe_whose_substitution_leaves_nothing_to_remove_is_invalid() -> None:
    """The recipe names channels of the baseline. The substituted network has none to remove."""
    model, other = Small(), Small()
    other.conv, other.fc = nn.Conv2d(8, 10, 1), nn.Identity()  # type: ignore[assignment]
    with pytest.raises(InvalidRecipe, match="no layer loses a channel"):
        pruned(model, Magnitude(), DRY, entering=other)


def test_nan_weights() -> None:
    model = example_model()
    assert refusal_to_prune(model) is None  # leaves the couplings, which NaN would hide
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.get_submodule("layer1.0.conv1").weight[0] = torch.nan
    with pytest.raises(InvalidRecipe, match=r"weights of layer1\.0\.conv1 are not finite"):
        pruned(broken, Magnitude(), example_context(broken, teacher=broken))
