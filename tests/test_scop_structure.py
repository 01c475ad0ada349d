"""The key of couplings, and channels that are kept because they cannot be scored."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from pruning_stage import asked, pruned
from torch import nn
from torch_pruning.dependency.index_mapping import _FlattenIndexMapping

from autocompress.channels import couplings as judging
from autocompress.channels.structure import structure
from autocompress.contract import Coupling
from autocompress.contract.coupling import Part
from autocompress.recipes.pruning import kept_whole, refusal_to_prune
from autocompress.testing import example_context
from autocompress_ghost.module import GhostConv2d, GhostSpec
from autocompress_scop.control import ScaleSettings
from autocompress_scop.method import Scop
from autocompress_scop.scoring import ScoreSettings
from autocompress_simple_pruners import Magnitude

SIZE = (3, 8, 8)


class Deep(nn.Module):
    """Stem, a convolution, a depthwise one, and another one before the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 1)
        self.act, self.depthwise = nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.last, self.fc = nn.Conv2d(16, 8, 1), nn.Linear(8, 10)
        self.pretrained_cfg: dict[str, Any] = {"input_size": SIZE, "num_classes": 10, "first_conv": "stem"}

    def body(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.depthwise(self.act(self.conv(torch.relu(self.stem(x))))))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.body(x).mean((2, 3)))


class Placed(Deep):
    """A bias for each position, computed from it, as in Swin V2."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Sequential(nn.Linear(2, 12), nn.ReLU(), nn.Linear(12, 8))
        self.register_buffer("places", torch.rand(64, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias = self.position(self.places).transpose(0, 1).reshape(1, 8, 8, 8)
        return self.fc((self.body(x) + bias).mean((2, 3)))


class Flat(Deep):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8 * 64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.body(x).flatten(1))


def ghosted(model: nn.Module, order: Sequence[int]) -> nn.Module:
    model = copy.deepcopy(model)
    model.conv = GhostConv2d(model.conv, 2, 3, order=list(order))  # type: ignore[arg-type]
    return model


# --- what couplings depend on ---------------------------------------------------------------------


def test_a_dry_run_is_not_used_for_a_real_run_with_another_order_of_channels() -> None:
    """The depthwise convolution has the order of the host. The fit decides the pairs."""
    model, order = Deep(), torch.randperm(16, generator=torch.Generator().manual_seed(0)).tolist()
    dry, real = example_context(model, dry_run=True), example_context(model, teacher=model)
    widths = [
        pruned(model, Magnitude(), context, entering=ghosted(model, places), layers=[GhostSpec()])[0]
        for places, context in ((range(16), dry), (order, real))
    ]
    assert [network.get_submodule("last").in_channels for network in widths] == [8, 8]
    assert [network.get_submodule("conv.primary").out_channels for network in widths] == [4, 4]


def test_networks_with_equal_repr_may_have_different_structures() -> None:
    model = Deep()
    model.heads = 2  # type: ignore[assignment]
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.conv.weight.add_(1)
    assert structure(other.train()) == structure(model.eval())
    other.heads = 4  # type: ignore[assignment]
    assert repr(other.eval()) == repr(model)
    assert structure(other) != structure(model)


def test_modes_share_the_dependency_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    found, calls = judging.find, []

    def counting(*about: Any) -> Any:
        calls.append(1)
        return found(*about)

    monkeypatch.setattr(judging, "find", counting)
    model = Deep()
    model.marker = 0  # type: ignore[assignment]  # a structure that this process has not met
    assert refusal_to_prune(model) is None
    assert kept_whole(model, "inner")
    assert asked(model, Scop()) is not None
    assert len(calls) == 1


# --- what is left alone ---------------------------------------------------------------------------


def test_a_layer_without_a_batch_axis_has_no_scores() -> None:
    model, scop = Placed(), Scop(ScoreSettings(scales=ScaleSettings(epochs=1)))
    assert refusal_to_prune(model) is None
    assert "no batch axis" in kept_whole(model)["position.0"]
    beta = scop.prepare(model, example_context(model, teacher=model))["beta"]
    assert "conv" in beta
    assert "position.0" not in beta


def test_a_failing_index_map_only_excludes_its_coupling(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch-pruning's map for grouped queries fails on Twins and NesT."""

    def divide(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(_FlattenIndexMapping, "__call__", divide)
    model = Flat()
    model.marker = 1  # type: ignore[assignment]  # a structure that this process has not met, and will not meet again
    assert refusal_to_prune(model) is None
    assert "has wrong indices" in kept_whole(model)["last"]
    wanted = asked(model, Magnitude())
    assert wanted is not None
    assert set(wanted.keep) == {"conv"}


def test_a_prelu_with_one_slope_is_an_activation() -> None:
    model = Deep()
    model.act = nn.PReLU()  # type: ignore[assignment]
    assert "conv" not in kept_whole(model)
    small, _ = pruned(model, Magnitude(), example_context(model, dry_run=True))
    assert small.state_dict()["conv.weight"].shape[0] == 8
    assert small.state_dict()["depthwise.weight"].shape[0] == 8
    assert small.state_dict()["act.weight"].shape == (1,)


@pytest.mark.parametrize(("channels", "each", "kept"), [(3, 192, 2), (8, 2, 4), (8, 1, 8), (12, 4, 6)])
def test_a_multiple_counts_output_channels(channels: int, each: int, kept: int) -> None:
    """Heads of 64 channels, and intrinsic maps with a ghost, are not single channels."""
    index = tuple(tuple(range(i * each, (i + 1) * each)) for i in range(channels))
    coupling = Coupling("a", channels, (Part("a", "out", index, channels * each),), blocks=(tuple(range(channels)),))
    assert coupling.kept(0.5, 8) == [kept]
