"""Counts of ResNet-50 and the ResNet-56 for CIFAR at a rate, by the official scheme."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import timm

from autocompress.channels.couplings import couplings
from autocompress.channels.removal import remove
from autocompress.graph import facts
from shared.cifar import CifarResNet

TARGETS = {"resnet50": (0.35, 42.8, 45.4), "cifar-resnet56": (0.45, 56.3, 56.1)}
"""Rate, and percent of the parameters and of the MACs that are removed."""
PRINTED = 0.05
"""The published figures have one decimal."""


def run(names: Sequence[str] = tuple(TARGETS)) -> dict[str, Any]:
    """One row a network.

    Every convolution behind the stem loses floor(rate * width) channels, shortcuts keep theirs.

    Args:
        names: names of networks in ``TARGETS``.
    """
    rows = [_row(name) for name in names]
    return {"rows": rows, "met": all(row["met"] for row in rows)}


def _row(name: str) -> dict[str, Any]:
    rate, params, macs = TARGETS[name]
    size = (3, 224, 224) if name == "resnet50" else (3, 32, 32)
    model = (timm.create_model(name) if name == "resnet50" else CifarResNet(56)).eval()
    every = couplings(model, size, "scatter", verify=False)  # shortcuts as in the official code
    able = [coupling for coupling in every if coupling.prunable and not coupling.stem]
    keep = {c.name: c.left_by(c.ranked([0.0] * c.channels), c.kept(rate)) for c in able}
    small = facts(remove(copy.deepcopy(model), keep, size, "scatter", couplings=every), size)
    whole = facts(model, size)
    row: dict[str, Any] = {
        "model": name,
        "rate": rate,
        "params": whole.params,
        "macs": whole.macs,
        "params_cut": 100.0 * (1 - small.params / whole.params),
        "macs_cut": 100.0 * (1 - small.macs / whole.macs),
        "target": {"params_cut": params, "macs_cut": macs},
    }
    row["met"] = all(abs(row[key] - value) <= PRINTED for key, value in row["target"].items())
    return row


def lines(part: dict[str, Any]) -> list[str]:
    """The table of this part."""
    return [
        f"{row['model']:<16} rate {row['rate']:.2f}  params -{row['params_cut']:.2f} % "
        f"(target {row['target']['params_cut']:.1f})  MACs -{row['macs_cut']:.2f} % "
        f"(target {row['target']['macs_cut']:.1f})  {'yes' if row['met'] else 'no'}"
        for row in part["rows"]
    ]
