"""Groups: every layer in exactly one, in network order, at each granularity, on many families."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from autocompress import models

FAMILIES = [
    "resnet18",
    "resnet10t",
    "regnety_002",
    "mobilenetv3_small_050",
    "efficientnet_b0",
    "mobilenetv4_conv_small",
    "convnext_atto",
    "vit_tiny_patch16_224",
    "beit_base_patch16_224",
    "swin_tiny_patch4_window7_224",
    "densenet121",
    "repvgg_a0",
    "mobileone_s0",
    "fastvit_t8",
    "vgg11_bn",
    "ghostnet_050",
    "inception_v3",
    "hrnet_w18_small",
    "mixer_s32_224",
    "dla34",
    "levit_128s",
    "convmixer_768_32",
]

STAGES = {
    "resnet18": ["stem", "layer1", "layer2", "layer3", "layer4", "head"],
    "resnet10t": ["stem", "layer1", "layer2", "layer3", "layer4", "head"],
    "regnety_002": ["stem", "s1", "s2", "s3", "s4", "head"],
    "mobilenetv3_small_050": ["stem", *(f"blocks.{i}" for i in range(6)), "head"],
    "efficientnet_b0": ["stem", *(f"blocks.{i}" for i in range(7)), "head"],
    "convnext_atto": ["stem", *(f"stages.{i}" for i in range(4)), "head"],
    "swin_tiny_patch4_window7_224": ["stem", *(f"layers.{i}" for i in range(4)), "head"],
    "vit_tiny_patch16_224": ["stem", "blocks.0-2", "blocks.3-5", "blocks.6-8", "blocks.9-11", "head"],
    "repvgg_a0": ["stem", *(f"stages.{i}" for i in range(4)), "head"],
    "ghostnet_050": ["stem", "blocks.0-1", "blocks.2-3", "blocks.4-5", "blocks.6-7", "blocks.8-9", "head"],
}

BLOCKS = {
    "resnet18": [f"layer{stage}.{block}" for stage in range(1, 5) for block in range(2)],
    "vit_tiny_patch16_224": [f"blocks.{i}" for i in range(12)],
    "regnety_002": ["s1.b1", "s2.b1", *(f"s3.b{i}" for i in range(1, 5)), *(f"s4.b{i}" for i in range(1, 8))],
}


def make(name: str) -> nn.Module:
    with torch.device("meta"):  # on the meta device, because only the structure counts
        return timm.create_model(name)


def weighted(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if next(module.parameters(recurse=False), None) is not None]


@pytest.mark.parametrize("granularity", ["model", "stage", "block"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_layer_belongs_to_exactly_one_group(name: str, granularity: str) -> None:
    model = make(name)
    found = models.groups(model, granularity)
    names = [group.name for group in found]
    assert len(set(names)) == len(names)
    used = set()
    for layer in weighted(model):
        if not layer:  # the class token of a transformer belongs to the model itself
            continue
        owners = [
            group.name
            for group in found
            if any(not p or layer == p or layer.startswith(f"{p}.") for p in group.prefixes)
        ]
        assert owners == [models.group_of(layer, found)], layer
        used.add(owners[0])
    assert used == set(names)  # no group is empty


@pytest.mark.parametrize("name", STAGES)
def test_stages_are_those_of_the_network(name: str) -> None:
    assert [group.name for group in models.groups(make(name), "stage")] == STAGES[name]


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_the_residual_blocks(name: str) -> None:
    assert [group.name for group in models.groups(make(name), "block")] == ["stem", *BLOCKS[name], "head"]


@pytest.mark.parametrize("name", FAMILIES)
def test_stages_are_few_and_consist_of_blocks(name: str) -> None:
    model = make(name)
    stages, blocks = models.groups(model, "stage"), models.groups(model, "block")
    assert 3 <= len(stages) <= 10
    assert len(blocks) >= len(stages) or name in ("hrnet_w18_small",)
    if all("-" not in group.name for group in stages):  # a block never spans two stages
        for block in blocks:
            layers = [layer for layer in weighted(model) if models.group_of(layer, blocks) == block.name]
            assert len({models.group_of(layer, stages) for layer in layers}) == 1


@pytest.mark.parametrize("name", FAMILIES)
def test_stem_and_classifier_are_in_the_first_and_last_group(name: str) -> None:
    model = make(name)
    modules = dict(model.named_modules())
    groups = models.groups(model)
    for layer in models.stem(model):
        assert isinstance(modules[layer], nn.Conv2d)
        assert models.group_of(layer, groups) == "stem"
    for layer in models.classifier(model):
        assert models.group_of(layer, groups) == "head"
    assert models.stem(model)
    assert models.classifier(model)


def test_layers_that_a_method_adds_inside_a_module_stay_in_its_group() -> None:
    groups = models.groups(make("resnet18"))
    assert models.group_of("layer2.0.conv1.primary.0", groups) == "layer2"
    assert models.group_of("layer2", groups) == "layer2"
    assert (
        models.group_of("layer22.conv", groups) == "head"
    )  # a prefix ends at a dot; unknown layers are in the group of the head


def test_a_model_that_timm_does_not_know_has_groups_too() -> None:
    layers = [nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8, 2)]
    model = nn.Sequential(*layers)
    assert models.stem(model) == ("0",)
    assert models.classifier(model) == ("5",)
    groups = models.groups(model)
    assert (groups[0].name, groups[-1].name) == ("stem", "head")


def test_another_granularity_is_an_error() -> None:
    with pytest.raises(ValueError, match="granularity must be"):
        models.groups(nn.Sequential(nn.Conv2d(1, 1, 1)), "layer")
