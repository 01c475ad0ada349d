"""Latency at half the MACs, compared with float, timed alternately in ONNX Runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

import int8
from autocompress import models
from autocompress.export import export
from autocompress.job import load_job
from shared.pruned import left, nearest, structure

TARGET = 1.6
"""Target: minimum speed-up."""
SHARE = 0.5
JUDGED = 8
"""The default multiple of the space."""


def run(
    name: str, size: int, multiples: Sequence[int], seconds: float, threads: int = 1, mode: str = "group"
) -> dict[str, Any]:
    """One row a multiple; weights are random, which changes no latency.

    Args:
        name: name in timm.
        size: size of the images in pixels.
        multiples: kept channels are multiples of each. The row of 8, else the first, is judged.
        seconds: seconds for measuring all files.
        threads: threads of the runtime.
        mode: mode of removal.
    """
    torch.manual_seed(0)
    job = load_job(model=name, model_args={"num_classes": 1000}, data="digits", device={"input_size": size})
    model = models.create(job).eval()  # without data, with the requested classes and size
    image = models.input_size(model)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        paths = {"fp32": Path(folder) / "fp32.onnx"}
        export(model, paths["fp32"], image)
        for multiple in multiples:
            rate, share = nearest(lambda r, m=multiple: left(model, r, mode, m)[1], SHARE)
            paths[str(multiple)] = Path(folder) / f"{multiple}.onnx"
            export(structure(model, rate, mode, multiple), paths[str(multiple)], image)
            rows.append({"multiple": multiple, "rate": rate, "macs_share": share})
        blocks = int8.measure(paths, image[1], threads, seconds)
    for row in rows:
        own = blocks[str(row["multiple"])]
        row["milliseconds"] = float(np.median(own))
        row["times_faster"] = int8.ratio(blocks["fp32"], own)
        row["met"] = row["times_faster"]["median"] >= TARGET
    judged = JUDGED if JUDGED in multiples else multiples[0]
    return {
        "model": name,
        "size": image[1],
        "mode": mode,
        "threads": threads,
        "target": TARGET,
        "judged": judged,
        "timm": timm.__version__,
        "fp32_milliseconds": float(np.median(blocks["fp32"])),
        "blocks": len(blocks["fp32"]),
        "rows": rows,
        "met": next(row["met"] for row in rows if row["multiple"] == judged),
    }


def lines(part: dict[str, Any]) -> list[str]:
    """The table of this part."""
    return [
        f"multiple {row['multiple']:<3} rate {row['rate']:.3f}  MACs {row['macs_share']:.3f}  "
        f"{row['milliseconds']:.2f} ms of {part['fp32_milliseconds']:.2f}  "
        "{median:.3f} ({low:.3f}..{high:.3f}) times faster".format(**row["times_faster"])
        + f"  target {part['target']:.1f}  {'yes' if row['met'] else 'no'}"
        + ("" if row["multiple"] == part["judged"] else "  not judged")
        for row in part["rows"]
    ]
