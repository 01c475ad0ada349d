"""Removal of whole attention heads: the timm blocks that allow it, and exactness of the removal."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from timm.utils import reparameterize_model

from autocompress.channels.couplings import couplings
from autocompress.channels.removal import masked, remove
from autocompress.channels.verifying import randomise, settle

SWIN = {"embed_dim": 16, "depths": (1, 1), "num_heads": (2, 4), "window_size": 2}
VIT = {"embed_dim": 32, "depth": 1, "num_heads": 4, "patch_size": 8}
HIERA = {"img_size": 64, "stages": (1, 1), "embed_dim": 16, "num_heads": 2, "q_pool": 1}
LEVIT = {"img_size": 64, "depth": (1, 1), "embed_dim": (16, 32), "num_heads": (2, 2), "key_dim": 4}
BLOCKS: list[tuple[str, int, dict[str, Any], str, int]] = [
    ("vit_tiny_patch16_224", 16, {"img_size": 16, **VIT}, "blocks.0.attn.qkv", 4),
    ("swin_tiny_patch4_window7_224", 16, {"img_size": 16, **SWIN}, "layers.1.blocks.0.attn.qkv", 4),
    ("samvit_base_patch16_224", 32, {"img_size": 32, **VIT, "global_attn_indexes": (0,)}, "blocks.0.attn.qkv", 4),
    ("levit_128s", 64, LEVIT, "stages.0.blocks.0.attn.qkv.linear", 2),
    ("hiera_tiny_224", 64, HIERA, "blocks.0.attn.qkv", 2),
]  # fmt: skip


@pytest.mark.parametrize(("name", "size", "args", "writer", "heads"), BLOCKS, ids=[block[0] for block in BLOCKS])
def test_half_of_the_heads_are_removed_exactly(
    name: str, size: int, args: dict[str, Any], writer: str, heads: int
) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=4, **args).double().eval()
    randomise(model, torch.Generator().manual_seed(0))
    settle(model, torch.randn(4, 3, size, size).double())
    image = (3, size, size)
    every = couplings(model, image, "group")
    coupling = next(each for each in every if each.name == writer)
    assert coupling.heads
    assert coupling.prunable, coupling.reasons
    assert coupling.channels == heads
    keep = {writer: list(range(1, heads, 2))}
    sliced = remove(copy.deepcopy(model), keep, image, "group", couplings=every)
    images = torch.randn(2, *image).double()
    with torch.no_grad():
        whole, zeros, small = (net(images) for net in (model, masked(model, keep, image, couplings=every), sliced))
    assert torch.allclose(zeros, small, atol=1e-9 * float(zeros.abs().max()))
    assert not torch.allclose(whole, small, atol=1e-6 * float(whole.abs().max()))
    again = remove(
        copy.deepcopy(sliced), {writer: [0]}, image, "group"
    )  # heads can be removed again from the smaller network
    assert [each.channels for each in couplings(again, image, verify=False) if each.name == writer] == [1]


def test_heads_of_merged_layers_are_offered() -> None:
    model = reparameterize_model(timm.create_model("levit_128s", num_classes=4, **LEVIT).eval())
    every = couplings(model, (3, 64, 64), "group")
    assert [each.name for each in every if each.heads and each.prunable] == [
        f"stages.{stage}.blocks.0.attn.qkv" for stage in range(2)
    ]


def test_heads_that_cannot_be_removed_get_a_reason() -> None:
    model = timm.create_model(
        "cait_xxs24_224", num_classes=4, img_size=32, embed_dim=32, num_heads=4, depth=1, depth_token_only=1
    )
    reasons = [reason for coupling in couplings(model, (3, 32, 32), verify=False) for reason in coupling.reasons]
    assert any("'blocks.0.attn' (TalkingHeadAttn)" in reason for reason in reasons)
