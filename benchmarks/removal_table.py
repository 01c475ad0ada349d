"""Checks on many backbones that the sliced network has the same outputs as the masked one.

Half of the channels of every prunable coupling are removed at random. All weights are random,
because constant ones (zeros of last norms and layer scales) would hide errors. Norms have the
statistics of random images, so that signals keep their scale. ``agrees`` compares outputs in
float32 and eval mode, where masked channels stay zero up to their readers. The difference is
relative to the largest output if that is above 1.

    python benchmarks/removal_table.py [--models resnet18 ...] [--mode group] [--rate 0.5] [--out
    FILE]
"""

from __future__ import annotations

import argparse
import copy
import logging
import time
from collections import Counter
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from autocompress.channels.couplings import couplings
from autocompress.channels.removal import masked, remove
from autocompress.channels.verifying import randomise, settle
from autocompress.devices.machine import machine
from autocompress.files import write_json
from autocompress.graph import UntraceableModel, facts
from autocompress.models.architecture import reparameterise

TOLERANCE = 1e-5
VISIBLE = 1e-4
"""A row only counts if the removal changes the outputs by at least this."""
TARGETS = {"backbones": 40, "families": 20}
SIZED = {"vit_tiny_patch16_224", "deit_tiny_patch16_224", "mixer_s32_224", "resmlp_12_224", "gmixer_12_224"}
SIZES = {
    "mixer_s32_224": 224, "resmlp_12_224": 224, "swin_tiny_patch4_window7_224": 224, "levit_128s": 224,
    "inception_v3": 128, "inception_v4": 128, "xception41": 96, "efficientformer_l1": 224, "mobilevit_xxs": 128,
}  # fmt: skip
MODELS = (
    "resnet18", "resnet50", "resnet26d", "seresnet50", "ecaresnet26t", "resnext26ts", "wide_resnet50_2",
    "res2net50_26w_4s", "resnest14d", "skresnet18", "mobilenetv2_050", "mnasnet_small", "spnasnet_100", "fbnetc_100",
    "tinynet_e", "efficientnet_b0", "tf_efficientnetv2_b0", "mixnet_s", "efficientnet_lite0", "mobilenetv3_small_050",
    "mobilenetv3_large_100", "lcnet_050", "hardcorenas_a", "mobilenetv4_conv_small", "ghostnet_050", "densenet121",
    "regnetx_002", "regnety_002", "vgg11_bn", "repvgg_a0", "mobileone_s0", "dla34", "dla46_c", "dpn48b",
    "hrnet_w18_small", "selecsls42b", "ese_vovnet19b_dw", "rexnet_100", "cspresnet50", "cspdarknet53", "darknet53",
    "xception41", "inception_v3", "inception_v4", "convnext_atto", "convnextv2_atto", "vit_tiny_patch16_224",
    "deit_tiny_patch16_224", "mixer_s32_224", "resmlp_12_224", "levit_128s", "edgenext_xx_small", "mobilevit_xxs",
    "poolformer_s12", "fastvit_t8", "resnetv2_50", "nf_regnet_b0", "repghostnet_050", "test_resnet",
    "swin_tiny_patch4_window7_224", "efficientformer_l1", "gernet_s", "hgnet_tiny", "starnet_s1",
)  # fmt: skip


def network(name: str, size: int) -> nn.Module:
    """A backbone with ten classes and random weights."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10, **({"img_size": size} if name in SIZED else {}))
    model = reparameterise(model).eval()
    randomise(model, torch.Generator().manual_seed(0))
    settle(model, torch.randn(4, 3, size, size))
    return model


def row_of(name: str, mode: str, rate: float, size: int) -> dict[str, Any]:
    """One row of the table."""
    started = time.perf_counter()
    model = network(name, size)
    row: dict[str, Any] = {"model": name, "family": type(model).__module__.rpartition(".")[2], "size": size}
    shape = (3, size, size)
    try:
        every = couplings(model, shape, mode)
    except UntraceableModel as error:
        return row | {"agrees": None, "reasons": {str(error): 1}}
    offered = [coupling for coupling in every if coupling.prunable]
    reasons = Counter(reason for coupling in every for reason in coupling.reasons)
    row |= {"couplings": len(every), "offered": len(offered), "unsafe": sum(not c.safe for c in offered)}
    row |= {"seconds_to_find": round(time.perf_counter() - started, 1), "reasons": dict(reasons.most_common(4))}
    safe = [coupling for coupling in offered if coupling.safe]
    if not safe:
        return row | {"agrees": None}
    chance = torch.Generator().manual_seed(1)
    keep = {c.name: c.left_by(c.ranked(torch.rand(c.channels, generator=chance).tolist()), c.kept(rate)) for c in safe}
    sliced = remove(copy.deepcopy(model), keep, shape, mode, couplings=every)
    images = torch.randn(2, *shape)
    with torch.no_grad():
        outputs = [net(images) for net in (masked(model, keep, shape, mode, couplings=every), sliced, model)]
    scale = max(1.0, float(outputs[0].abs().max()))
    difference = float((outputs[0] - outputs[1]).abs().max()) / scale
    effect = float((outputs[1] - outputs[2]).abs().max()) / scale
    before, after = facts(model, shape), facts(sliced, shape)
    return row | {
        "agrees": difference <= TOLERANCE if effect >= VISIBLE else None,
        "difference": difference,
        "effect": effect,
        "macs_before": before.macs,
        "macs_after": after.macs,
        "params_before": before.params,
        "params_after": after.params,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--mode", default="group")
    parser.add_argument("--rate", type=float, default=0.5)
    parser.add_argument("--size", type=int, default=64, help="size in pixels, for backbones that take any size")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/removal.json"))
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    rows = []
    print(f"{'model':<32}{'agrees':>8}{'difference':>12}{'effect':>9}{'offered':>10}{'MACs after':>12}")
    for name in arguments.models:
        row = row_of(name, arguments.mode, arguments.rate, SIZES.get(name, arguments.size))
        rows.append(row)
        says = {True: "yes", False: "NO", None: "-"}[row["agrees"]]
        figures = f"{row.get('difference', 0):>12.1e}{row.get('effect', 0):>9.1g}"
        left = row["macs_after"] / row["macs_before"] if "macs_after" in row else 1.0
        offered = f"{row.get('offered', 0)}/{row.get('couplings', 0)}"
        print(
            f"{name:<32}{says:>8}{figures}{offered:>10}{left:>11.0%}  {next(iter(row['reasons']), '')[:60]}", flush=True
        )
    agreeing = [row for row in rows if row["agrees"]]
    summary = {
        "backbones": len(agreeing),
        "families": len({row["family"] for row in agreeing}),
        "disagreeing": [row["model"] for row in rows if row["agrees"] is False],
        "nothing_offered_or_shown": [row["model"] for row in rows if row["agrees"] is None],
    }
    summary["met"] = not summary["disagreeing"] and all(summary[key] >= least for key, least in TARGETS.items())
    environment = {**machine(), "torch": torch.__version__, "timm": timm.__version__}
    settings = {"mode": arguments.mode, "rate": arguments.rate, "tolerance": TOLERANCE}
    write_json(
        arguments.out, {"targets": TARGETS, **settings, "summary": summary, "environment": environment, "rows": rows}
    )
    print(summary)


if __name__ == "__main__":
    main()
