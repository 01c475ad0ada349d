"""Removal of channels: couplings, equal outputs, and channels that cannot be removed.

The checks are those of section 11 of SCOP's digest: 5 (rates to counts), 6 (masked and sliced
agree), 7 (scatter), 10 (parameters and MACs of the official scheme).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import GluMlp
from timm.models.focalnet import FocalNet
from torch import nn

from autocompress.channels import dependencies
from autocompress.channels.couplings import couplings
from autocompress.channels.removal import Scatter, ScatteredNorm, masked, remove
from autocompress.channels.verifying import randomise, settle
from autocompress.contract.coupling import Coupling, counts
from autocompress.errors import InvalidRecipe
from autocompress.graph import UntraceableModel, facts
from autocompress_ghost.module import GhostConv2d, GhostSpec
from shared.cifar import CifarResNet

Size = tuple[int, int, int]
IMAGE = (3, 32, 32)


def lively(model: nn.Module, size: Size = IMAGE) -> nn.Module:
    """Random weights, norms and layer scales, so that zeros hide no error."""
    randomise(model, torch.Generator().manual_seed(0))
    settle(model, torch.randn(4, *size))
    return model.eval()


def backbone(name: str, size: Size = IMAGE, **arguments: object) -> nn.Module:
    return lively(timm.create_model(name, num_classes=10, **arguments), size)


def half(every: list[Coupling], rate: float = 0.5, multiple: int = 1) -> dict[str, list[int]]:
    chance = torch.Generator().manual_seed(1)
    return {
        c.name: c.left_by(c.ranked(torch.rand(c.channels, generator=chance).tolist()), c.kept(rate, multiple))
        for c in every
        if c.prunable
    }


def by_name(every: list[Coupling]) -> dict[str, Coupling]:
    return {coupling.name: coupling for coupling in every}


@torch.no_grad()
def assert_agree(model: nn.Module, mode: str, size: Size = IMAGE, specs: tuple = ()) -> nn.Module:
    """Checks that channels are removed, and that this equals setting them to zero (to 1e-5)."""
    every = couplings(model, size, mode, specs)
    keep = half([c for c in every if c.safe])
    assert keep
    sliced = remove(copy.deepcopy(model), keep, size, mode, specs, couplings=every)
    images = torch.randn(3, *size)
    expected = masked(model, keep, size, mode, specs, couplings=every)(images)
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(sliced(images), expected, atol=1e-5 * scale, rtol=0)
    assert not torch.allclose(model(images), expected, atol=1e-3)
    assert facts(sliced, size).macs < 0.9 * facts(model, size).macs
    return sliced


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet10t", {}),
        ("mobilenetv2_050", {}),
        ("regnety_002", {}),
        ("test_efficientnet", {}),
        ("ese_vovnet19b_dw", {}),
        ("convnext_atto", {"depths": (1, 1, 1, 1)}),
        ("vit_tiny_patch16_224", {"img_size": 32, "depth": 2}),
        ("vit_tiny_patch16_224", {"img_size": 32, "depth": 2, "mlp_layer": GluMlp}),  # halves of channels that are last
    ],
)
def test_masked_and_sliced_agree(name: str, options: dict[str, object]) -> None:
    assert_agree(backbone(name, **options), "group")


@pytest.mark.parametrize("mode", ["inner", "group", "scatter"])
def test_every_mode_agrees(mode: str) -> None:
    assert_agree(backbone("test_resnet"), mode)


def test_couplings_across_concatenations() -> None:
    model = backbone("densenet121", growth_rate=8, block_config=(2, 2, 2, 2))
    assert_agree(model, "group")


@pytest.mark.parametrize(
    ("width", "rate", "multiple", "kept"),
    [(64, 0.45, 1, 36), (16, 0.45, 1, 9), (64, 0.45, 8, 40), (64, 0.35, 16, 48), (100, 0.29, 1, 71), (8, 0.99, 1, 1),
     (1, 0.9, 1, 1), (20, 0.0, 8, 20), (6, 0.5, 16, 6)],
)  # fmt: skip
def test_rates_give_counts(width: int, rate: float, multiple: int, kept: int) -> None:
    assert counts(width, rate, multiple) == kept


@given(st.integers(1, 4096), st.floats(0, 1, exclude_max=True), st.sampled_from([1, 4, 8, 16]))
def test_counts_keep_at_least_the_requested_share(width: int, rate: float, multiple: int) -> None:
    kept = counts(width, rate, multiple)
    assert 1 <= kept <= width
    assert width - kept <= rate * width + 1e-6
    assert kept == width or kept % multiple == 0


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan")])
def test_a_rate_outside_is_an_error(rate: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        counts(8, rate)


def share_left(model: nn.Module, size: Size, rate: float, *, skip: Callable[[Coupling], bool]) -> tuple[float, float]:
    every = couplings(model, size, "scatter", verify=False)
    keep = {c.name: c.left_by(c.ranked([0.0] * c.channels), c.kept(rate)) for c in every if c.prunable and not skip(c)}
    sliced = remove(copy.deepcopy(model), keep, size, "scatter", couplings=every)
    before, after = facts(model, size), facts(sliced, size)
    return 100 * (1 - after.params / before.params), 100 * (1 - after.macs / before.macs)


@pytest.mark.slow
def test_resnet50_by_the_official_scheme() -> None:
    """Rate 0.35 for every convolution of a block; stem, shortcuts and residual width are kept."""
    model = timm.create_model("resnet50").eval()
    whole = facts(model, (3, 224, 224))
    assert whole.params == pytest.approx(25.56e6, rel=1e-3)
    assert whole.macs == pytest.approx(4.09e9, rel=1e-3)
    params, macs = share_left(model, (3, 224, 224), 0.35, skip=lambda c: c.stem)
    assert params == pytest.approx(42.8, abs=0.05)
    assert macs == pytest.approx(45.4, abs=0.05)


def test_resnet56_by_the_official_scheme() -> None:
    """Section 7: rate 0.45 removes 56.3 % of the parameters and 56.1 % of the MACs."""
    params, macs = share_left(CifarResNet(56).eval(), IMAGE, 0.45, skip=lambda c: c.stem)
    assert params == pytest.approx(56.3, abs=0.05)
    assert macs == pytest.approx(56.1, abs=0.05)


def test_scatter_keeps_the_residual_width() -> None:
    """Adding at the kept indices equals adding the tensor filled up with zeros."""
    keep, small, residual = [0, 3, 4], torch.randn(2, 3, 5, 5), torch.randn(2, 6, 5, 5)
    torch.testing.assert_close(residual + Scatter(keep, 6)(small), residual.index_add(1, torch.tensor(keep), small))
    sliced = assert_agree(backbone("test_resnet"), "scatter")
    scattered = [name for name, module in sliced.named_modules() if isinstance(module, ScatteredNorm)]
    assert scattered
    assert not any("downsample" in name or name.endswith("bn1") for name in scattered)


def test_inner_does_not_change_the_residual_stream() -> None:
    every = by_name(couplings(timm.create_model("resnet18"), (3, 64, 64), "inner"))
    assert every["layer2.0.conv1"].prunable
    assert every["layer2.0.conv1"].consumers.keys() == {"layer2.0.conv2"}
    assert every["layer2.0.conv1"].norms.keys() == {"layer2.0.bn1"}
    assert "shared with" in every["layer2.0.conv2"].reasons[0]
    assert every["layer2.0.conv2"].producers.keys() == {"layer2.0.conv2", "layer2.0.downsample.0", "layer2.1.conv2"}


def test_groups_keep_equal_counts() -> None:
    model = backbone("regnetx_002")
    every = by_name(couplings(model, IMAGE, "inner", verify=False))
    coupling = every["s2.b1.conv1.conv"]
    assert len(coupling.blocks) > 1
    uneven = sorted(set(range(coupling.channels)) - {coupling.blocks[0][0]})
    with pytest.raises(InvalidRecipe, match="blocks must keep the same number"):
        remove(model, {coupling.name: uneven}, IMAGE, "inner", couplings=list(every.values()))
    sliced = remove(model, half(list(every.values())), IMAGE, "inner", couplings=list(every.values()))
    conv = sliced.get_submodule("s2.b1.conv2.conv")
    assert conv.groups == len(coupling.blocks)
    assert conv.in_channels == sum(coupling.kept(0.5))


def test_heads_are_removed_whole() -> None:
    model = backbone("vit_tiny_patch16_224", img_size=32, depth=1)
    every = by_name(couplings(model, IMAGE))
    assert every["blocks.0.attn.qkv"].heads
    assert every["blocks.0.attn.qkv"].channels == 3
    assert every["blocks.0.attn.qkv"].kept(0.5, 8) == [2]
    sliced = remove(model, {"blocks.0.attn.qkv": [1]}, IMAGE)
    assert sliced.blocks[0].attn.qkv.weight.shape == (192, 192)
    assert sliced.blocks[0].attn.proj.weight.shape == (192, 64)


@pytest.mark.parametrize("name", ["test_resnet", "mobilenetv3_small_050"])
def test_at_least_one_channel_stays_everywhere(name: str) -> None:
    model = backbone(name)
    every = couplings(model, IMAGE, "group", verify=False)
    sliced = remove(model, half(every, 0.999), IMAGE, "group", couplings=every)
    assert all(p.numel() for p in sliced.parameters())
    assert sliced(torch.randn(2, *IMAGE)).shape == (2, 10)


@pytest.mark.parametrize("multiple", [4, 8, 16])
def test_multiples(multiple: int) -> None:
    model = backbone("resnet10t")
    every = couplings(model, IMAGE, "group", verify=False)
    sliced = remove(model, half(every, 0.3, multiple), IMAGE, "group", couplings=every)
    for name, module in backbone("resnet10t").named_modules():
        if isinstance(module, nn.Conv2d):
            width = sliced.get_submodule(name).out_channels
            assert width == module.out_channels or width % multiple == 0
    assert sliced.layer1[0].conv1.out_channels == 48


@pytest.mark.parametrize("mode", ["inner", "group", "scatter"])
def test_a_plan_rebuilds_without_data(mode: str) -> None:
    model = backbone("test_resnet")
    fresh = copy.deepcopy(model)
    every = couplings(model, IMAGE, mode)
    plan = json.loads(json.dumps({"keep": half(every), "mode": mode, "size": IMAGE}))
    done = remove(model, plan["keep"], IMAGE, mode, couplings=every)
    rebuilt = remove(lively(fresh), plan["keep"], tuple(plan["size"]), plan["mode"]).eval()
    rebuilt.load_state_dict(done.state_dict())
    images = torch.randn(2, *IMAGE)
    with torch.no_grad():
        assert torch.equal(rebuilt(images), done(images))


def test_a_sliced_network_trains() -> None:
    model = backbone("test_resnet")
    sliced = remove(model, half(couplings(model, IMAGE, "group")), IMAGE, "group").train()
    sliced(torch.randn(2, *IMAGE)).sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in sliced.parameters() if p.requires_grad)


@pytest.mark.parametrize("restore", [True, False])
@pytest.mark.parametrize("activated", [True, False])
def test_ghost_modules_lose_intrinsic_maps_together_with_their_ghosts(restore: bool, activated: bool) -> None:
    model = timm.create_model("resnet10t", num_classes=10)
    block = model.layer2[0]
    order = torch.randperm(block.conv1.out_channels).tolist()
    parts = {"norm": block.bn1, "activation": nn.ReLU()} if activated else {}
    block.conv1 = GhostConv2d(block.conv1, 3, 3, order=order, restore=restore, **parts)
    block.bn1 = nn.Identity() if activated else block.bn1
    lively(model)
    coupling = by_name(couplings(model, IMAGE, "inner", [GhostSpec()]))["layer2.0.conv1"]
    assert coupling.prunable
    assert coupling.channels == 43  # ceil(128 / 3)
    sliced = assert_agree(model, "group", specs=(GhostSpec(),))
    ghost = sliced.get_submodule("layer2.0.conv1")
    left = GhostSpec().channel_map(ghost)
    assert len(left) == ghost.out_channels < 128
    assert set(left.tolist()) < set(range(128))
    assert torch.equal(left, left.sort().values) or not restore


def test_two_ghost_modules_on_one_stream_are_refused() -> None:
    model = timm.create_model("resnet18", num_classes=10)
    for block in model.layer2:
        block.conv2 = GhostConv2d(block.conv2, 2, 3)
    every = by_name(couplings(lively(model), IMAGE, "group", [GhostSpec()]))
    assert "different orders" in every["layer2.0.conv2"].reasons[0]


class Bent(nn.Module):
    """conv - operation - conv - pool - linear."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.a, self.norm, self.between = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), between
        self.b, self.fc = nn.Conv2d(8, 8, 3), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.b(self.between(self.norm(self.a(x)))).mean((2, 3)))


@pytest.mark.parametrize(
    ("between", "safe"),
    [(nn.ReLU(), True), (nn.SiLU(), True), (nn.GELU(), True), (nn.Hardswish(), True), (nn.Sigmoid(), False),
     (nn.Hardsigmoid(), False), (nn.ConstantPad2d(1, 1.0), False), (nn.ConstantPad2d(1, 0.0), True)],
)  # fmt: skip
def test_it_is_measured_whether_zero_stays_zero(between: nn.Module, safe: bool) -> None:
    coupling = by_name(couplings(Bent(between), (3, 8, 8)))["a"]
    assert coupling.prunable  # private channels are removed all the same
    assert coupling.safe == safe


@pytest.mark.parametrize("between", [nn.Softmax(dim=1), nn.GroupNorm(2, 8), nn.LocalResponseNorm(3)])
def test_operations_that_mix_channels_are_refused(between: nn.Module) -> None:
    assert by_name(couplings(Bent(between), (3, 8, 8)))["a"].reasons


class Tied(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc((self.b(self.a(x)) + x).flatten(1))

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1), nn.Linear(48, 4)


def test_channels_of_image_and_output_stay() -> None:
    every = by_name(couplings(Tied(), (3, 4, 4), "group"))
    assert every["a"].prunable
    assert "input image" in every["b"].reasons[0]
    assert "output" in every["fc"].reasons[0]
    with pytest.raises(InvalidRecipe, match="input image"):
        remove(Tied(), {"b": [0]}, (3, 4, 4), "group")


class Deciding(Tied):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x if x.sum() > 0 else -x)


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("shvit_s1", 64, {"embed_dim": (16, 16, 16), "depth": (1, 1, 1), "partial_dim": (4, 4, 4)}),
        ("tnt_s_patch16_224", 32, {"img_size": 32, "embed_dim": 24, "inner_dim": 8, "depth": 1, "num_heads_outer": 2}),
    ],
)
def test_concats_of_tokens_and_of_parts_are_no_obstacle(name: str, size: int, options: dict[str, object]) -> None:
    every = couplings(timm.create_model(name, num_classes=4, **options), (3, size, size), "group")
    assert any(coupling.prunable for coupling in every)


def test_tangled_channels_are_followed_once_and_not_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps that shift indices at each turn would go on up to ``TANGLED``."""
    begun: list[int] = []
    whole = dependencies.channel_indices
    monkeypatch.setattr(dependencies, "channel_indices", lambda size: (begun.append(size), whole(size))[1])
    monkeypatch.setattr(dependencies, "TANGLED", 1 << 40)
    model = FocalNet(num_classes=4, embed_dim=8, depths=(1, 1), focal_levels=(2, 2), focal_windows=(3, 3))
    every = couplings(model, IMAGE, verify=False)
    tangled = [coupling.name for coupling in every if any("wrong indices for" in reason for reason in coupling.reasons)]
    assert tangled == [f"layers.{i}.blocks.0.modulation.{layer}" for i in range(2) for layer in "fh"]
    assert len(begun) == len(every) - 2


def test_an_untraceable_network_is_an_error() -> None:
    with pytest.raises(UntraceableModel):
        couplings(Deciding(), (3, 4, 4))


def test_unknown_channels_and_wrong_keep_sets_are_errors() -> None:
    for keep in ({"nothing": [0]}, {"a": []}, {"a": [9]}, {"a": [1, 0]}):
        with pytest.raises(InvalidRecipe):
            remove(Bent(nn.ReLU()), keep, (3, 8, 8))
    with pytest.raises(ValueError, match="mode"):
        couplings(Bent(nn.ReLU()), (3, 8, 8), "outer")


class Small(nn.Module):
    """Residual blocks, a depthwise convolution, and a map that is flattened for a linear layer."""

    def __init__(self, width: int, hidden: int, blocks: int, bias: bool, dilation: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=bias), nn.BatchNorm2d(width), nn.ReLU())
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, hidden, 1, bias=bias), nn.BatchNorm2d(hidden), nn.SiLU(),
                nn.Conv2d(hidden, hidden, 3, padding=dilation, dilation=dilation, groups=hidden, bias=bias), nn.ReLU6(),
                nn.Conv2d(hidden, width, 1, bias=bias), nn.BatchNorm2d(width),
            )
            for _ in range(blocks)
        )  # fmt: skip
        self.pool, self.fc = nn.MaxPool2d(4), nn.Linear(width * 4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.fc(self.pool(x).flatten(1))


@settings(max_examples=12, deadline=None)
@given(st.integers(2, 9), st.integers(2, 13), st.integers(0, 2), st.booleans(), st.integers(1, 2), st.floats(0, 0.95))
def test_small_networks(width: int, hidden: int, blocks: int, bias: bool, dilation: int, rate: float) -> None:
    size = (3, 8, 8)
    model = lively(Small(width, hidden, blocks, bias, dilation), size)
    every = couplings(model, size, "group")
    assert [c.name for c in every if not c.prunable] == ["fc"]
    assert all(c.safe for c in every)
    keep = half(every, rate)
    sliced = remove(copy.deepcopy(model), keep, size, "group", couplings=every)
    assert sliced.fc.in_features == 4 * counts(width, rate)
    images = torch.randn(2, *size)
    with torch.no_grad():
        torch.testing.assert_close(
            sliced(images), masked(model, keep, size, "group", couplings=every)(images), atol=1e-5, rtol=1e-5
        )
