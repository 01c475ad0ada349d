"""The backbones of the breadth table.

The smallest network of each family, at a small input size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SMALL = 64
"""Size in pixels for networks that take any size."""


@dataclass(frozen=True)
class Backbone:
    """One row of the table.

    Attributes:
        name: name in timm.
        size: height and width of its images.
        args: arguments of ``timm.create_model``. If timm has no small network of a family, they
            make it shallow: it has fewer layers of the same kinds.
    """

    name: str
    size: int = SMALL
    args: Mapping[str, Any] = field(default_factory=dict)


def _at(size: int, *names: str, **args: Any) -> list[Backbone]:
    return [Backbone(name, size, args) for name in names]


ONE_OF_EACH = [
    *_at(64, "resnet18", "resnext26ts", "legacy_seresnet18", "res2net50_14w_8s", "resnest14d", "skresnet18"),
    *_at(64, "resnetv2_18"),
    *_at(64, "nfnet_l0", depths=(1, 1, 1, 1)),
    *_at(64, "regnetx_002"),
    *_at(64, "vgg11_bn", mlp_ratio=1 / 16),
    *_at(64, "cspdarknet53", "cspnext_tiny", "densenet121", "rdnet_tiny", "dla34", "dpn48b"),
    *_at(64, "hrnet_w18_small", "selecsls42b", "vovnet39a", "tresnet_m"),
    *_at(96, "inception_v3", "inception_v4", "xception41", "legacy_xception"),
    *_at(64, "mobilenetv2_035", "mobilenetv3_small_050", "lcnetv2_small", "hardcorenas_a", "ghostnet_050"),
    *_at(64, "repghostnet_050", "repvit_m0_9", "rexnet_100", "hgnet_tiny", "starnet_s050", "fasternet_t0"),
    *_at(64, "mambaout_femto", "inception_next_atto", "convnext_atto", "convmixer_768_32"),
    *_at(32, "vit_tiny_patch16_224", depth=3, patch_size=8),
    *_at(64, "vit_relpos_small_patch16_224", "vit_tiny_r_s16_p8_224", "deit_tiny_patch16_224", depth=2),
    *_at(64, "beit_base_patch16_224", depth=2, embed_dim=192, num_heads=3),
    *_at(56, "eva02_tiny_patch14_224", depth=2),
    *_at(64, "cait_xxs24_224", depth=2, depth_token_only=1),
    *_at(64, "xcit_nano_12_p16_224", depth=2),
    *_at(64, "samvit_base_patch16_224", depth=2, embed_dim=192, num_heads=3, global_attn_indexes=(1,)),
    *_at(64, "convit_tiny", "pit_ti_224", "tnt_s_patch16_224", "coat_lite_tiny"),
    *_at(120, "crossvit_tiny_240"),
    *_at(64, "visformer_tiny", "twins_svt_small", "volo_d1_224"),
    *_at(56, "swin_tiny_patch4_window7_224", "swinv2_cr_tiny_224", window_size=7, depths=(1, 1, 2, 1)),
    *_at(64, "swinv2_tiny_window8_256", window_size=4, depths=(1, 1, 2, 1)),
    *_at(64, "nest_tiny", "maxvit_pico_rw_256"),
    *_at(64, "hiera_tiny_224", stages=(1, 1, 2, 1)),
    *_at(64, "pvt_v2_b0", "davit_tiny", "gcvit_xxtiny", "focalnet_tiny_srf", "nextvit_small"),
    *_at(64, "swiftformer_xs", "mvitv2_tiny", "edgenext_xx_small", "mobilevit_xxs", "efficientvit_b0"),
    *_at(64, "efficientvit_m0", "fastvit_t8", "shvit_s1", "efficientvim_m1", "lowformer_b0", "iformer_t"),
    *_at(64, "poolformer_s12", "cpubone_nano", "csatv2"),
    *_at(256, "halonet26t"),
    *_at(224, "levit_128s", "efficientformer_l1", "efficientformerv2_s0"),
    *_at(64, "tiny_vit_5m_224", "vitamin_small_224", "mixer_s32_224"),
    *_at(64, "sequencer2d_s", layers=(1, 1, 1, 1)),
    *_at(64, "naflexvit_base_patch16_gap", depth=2),
]  # fmt: skip
"""One backbone of each of timm's families. A run begins with these."""

MORE = [
    *_at(64, "resnet50d", "seresnet18", "ecaresnet26t", "resnetblur18", "resnetv2_50d_gn"),
    *_at(256, "bat_resnext26ts"),
    *_at(64, "resnetv2_50x1_bit"),
    *_at(64, "nf_resnet26", "nf_regnet_b0", depths=(1, 1, 1, 1)),
    *_at(64, "regnety_002", "regnetz_005", "gernet_s", "repvgg_a0", "mobileone_s0", "cspresnet50"),
    *_at(64, "ese_vovnet19b_dw", "mobilenetv4_conv_small_035", "mnasnet_small", "fbnetv3_b", "lcnet_035"),
    *_at(64, "tinynet_e", "mixnet_s", "efficientnet_b0", "efficientnet_lite0", "tf_efficientnet_b0"),
    *_at(64, "efficientnet_cc_b0_4e", "ghostnetv2_100", "ghostnetv3_050", "hgnetv2_b0", "convnextv2_atto"),
    *_at(64, "convnext_zepto_rms", "test_convnext"),
    *_at(64, "vit_small_patch16_224", "flexivit_small", "deit_tiny_distilled_patch16_224", depth=2),
    *_at(64, "deit3_small_patch16_224", "vit_small_patch16_rope_224", depth=2),
    *_at(64, "coatnet_pico_rw_224", "mobilevitv2_050", "convformer_s18", "botnet26t_256", "gmlp_ti16_224"),
    *_at(64, "resmlp_12_224"),
]  # fmt: skip

BACKBONES = [*ONE_OF_EACH, *MORE]
PAIRED = (
    "resnet18", "resnet50d", "mobilenetv2_035", "mobilenetv3_small_050", "efficientnet_b0", "regnety_002", "vgg11_bn",
    "densenet121", "ghostnet_050", "convnext_atto", "vit_tiny_patch16_224", "mixer_s32_224",
)  # fmt: skip
"""Backbones on which pairs of methods are tried too."""
