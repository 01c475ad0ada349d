"""Integer placement tuned by measurement, compared with float, plain int8 and ``quantize_static``.

Each backbone (with random weights, which do not change latencies) is written four times: in float,
with integers wherever ONNX Runtime has them (plain), as ``autocompress.integer_placement`` places
them (tuned), and by ``onnxruntime.quantization.quantize_static``. One thread alternates between all
files, in blocks of changing order. Only ratios within a block are reported, because milliseconds
depend on other processes. If ``openvino`` is installed, float, plain and tuned files for it are
compared too, and the float and the tuned file with floats of 16 bits (``precision: bf16``).

A row is written as soon as its backbone is done. Backbones with a row are skipped, so a second run
continues the first one. On another machine than that of the table, a new row has an environment of
its own.

    python benchmarks/placement.py [--models efficientnet_lite0 ...] [--size 224] [--seconds 16]
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

from autocompress.contract import Deployable, Device, manager
from autocompress.devices.timing import block
from autocompress.export import check_agreement
from autocompress.files import cache_folder, write_json
from autocompress.integer_placement import MeasuredCosts, Placer
from autocompress.integer_placement.files import Network
from autocompress.job import DeviceConfig
from autocompress.models import reparameterise
from autocompress.opened.keys import measured_with
from autocompress.store import Store
from int8 import environment, files, ratio
from shared.placed import write_tuned
from shared.rows import read

MODELS = (
    "efficientnet_lite0", "efficientnet_b0", "mobilenetv2_100", "mobilenetv3_small_100", "mobilenetv3_large_100",
    "mobilenetv4_conv_small", "ghostnet_100", "regnety_002", "convnext_atto", "vit_tiny_patch16_224", "densenet121",
    "repvgg_a0", "resnet18", "resnet50", "mnasnet_100", "fbnetc_100", "hardcorenas_a", "mobileone_s0", "regnetx_002",
    "tinynet_c",
)  # fmt: skip
TARGETS = {"over_the_better": 1.0, "over_float": 0.9, "over_quantize_static": 1.0}
"""The target ``over_float`` is for three quarters of the backbones. The others are for all."""
NOISE = 0.02
"""Ratio minus 1 that counts as noise on a busy machine."""


def devices() -> list[Device]:
    """ONNX Runtime, and OpenVINO if it is installed."""
    names = ["onnxruntime-cpu"] + (["openvino-cpu"] if importlib.util.find_spec("openvino") else [])
    known = {device.name: device for device in manager().devices()}
    return [known[name] for name in names if name in known]


def tuned_costs(device: Device, network: Network) -> tuple[MeasuredCosts | None, dict[str, Any]]:
    """The costs of ``network``, with the seconds of the first call and of a cached call."""
    config = DeviceConfig(name=device.name)
    placer = Placer(device, config, measured_with(device, config), Store(cache_folder("placement")))
    began = time.perf_counter()
    costs = placer.costs(network)
    first = time.perf_counter() - began
    began = time.perf_counter()
    placer.costs(network)
    taken = {"tuning_seconds": round(first, 1), "known_seconds": round(time.perf_counter() - began, 2)}
    return costs, taken


def blocks(device: Device, paths: dict[str, Path], size: int, seconds: float) -> dict[str, np.ndarray]:
    """Seconds per run of each file in each block. Files alternate."""
    config = DeviceConfig(name=device.name)
    image = np.random.default_rng(0).standard_normal((1, 3, size, size)).astype(np.float32)

    def opened(path: Path, config: DeviceConfig) -> Callable[[], object]:
        return device.open(Deployable(path, (3, size, size)), image, config)

    runs = {kind: opened(path, config) for kind, path in paths.items()}
    if device.name == "openvino-cpu":
        half = config.model_copy(update={"options": {"precision": "bf16"}})
        runs |= {f"{kind}_bf16": opened(paths[kind], half) for kind in ("fp32", "tuned")}
    clock = time.thread_time if device.is_in_thread(config) else time.perf_counter
    found: dict[str, list[float]] = {kind: [] for kind in runs}
    for run in runs.values():
        run()
    random, end = np.random.default_rng(0), time.perf_counter() + seconds
    while time.perf_counter() < end or len(found["tuned"]) < 6:
        for kind in random.permutation(list(runs)):
            found[kind].append(block(partial(runs[kind]), clock))
    return {kind: np.array(values) for kind, values in found.items()}


def on_device(device: Device, name: str, size: int, seconds: float, folder: Path) -> dict[str, Any]:
    """The figures of one backbone on one device."""
    paths = files(name, size, folder)
    if device.name != "onnxruntime-cpu":
        del paths["quantize_static"]
    torch.manual_seed(0)
    model = reparameterise(timm.create_model(name, **({"img_size": size} if "vit" in name else {}))).eval()
    network = Network(model, (3, size, size), table=device.placement)
    costs, taken = tuned_costs(device, network)
    images = torch.randn(8, 3, size, size)
    paths["tuned"] = folder / "tuned.onnx"
    hardened, floats = write_tuned(network, costs, images, paths["tuned"])
    agreement = check_agreement(paths["tuned"], hardened, images)
    timed = blocks(device, paths, size, seconds)
    better = min(("fp32", "int8"), key=lambda kind: float(np.median(timed[kind])))
    row = {
        **taken,
        "verdict": None if costs is None else costs.verdict,
        "layers": len(network.config),
        "layers_in_float": len(floats),
        "labels_as_in_torch": agreement.labels,
        "mean_error": agreement.mean_error,
        "blocks": len(timed["tuned"]),
        "better": better,
        "plain_over_float": ratio(timed["int8"], timed["fp32"]),
        "over_float": ratio(timed["tuned"], timed["fp32"]),
        "over_the_better": ratio(timed["tuned"], timed[better]),
    }
    if "quantize_static" in timed:
        row["over_quantize_static"] = ratio(timed["tuned"], timed["quantize_static"])
    if "fp32_bf16" in timed:
        row["bf16_over_float"] = ratio(timed["fp32_bf16"], timed["fp32"])
        row["tuned_over_bf16"] = ratio(timed["tuned"], timed["fp32_bf16"])
        row["tuned_bf16_over_tuned"] = ratio(timed["tuned_bf16"], timed["tuned"])
    return row


def summary(rows: dict[str, dict[str, Any]], device: str) -> dict[str, Any]:
    """The number of backbones that reach the targets."""
    own = {name: row[device] for name, row in rows.items() if device in row}
    reached = {
        key: sum(row[key]["low"] <= most and row[key]["median"] <= most * (1 + NOISE) for row in own.values())
        for key, most in TARGETS.items()
        if all(key in row for row in own.values())
    }
    return {"backbones": len(own), "reached": reached}


def add_row(path: Path, head: dict[str, Any], name: str, device: str, row: dict[str, Any]) -> None:
    """Writes a row to the table, with the environment if that of the table is another one."""
    table, here = read(path), environment()
    first = table.get("environment", here)
    if any(here[key] != first.get(key) for key in here if key != "load"):
        row["environment"] = here
    rows = table.get("rows", {})
    rows.setdefault(name, {})[device] = row
    summaries = {device: summary(rows, device) for device in {key for row in rows.values() for key in row}}
    write_json(path, {**head, "environment": first, "summary": summaries, "rows": rows})


def show(name: str, device: str, row: dict[str, Any]) -> str:
    """One line of the table."""
    keys = ("plain_over_float", "over_float", "over_the_better", "over_quantize_static", "bf16_over_float")
    told = ["{median:.2f} ({low:.2f}..{high:.2f})".format(**row[key]) if key in row else "" for key in keys]
    floats = f"{row['layers_in_float']}/{row['layers']}"
    return f"{name:<24}{device:<17}{floats:>8}" + "".join(f"{text:>20}" for text in told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument(
        "--seconds", type=float, default=16.0, help="seconds for measuring each backbone on each device"
    )
    parser.add_argument("--devices", nargs="+", default=[device.name for device in devices()])
    parser.add_argument("--out", type=Path, default=Path("results/placement/backbones.json"))
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    rows: dict[str, dict[str, Any]] = read(arguments.out).get("rows", {})
    heads = ("plain/float", "tuned/float", "tuned/better", "tuned/static", "bf16/float")
    print(f"{'model':<24}{'device':<17}{'in float':>8}" + "".join(f"{head:>20}" for head in heads))
    for name in arguments.models:
        for device in (device for device in devices() if device.name in arguments.devices):
            if device.name not in rows.get(name, {}):
                with tempfile.TemporaryDirectory() as folder:
                    row = on_device(device, name, arguments.size, arguments.seconds, Path(folder))
                rows.setdefault(name, {})[device.name] = row
                head = {"size": arguments.size, "targets": TARGETS}
                add_row(arguments.out, head, name, device.name, row)
            print(show(name, device.name, rows[name][device.name]), flush=True)


if __name__ == "__main__":
    main()
