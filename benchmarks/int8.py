"""Latency of int8 files, compared with float files and ``quantize_static``, on one thread.

The reference, ``onnxruntime.quantization.quantize_static``, gets the same float ONNX file and the
same calibration images (uint8 activations, int8 weights with a scale per channel, QDQ). Weights are
random, which does not change latencies. All files run with the fastest session options for exact
integers on this processor (``autocompress.runtime``), which the table has. Files alternate: each
block gives each file the same time, and their order changes between blocks.

    python benchmarks/int8.py [--models resnet18 resnet50] [--sizes 32 224] [--seconds 20] [--out
    FILE]
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import psutil
import timm
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn

from autocompress.devices.machine import machine
from autocompress.devices.timing import block
from autocompress.export import INPUT, export, open_session, operator_histogram
from autocompress.files import write_json
from autocompress.models import reparameterise
from autocompress.quantization import LayerBits, calibrate, harden, quantize
from autocompress.quantization.fakequant import UniformFakeQuantizer
from autocompress.runtime import session_config

TARGETS = {"fp32_over_int8": 2.5, "int8_over_quantize_static": 1.03}
TARGET_SIZE = 224
"""Minimum size in pixels with a target for ``fp32_over_int8``."""


class _Images(CalibrationDataReader):
    def __init__(self, images: np.ndarray) -> None:
        self._images = iter([{INPUT: image[None]} for image in images])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._images, None)


def files(name: str, size: int, folder: Path) -> dict[str, Path]:
    """Writes the float file, ours, and that of quantize_static for one backbone."""
    torch.manual_seed(0)
    arguments: dict[str, Any] = {"img_size": size} if "vit" in name else {}
    model = reparameterise(timm.create_model(name, **arguments)).eval()
    images = torch.randn(8, 3, size, size)
    paths = {kind: folder / f"{kind}.onnx" for kind in ("fp32", "int8", "quantize_static")}
    export(model, paths["fp32"], (3, size, size))
    config = {
        layer: LayerBits("quantize")
        for layer, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }
    network = quantize(model, config, lambda _, spec: UniformFakeQuantizer(spec), input_size=(3, size, size))
    calibrate(network, [images])
    export(harden(network), paths["int8"], (3, size, size))
    prepared = folder / "prepared.onnx"
    quant_pre_process(paths["fp32"], prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared,
        paths["quantize_static"],
        _Images(images.numpy()),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )
    return paths


def measure(paths: dict[str, Path], size: int, threads: int, seconds: float) -> dict[str, np.ndarray]:
    """Median milliseconds of each file in each block, ``(blocks,)``. Files alternate."""
    sessions = {kind: open_session(path, threads) for kind, path in paths.items()}
    image = {INPUT: np.random.default_rng(0).standard_normal((1, 3, size, size)).astype(np.float32)}
    blocks: dict[str, list[float]] = {kind: [] for kind in sessions}
    for session in sessions.values():
        for _ in range(3):
            session.run(None, image)
    random = np.random.default_rng(0)
    # Processor time of one thread, as the device measures, does not include other processes.
    clock = time.thread_time if threads == 1 else time.perf_counter
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for kind in random.permutation(list(sessions)):
            blocks[kind].append(1e3 * block(partial(sessions[kind].run, None, image), clock))
    return {kind: np.array(values) for kind, values in blocks.items()}


def ratio(above: np.ndarray, below: np.ndarray) -> dict[str, float]:
    """The median of the ratios of blocks, with its 95 % bootstrap interval."""
    ratios = above / below
    draws = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return {"median": float(np.median(ratios)), "low": float(low), "high": float(high)}


def run(name: str, size: int, threads: int, seconds: float) -> dict[str, Any]:
    """One row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        paths = files(name, size, Path(folder))
        blocks = measure(paths, size, threads, seconds)
        row: dict[str, Any] = {
            "model": name,
            "size": size,
            "threads": threads,
            "blocks": len(blocks["fp32"]),
            "milliseconds": {kind: float(np.median(values)) for kind, values in blocks.items()},
            "megabytes": {kind: path.stat().st_size / 1e6 for kind, path in paths.items()},
            "fp32_over_int8": ratio(blocks["fp32"], blocks["int8"]),
            "int8_over_quantize_static": ratio(blocks["int8"], blocks["quantize_static"]),
            "operators": {kind: operator_histogram(path) for kind, path in paths.items()},
        }
    # at small sizes, the fixed cost of operators is a larger part of the latency
    fast = size < TARGET_SIZE or row["fp32_over_int8"]["median"] >= TARGETS["fp32_over_int8"]
    row["met"] = fast and row["int8_over_quantize_static"]["median"] <= TARGETS["int8_over_quantize_static"]
    return row


def environment() -> dict[str, Any]:
    """The machine and versions on which the figures depend."""
    return {
        **machine(),
        "load": psutil.getloadavg()[0],
        "onnxruntime": ort.__version__,
        "session_config": dict(session_config()),
        "torch": torch.__version__,
        "timm": timm.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet18", "resnet50"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 224])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0, help="seconds for measuring each model and size")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/int8.json"))
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(arguments.threads)
    rows = []
    heads = f"{'fp32 ms':>9}{'int8 ms':>9}{'static ms':>10}{'fp32/int8':>20}{'int8/static':>20}"
    print(f"{'model':<24}{'size':>5}{heads}  met")
    for name, size in itertools.product(arguments.models, arguments.sizes):
        row = run(name, size, arguments.threads, arguments.seconds)
        rows.append(row)
        ms = row["milliseconds"]
        shown = [
            "{median:.2f} ({low:.2f}..{high:.2f})".format(**row[key])
            for key in ("fp32_over_int8", "int8_over_quantize_static")
        ]
        times = f"{ms['fp32']:>9.2f}{ms['int8']:>9.2f}{ms['quantize_static']:>10.2f}"
        print(f"{name:<24}{size:>5}{times}{shown[0]:>20}{shown[1]:>20}  {'yes' if row['met'] else 'no'}", flush=True)
    write_json(arguments.out, {"targets": TARGETS, "environment": environment(), "rows": rows})
    print(json.dumps(environment()))


if __name__ == "__main__":
    main()
