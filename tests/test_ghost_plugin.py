"""The transform ``ghost`` on whole networks.

Selected layers, equal outputs, and the resulting layers.
"""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autocompress.contract import Context, Params, Space
from autocompress.graph import facts
from autocompress.models import input_size, stem
from autocompress.recipes.choosers import Policy, Replay
from autocompress.testing import example_context, example_job, example_model
from autocompress_ghost import Ghost, GhostConv2d
from autocompress_ghost.method import _recalibrate
from autocompress_ghost.module import compression_ratio


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return example_model()


def params_of(model: nn.Module, ratio: int = 2, **values: Any) -> Params:
    """The parameters of the space if every group has ``ratio``."""
    chooser = Replay({"ratio.model": ratio, "kernel": 3, "variant": "bare", "init": "lstsq", **values})
    return Ghost().search_space(Space(chooser, "model"), model)


def ghosted(model: nn.Module, params: Params, context: Context | None = None) -> nn.Module:
    return Ghost().apply(copy.deepcopy(model), params, context or example_context(model, teacher=model))[0]


def modules(model: nn.Module) -> dict[str, GhostConv2d]:
    return {name: module for name, module in model.named_modules() if isinstance(module, GhostConv2d)}


def batch(model: nn.Module) -> torch.Tensor:
    return next(iter(example_context(model).transfer.train.loader(16)))[0]  # type: ignore[union-attr]


# --- what is replaced -----------------------------------------------------------------------------


def test_the_space_is_neutral_if_all_ratios_are_one(resnet: nn.Module) -> None:
    space = Space(Policy({}), "stage")
    params = Ghost().search_space(space.scope("ghost"), resnet)
    assert not Ghost().acts(params)
    assert {f"ghost.ratio.layer{i}" for i in (1, 2, 3, 4)} <= set(space.asked)
    assert all(name.startswith("ghost.ratio.") for name in space.asked), "parameters of ghost modules are not asked"


def test_a_group_with_ratio_one_is_not_changed(resnet: nn.Module) -> None:
    chooser = Replay({"ratio.layer4": 3, "ratio.stem": 1, **{f"ratio.layer{i}": 1 for i in (1, 2, 3)}})
    params = Ghost().search_space(Space(chooser, "stage"), resnet)
    found = modules(ghosted(resnet, params))
    assert found
    assert all(name.startswith("layer4.") and module.ratio == 3 for name, module in found.items())


@pytest.mark.parametrize("architecture", ["test_resnet", "mobilenetv3_small_050", "test_efficientnet", "regnetx_002"])
def test_only_plain_convolutions_that_gain_are_replaced(architecture: str) -> None:
    model = example_model(architecture)
    network = facts(model, input_size(model))
    params = params_of(model, 2)
    found = modules(ghosted(model, params, example_context(model, dry_run=True)))
    assert set(found) == set(params["ratios"])
    for name, module in found.items():
        conv = model.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        assert conv.groups == 1
        assert conv.out_channels >= 16
        assert name not in stem(model)
        assert not network.layers[name].in_gate
        assert not network.layers[name].is_output
        assert compression_ratio(conv.in_channels, conv.out_channels, conv.kernel_size, module.ratio, 3) > 1.2


def test_a_network_that_was_changed_is_looked_at_again(resnet: nn.Module) -> None:
    ghost, model = Ghost(), copy.deepcopy(resnet)
    assert not ghost.check(model, example_job())
    for name, conv in list(model.named_modules()):
        if isinstance(conv, nn.Conv2d):
            channels, groups = (conv.in_channels, conv.out_channels), math.gcd(conv.in_channels, conv.out_channels)
            model.set_submodule(name, nn.Conv2d(*channels, 3, conv.stride, 1, groups=groups))
    (reason,) = ghost.check(model, example_job())
    assert "no convolution that a ghost module would make smaller" in reason


def test_a_network_without_suitable_convolutions_is_refused() -> None:
    model = example_model("test_vit", (3, 160, 160))
    assert Ghost().check(model, example_job("test_vit")) != []


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_layers_that_would_not_shrink_are_not_replaced(kernel: int) -> None:
    model = example_model("mobilenetv3_small_050")
    changed = ghosted(model, params_of(model, kernel=kernel), example_context(model, dry_run=True))
    for name, module in modules(changed).items():
        conv = model.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        assert sum(p.numel() for p in module.parameters()) < conv.weight.numel() / 1.2


# --- nothing is lost on the way -------------------------------------------------------------------


def make_ghostable(model: nn.Module, ratio: int, variant: str) -> nn.Module:
    """Makes the filters of each layer multiples of ``ceil(n / s)`` filters, in random order.

    A ghost module can equal such a layer exactly. For an activated module, norms must keep
    multiples.
    """
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(3)
    network = facts(model, input_size(model))
    with torch.no_grad():
        for name in params_of(model)["ratios"]:
            conv, norm = model.get_submodule(name), network.layers[name].norm
            n = conv.out_channels
            m = -(-n // ratio)
            owners = torch.cat([torch.arange(m), torch.arange(n - m) // (ratio - 1)])
            factors = 0.5 + torch.rand(n, generator=generator)
            order = torch.randperm(n, generator=generator)
            conv.weight.copy_((conv.weight[owners] * factors[:, None, None, None])[order])
            if variant == "bare":
                continue
            assert norm is not None
            bn = model.get_submodule(norm)
            bn.weight.copy_(torch.ones(n))
            bn.bias.zero_()
            bn.running_mean.zero_()
            bn.running_var.fill_(0.5)
    return model


@pytest.mark.parametrize(
    ("architecture", "variant"),
    [
        ("test_resnet", "bare"),
        ("test_resnet", "bn-act"),
        ("test_efficientnet", "bare"),
        ("test_byobnet", "bn-act"),
        ("mobilenetv3_small_050", "bare"),
    ],
)
def test_a_ghostable_network_computes_the_same_afterwards(
    architecture: str, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outputs are only equal if the order of channels is right."""
    monkeypatch.setattr("autocompress_ghost.method._recalibrate", lambda *_: None)
    ratio = 2
    model = make_ghostable(example_model(architecture), ratio, variant)
    # The fit uses the weights alone, so it is exact for exact multiples, even if a late layer has
    # few positions.
    changed = ghosted(model, params_of(model, ratio, variant=variant, init="subset"))
    found = modules(changed)
    assert {module.restore for module in found.values()} == {True, False}, "both ways of keeping the order are tried"
    with torch.no_grad():
        expected, got = model(batch(model)), changed(batch(model))
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_a_folded_order_needs_no_gather(resnet: nn.Module) -> None:
    """Only the second convolution of a basic block reads the first.

    Its output enters an addition.
    """
    found = modules(ghosted(resnet, params_of(resnet)))
    assert not found["layer1.0.conv1"].restore
    assert found["layer1.0.conv2"].restore
    channels = found["layer1.0.conv1"].channels
    assert channels.tolist() != sorted(channels.tolist())


# --- what it leaves behind ------------------------------------------------------------------------


def count(model: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in model.modules())


def test_a_bare_variant_keeps_the_hosts_norms_and_activations(resnet: nn.Module) -> None:
    changed = ghosted(resnet, params_of(resnet))
    assert count(changed, nn.BatchNorm2d) == count(resnet, nn.BatchNorm2d)
    assert count(changed, nn.ReLU) == count(resnet, nn.ReLU)


def test_an_activated_variant_replaces_them(resnet: nn.Module) -> None:
    """At s = 2 a module has two norms for the one norm of its host.

    It has an activation only if one followed.
    """
    changed = ghosted(resnet, params_of(resnet, variant="bn-act"))
    found = modules(changed)
    assert count(changed, nn.BatchNorm2d) == count(resnet, nn.BatchNorm2d) + len(found)
    assert isinstance(changed.get_submodule("layer1.0.bn1"), nn.Identity)
    assert isinstance(changed.get_submodule("layer1.0.act1"), nn.Identity)
    assert isinstance(changed.get_submodule("layer1.0.act2"), nn.ReLU)
    assert len(found["layer1.0.conv1"].after_cheap[0]) == 2
    assert len(found["layer1.0.conv2"].after_cheap[0]) == 1


def test_a_timm_norm_with_activation_is_moved_whole() -> None:
    model = example_model("mobilenetv3_small_050")
    changed = ghosted(model, params_of(model, variant="bn-act"))
    name, module = next((n, m) for n, m in modules(changed).items() if len(m.after_cheap[0]) == 2)
    assert type(module.ghost_norms[0]) is nn.BatchNorm2d
    norm = facts(model, input_size(model)).layers[name].norm
    assert norm is not None
    assert isinstance(changed.get_submodule(norm), nn.Identity)
    assert type(module.after_cheap[0][1]) is type(model.get_submodule(norm).act)


def test_a_layer_with_a_shared_activation_stays_bare() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.norm0 = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)
            self.conv1, self.norm1 = nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32)
            self.conv2, self.norm2 = nn.Conv2d(32, 32, 3), nn.BatchNorm2d(32)
            self.act, self.fc = nn.ReLU(), nn.Linear(32, 10)
            self.pretrained_cfg = {"input_size": (3, 16, 16), "num_classes": 10}

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.act(self.norm0(self.stem(x)))
            x = self.act(self.norm1(self.conv1(x)))
            return self.fc(torch.relu(self.norm2(self.conv2(x))).mean((2, 3)))

    model = Shared().eval()
    params = params_of(model, variant="bn-act")
    _, plan = Ghost().apply(copy.deepcopy(model), params, example_context(model, dry_run=True))
    assert {name: layer["variant"] for name, layer in plan["layers"].items()} == {"conv1": "bare", "conv2": "bare"}


def test_running_statistics_are_recalibrated(resnet: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    params = params_of(resnet, 4)
    after = ghosted(resnet, params).get_submodule("layer4.0.bn2").running_mean
    monkeypatch.setattr("autocompress_ghost.method._recalibrate", lambda *_: None)
    before = ghosted(resnet, params).get_submodule("layer4.0.bn2").running_mean
    assert not torch.allclose(before, after)  # type: ignore[arg-type]


def test_on_images_with_other_statistics_those_of_the_host_are_kept(resnet: nn.Module) -> None:
    """They recorded the data. Only new norms are estimated on the images."""
    context = example_context(resnet)
    assert context.transfer is not None
    context = replace(context, transfer=replace(context.transfer, demands=frozenset({"freeze_batch_norm"})))
    made, plan = Ghost().apply(copy.deepcopy(resnet), params_of(resnet, 4), context)
    before, inside = dict(resnet.named_buffers()), tuple(f"{name}." for name in plan["layers"])
    host = {name: value for name, value in made.named_buffers() if "running" in name and not name.startswith(inside)}
    assert host
    assert all(torch.equal(value.sort()[0], before[name].sort()[0]) for name, value in host.items()), (
        "equal except for the order"
    )


def test_filters_that_are_almost_multiples_start_better_than_random_ones(resnet: nn.Module) -> None:
    model = make_ghostable(resnet, 2, "bare")
    with torch.no_grad():
        for name in params_of(model)["ratios"]:
            weight = model.get_submodule(name).weight
            weight.add_(0.1 * weight.std() * torch.randn(weight.shape))  # type: ignore[operator, arg-type]
        _recalibrate(model, example_context(model), ())
        images = batch(model)
        expected = model(images)
        error = {
            init: float((ghosted(model, params_of(model, init=init))(images) - expected).square().mean())
            for init in ("lstsq", "subset", "random")
        }
    assert max(error["lstsq"], error["subset"]) < 0.5 * error["random"]


# --- the plan -------------------------------------------------------------------------------------


@settings(max_examples=5, deadline=None)
@given(
    ratio=st.integers(2, 5),
    kernel=st.sampled_from([1, 3, 5]),
    variant=st.sampled_from(["bare", "bn-act"]),
    init=st.sampled_from(["lstsq", "subset", "random"]),
)
def test_a_plan_rebuilds_the_same_network(ratio: int, kernel: int, variant: str, init: str) -> None:
    model = example_model()
    params = params_of(model, ratio, kernel=kernel, variant=variant, init=init)
    changed, plan = Ghost().apply(copy.deepcopy(model), params, example_context(model, teacher=model))
    rebuilt = Ghost().rebuild(copy.deepcopy(model), json.loads(json.dumps(plan)))
    rebuilt.load_state_dict(changed.state_dict())
    with torch.no_grad():
        assert torch.equal(rebuilt(batch(model)), changed(batch(model)))


def test_a_layer_that_another_method_replaced_is_not_changed(resnet: nn.Module) -> None:
    model = copy.deepcopy(resnet)
    model.set_submodule("layer1.0.conv1", nn.Sequential(nn.Conv2d(32, 8, 1), nn.Conv2d(8, 32, 3, padding=1)))
    changed = ghosted(model, params_of(resnet))
    assert "layer1.0.conv1" not in modules(changed)
    assert "layer1.0.conv2" in modules(changed)


def test_different_seeds_draw_different_weights(resnet: nn.Module) -> None:
    params = params_of(resnet, init="random")
    first, second = (
        modules(ghosted(resnet, params, replace(example_context(resnet, teacher=resnet), seed=seed))) for seed in (0, 1)
    )
    assert not torch.equal(first["layer1.0.conv1"].primary.weight, second["layer1.0.conv1"].primary.weight)


def test_the_result_exports(resnet: nn.Module, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    from autocompress.export import export

    changed = ghosted(resnet, params_of(resnet, variant="bn-act"))
    export(changed, tmp_path / "ghost.onnx", input_size(resnet), {})
    images = batch(resnet)
    session = onnxruntime.InferenceSession(tmp_path / "ghost.onnx", providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), changed(images), rtol=1e-3, atol=1e-3)
