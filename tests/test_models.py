"""Backbones: they fit the data, are described as JSON, and are made again from that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from autocompress import models
from autocompress.data import DataInfo
from autocompress.errors import UserError
from autocompress.job import Job, load_job

GREY = DataInfo(5, 1, (32, 32), (0.3,), (0.2,), ("a", "b", "c", "d", "e"))
COLOUR = DataInfo(3, 3, (64, 64), (0.4, 0.5, 0.6), (0.2, 0.2, 0.2), ("x", "y", "z"))


def job(model: str, **settings: Any) -> Job:
    return load_job(model=model, data="digits", name="test", **settings)


@pytest.mark.parametrize(
    "name", ["resnet10t", "mobilenetv3_small_050", "test_convnext", "test_vit", "test_efficientnet"]
)
def test_a_model_fits_the_data(name: str) -> None:
    model = models.create(job(name), GREY)
    assert not model.training
    assert models.input_size(model) == (1, 32, 32)
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 5)
    assert model.class_names == list(GREY.class_names)
    cfg: Any = model.pretrained_cfg
    assert (cfg["architecture"], cfg["num_classes"], cfg["input_size"]) == (name, 5, (1, 32, 32))
    assert (cfg["mean"], cfg["std"]) == (GREY.mean, GREY.std)


def test_without_data_the_job_and_timm_decide() -> None:
    model = models.create(job("resnet10t", model_args={"num_classes": 7, "in_chans": 1}, device={"input_size": 64}))
    assert models.input_size(model) == (1, 64, 64)
    assert model(torch.zeros(1, 1, 64, 64)).shape == (1, 7)
    assert models.input_size(models.create(job("test_resnet"))) == (3, 160, 160)


def test_the_seed_decides_the_weights() -> None:
    def first(seed: int) -> torch.Tensor:
        return next(models.create(job("resnet10t", seed=seed), GREY).parameters())

    before = torch.get_rng_state()
    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))
    assert torch.equal(before, torch.get_rng_state())


def test_model_args_reach_timm_and_wrong_ones_are_named() -> None:
    assert models.create(job("resnet10t", model_args={"base_width": 64, "zero_init_last": False}), GREY)
    with pytest.raises(UserError, match=r"timm cannot create 'resnet10t' with model_args .*colour"):
        models.create(job("resnet10t", model_args={"colour": "red"}), GREY)


@pytest.mark.parametrize(
    ("given", "reason"), [({"act_layer": "foo"}, "KeyError 'foo'"), ({"output_stride": 3}, "AssertionError")]
)
def test_an_error_of_timm_without_a_message_shows_its_type_and_the_arguments(
    given: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UserError) as raised:
        models.create(job("resnet10t", model_args=given), GREY)
    assert raised.value.message == f"timm cannot create 'resnet10t' with model_args {given}: {reason}"


def test_unknown_names_suggest_the_closest() -> None:
    with pytest.raises(UserError, match=r"unknown model 'resnet81'.*did you mean 'resnet"):
        models.create(job("resnet81"), GREY)
    with pytest.raises(UserError, match=r"'resnet18.nothing' has no such weights"):
        models.preprocessing(job("resnet18.nothing"))


@pytest.mark.parametrize("name", ["resnet10t", "test_vit", "repvgg_a0"])
def test_an_architecture_is_restored_from_json(name: str) -> None:
    model = models.reparameterise(models.create(job(name), GREY))
    described = json.loads(json.dumps(models.architecture(model)))
    again = models.from_architecture(described)
    again.load_state_dict(model.state_dict())
    images = torch.randn(2, 1, 32, 32)
    assert torch.equal(model(images), again(images))
    assert models.architecture(again) == models.architecture(model)
    assert not again.training


@pytest.mark.parametrize("name", ["repvgg_a0", "mobileone_s0", "fastvit_t8"])
def test_branches_are_merged_without_changing_the_result(name: str) -> None:
    model = models.create(job(name), COLOUR)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)  # type: ignore[union-attr,operator]
                module.running_var.uniform_(0.9, 1.1)  # type: ignore[union-attr,operator]
    images = torch.randn(2, 3, 64, 64)
    layers = sum(isinstance(module, torch.nn.Conv2d) for module in model.modules())
    with torch.no_grad():
        before = model(images)
        merged = models.reparameterise(model)
        after = merged(images)
    assert sum(isinstance(module, torch.nn.Conv2d) for module in merged.modules()) < layers
    assert torch.allclose(before, after, atol=1e-3 * before.abs().max().item())
    assert models.architecture(merged)["reparameterized"]
    assert models.reparameterise(merged) is merged
    modules = dict(merged.named_modules())
    assert all(name in modules for name in (*models.stem(merged), *models.classifier(merged)))


def test_branches_are_merged_in_training_mode_too() -> None:
    small = {"embed_dim": [16, 16, 16], "depths": [1, 1, 1], "state_dim": [4, 4, 4]}
    model = models.create(job("efficientvim_m1", model_args=small), COLOUR)
    merged = models.reparameterise(model.train())  # torch folds its norms in eval mode only
    assert models.architecture(merged)["reparameterized"]
    assert not merged.training


def test_other_models_are_not_changed() -> None:
    model = models.create(job("resnet10t"), GREY)
    assert not models.architecture(models.reparameterise(model))["reparameterized"]


def test_a_model_that_was_saved_to_a_folder(tmp_path: Path) -> None:
    source = models.create(job("test_resnet", model_args={"act_layer": "silu"}), GREY)
    timm.models.save_for_hf(
        source, tmp_path / "mine", model_args={"act_layer": "silu", "in_chans": 1, "num_classes": 5}
    )
    own = job(f"local-dir:{tmp_path / 'mine'}", pretrained=True)
    assert not models.needs_training(own, GREY)
    model = models.create(own, GREY)
    images = torch.randn(2, 1, 32, 32)
    assert torch.equal(model(images), source(images))
    again = models.from_architecture(models.architecture(model))
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(images), source(images))
    with pytest.raises(UserError, match="cannot be loaded from local-dir"):
        models.create(job(f"local-dir:{tmp_path}"), GREY)
    with pytest.raises(UserError, match="hf-hub:somebody/resnet18"):
        models.create(job("somebody/resnet18"), GREY)


def test_preprocessing_of_pretrained_models_is_used_for_the_data() -> None:
    wanted = models.preprocessing(job("resnet18", pretrained=True))
    assert wanted["mean"] == pytest.approx((0.485, 0.456, 0.406))
    assert wanted["default_size"] == (224, 224)
    untrained = models.preprocessing(job("resnet18", device={"input_size": 48}, seed=3))
    assert (untrained["mean"], untrained["input_size"], untrained["seed"]) == (None, (48, 48), 3)


@pytest.mark.parametrize(("given", "channels"), [(0.3, 3), (0, 1), ([0.3], 3), ([0.1, 0.2, 0.3], 3)])
def test_one_number_is_used_for_every_channel(given: Any, channels: int) -> None:
    args = {"in_chans": channels, "mean": given, "std": 0.5}
    cfg: Any = models.create(job("test_resnet", model_args=args)).pretrained_cfg
    values = given if isinstance(given, list) else [given]
    assert cfg["mean"] == tuple(values if len(values) == channels else values * channels)
    assert cfg["std"] == (0.5,) * channels
    wanted = models.preprocessing(job("test_resnet", model_args=args, pretrained=True))
    assert (wanted["mean"], wanted["std"]) == (tuple(values), (0.5,))


@pytest.mark.parametrize("key", ["mean", "std"])
@pytest.mark.parametrize("given", [["a"], "a", True, [], [0.1, 0.2], [[0.5]], {"a": 1}])
def test_invalid_normalisations_are_refused(key: str, given: Any) -> None:
    own = job("test_resnet", model_args={key: given})
    for ask in (models.create, models.preprocessing):
        with pytest.raises(UserError, match=rf"'model_args.{key}' must be finite numbers.*for all channels, or 3\)"):
            ask(own)


@pytest.mark.parametrize("given", [0, [0.0], [0.5, 0.5, -1]])
def test_a_std_must_be_above_0(given: Any) -> None:
    with pytest.raises(UserError, match=r"'model_args.std' must be finite numbers above 0, not "):
        models.create(job("test_resnet", model_args={"std": given}))


def test_which_models_need_training() -> None:
    many = DataInfo(1000, 3, (64, 64), (0.5,) * 3, (0.5,) * 3, tuple(str(n) for n in range(1000)))
    assert models.needs_training(job("resnet18"), many)
    assert not models.needs_training(job("resnet18", pretrained=True), many)
    assert models.needs_training(job("resnet18", pretrained=True), COLOUR)  # a new classifier


def test_stamp_copies_the_description_of_a_model() -> None:
    model = models.create(job("resnet10t"), GREY)
    bare = torch.nn.Sequential()
    assert models.architecture(models.stamp(bare, model)) == models.architecture(model)


@pytest.mark.parametrize(
    ("name", "excluded"),
    [
        ("resnet10t", {"conv1.0"}),
        ("test_efficientnet", {"conv_stem"}),
        ("regnety_002", {"stem.conv"}),
    ],
)
def test_stem_gates_and_grouped_convolutions_are_not_eligible(name: str, excluded: set[str]) -> None:
    model = models.create(job(name), COLOUR)
    modules = dict(model.named_modules())
    found = models.eligible_convolutions(model)
    assert found
    assert not excluded & set(found)
    for layer in found:
        module = modules[layer]
        assert isinstance(module, torch.nn.Conv2d)
        assert module.groups == 1
        assert module.out_channels >= 16
        assert ".se." not in layer
    order = [layer for layer in modules if layer in set(found)]
    assert sorted(order) == sorted(found)
    assert len(models.eligible_convolutions(model, min_channels=128)) < len(found)


def test_eligible_convolutions_follow_a_change_of_the_model() -> None:
    model = models.create(job("resnet10t"), COLOUR)
    found = models.eligible_convolutions(model)
    assert models.eligible_convolutions(model) == found
    name = "layer1.0.conv2"
    convolution = model.get_submodule(name)
    convolution.groups = 2
    convolution.weight = torch.nn.Parameter(convolution.weight[:, ::2].detach())
    assert models.eligible_convolutions(model) == [other for other in found if other != name]
