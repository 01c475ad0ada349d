"""Latency of int8 files, compared with those of quantize_static, by ``int8.py``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import int8

TARGET = 1.05
MODELS = (
    "resnet18",
    "resnet50",
    "efficientnet_b0",
    "mobilenetv3_small_100",
    "densenet121",
    "regnety_002",
    "convnext_atto",
    "vit_tiny_patch16_224",
)


def run(models: Sequence[str], size: int, seconds: float, threads: int = 1) -> dict[str, Any]:
    """One row per backbone with random weights. If int8 is slower than float, the row says so."""
    rows = []
    for name in models:
        row = int8.run(name, size, threads, seconds)
        row["met"] = row["int8_over_quantize_static"]["median"] <= TARGET
        row["faster"] = "int8" if row["fp32_over_int8"]["median"] > 1 else "float"
        rows.append(row)
    return {"target": TARGET, "rows": rows, "met": all(row["met"] for row in rows)}


def lines(part: dict[str, Any]) -> list[str]:
    """The table of this part."""
    shown = []
    for row in part["rows"]:
        ratios = [
            f"{label} " + "{median:.3f} ({low:.3f}..{high:.3f})".format(**row[key])
            for label, key in (("int8/static", "int8_over_quantize_static"), ("fp32/int8", "fp32_over_int8"))
        ]
        shown.append(f"{row['model']:<24} {'  '.join(ratios)}  target {TARGET:.2f}  {'yes' if row['met'] else 'no'}")
    return shown
