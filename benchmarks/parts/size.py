"""File size by bits, and latency below 8 bits relative to that at 8 bits, timed alternately."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import int8
from autocompress import models
from autocompress.compression.pipeline import Pipeline
from autocompress.compute import Compute
from autocompress.contract import Quantizer, manager
from autocompress.export import export, operator_histogram
from autocompress.job import Limits, load_job
from autocompress.opened.baseline import weights_key
from autocompress.recipes.jobspace import JobSpace
from autocompress.store import Store
from autocompress.training import default_device
from shared.trained import QUANTIZERS, Written

SIZE = {8: 0.27, 4: 0.15, 2: 0.09, 1: 0.06}
"""Maximum share of the float ONNX file, by bits."""
LATENCY = 1.05
"""Maximum ratio to the latency of the 8-bit file."""
CHOICES = ("quantize:8", "quantize:4", "quantize:2", "slb:2", "slb:1")


def run(model_name: str, size: int, classes: int, seconds: float, threads: int = 1) -> dict[str, Any]:
    """Exports one backbone with random weights in several numbers of bits, and times the files.

    Nothing is trained, because size and latency do not depend on the values of weights.

    Args:
        model_name: name in timm.
        size: size of the images in pixels.
        classes: number of classes.
        seconds: seconds for measuring all files.
        threads: threads of the runtime.
    """
    job = load_job(model=model_name, model_args={"num_classes": classes}, data="digits", device={"input_size": size})
    model = models.create(job)  # no data are loaded, so the job gives classes and size
    found = manager().methods()
    methods = [method for method in found if isinstance(method, Quantizer) and method.name in QUANTIZERS]
    space = JobSpace(model, methods, Limits(), "model", epochs=1)
    pipeline = Pipeline(model, weights_key(model), methods, None, "model", 0, Compute.on(default_device()), Store())
    image = models.input_size(model)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        paths = {"fp32": Path(folder) / "fp32.onnx"}
        export(model, paths["fp32"], image)
        for choice in CHOICES:
            paths[choice] = Path(folder) / f"{choice.replace(':', '-')}.onnx"
            candidate = pipeline.run(space.compose(Written(choice, 8)), dry_run=True)
            export(candidate.model, paths[choice], image)
        blocks = int8.measure(paths, image[1], threads, seconds)
        whole = paths["fp32"].stat().st_size
        for choice in CHOICES:
            bits = int(choice.partition(":")[2])
            ratio = int8.ratio(blocks[choice], blocks["quantize:8"])
            row: dict[str, Any] = {
                "weights": choice,
                "bytes": paths[choice].stat().st_size,
                "size_ratio": paths[choice].stat().st_size / whole,
                "size_target": SIZE[bits],
                "latency_over_8_bits": ratio,
                "latency_target": LATENCY,
                "milliseconds": float(sorted(blocks[choice])[len(blocks[choice]) // 2]),
                "operators": operator_histogram(paths[choice]),
            }
            row["met"] = row["size_ratio"] <= SIZE[bits] and ratio["median"] <= LATENCY
            rows.append(row)
    return {
        "model": model_name,
        "size": image[1],
        "classes": classes,
        "threads": threads,
        "fp32_bytes": whole,
        "blocks": len(blocks["fp32"]),
        "rows": rows,
        "met": all(row["met"] for row in rows),
    }


def lines(part: dict[str, Any]) -> list[str]:
    """The table of this part."""
    return [
        f"{row['weights']:<12} size {row['size_ratio']:.4f} (target {row['size_target']:.2f})  "
        "latency {median:.3f} ({low:.3f}..{high:.3f})".format(**row["latency_over_8_bits"])
        + f" of 8 bits (target {row['latency_target']:.2f})  {'yes' if row['met'] else 'no'}"
        for row in part["rows"]
    ]
