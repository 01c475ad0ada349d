"""Writes the folder of a made-up run, with all files of a search, for tests that read runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from autocompress import results
from autocompress.objectives.dominance import non_dominated
from autocompress.objectives.hypervolume import speed_hypervolume

GROUPS = ("stem", "layer1", "layer2", "layer3", "layer4")
JOB: dict[str, Any] = {
    "model": "resnet18",
    "data": {"train": "glyphs", "val": "glyphs", "test": "glyphs"},
    "device": {"name": "onnxruntime-cpu", "threads": 1, "batch": 1},
    "objectives": ["accuracy", "latency"],
    "constraints": {"accuracy_drop": 1.0, "latency": "0.5x"},
    "space": "joint",
    "granularity": "stage",
    "budget": {"trials": 60, "minutes": 20, "epochs": 2},
    "sampler": "tpe",
    "workers": 2,
    "seed": 0,
    "name": "resnet18-glyphs",
}
BASELINE = {
    "status": "baseline",
    "accuracy": 92.6,
    "accuracy_drop": 0.0,
    "latency_ms": 4.31,
    "latency_ratio": 1.0,
    "size_bytes": 44_762_112,
    "params": 11_187_311,
    "macs": 37_340_160,
    "test_accuracy": 93.1,
    "test_accuracy_drop": 0.0,
    "size_ratio": 1.0,
}


def draw_trial(number: int, draw: np.random.Generator) -> dict[str, Any]:
    """One row of trials.csv.

    Cheaper recipes lose more accuracy. Some trials miss a constraint or fail.
    """
    recipe: dict[str, Any] = {}
    work = 1.0
    recipe |= {"prune.method": ("obs", "scop")[number % 2], "prune.mode": "inner", "prune.multiple": 8}
    for group in GROUPS[1:]:
        recipe[f"ghost.ratio.{group}"] = draw.choice(["none", "2", "3"], p=[0.65, 0.2, 0.15]).item()
        gone = float(draw.choice([0.0, draw.uniform(0.1, 0.7)]))
        recipe[f"prune.keep.{group}.0.conv1"] = 1 - round(16 * gone) / 16
        work -= 0.12 * (recipe[f"ghost.ratio.{group}"] != "none") + 0.2 * round(gone, 3)
    bits = 0.0
    for group in GROUPS:
        recipe[f"bits.weight.{group}"] = draw.choice(
            ["none", "quantize:8", "quantize:4", "slb:2"], p=[0.3, 0.5, 0.1, 0.1]
        ).item()
        if recipe[f"bits.weight.{group}"] != "none":
            recipe[f"bits.activation.{group}"] = int(draw.choice([8, 8, 8, 4]))
        bits += {"none": 1.0, "quantize:8": 0.3, "quantize:4": 0.3, "slb:2": 0.3}[recipe[f"bits.weight.{group}"]] / 5
    recipe["recover.epochs"] = int(draw.choice([1, 2]))
    ratio = max(0.05, work * bits * draw.uniform(0.9, 1.1))
    low = sum(value in ("slb:2", 4) for value in recipe.values())
    drop = max(-0.4, 0.8 / ratio**0.5 - 1.6 + 0.2 * low + draw.normal(0, 0.25))
    row = {
        "trial": number,
        "status": "complete",
        "accuracy": BASELINE["accuracy"] - drop,
        "accuracy_drop": drop,
        "latency_ms": BASELINE["latency_ms"] * ratio,
        "latency_ratio": ratio,
        "size_bytes": int(BASELINE["size_bytes"] * work * (0.2 + bits * 0.8)),
        "params": int(BASELINE["params"] * work),
        "macs": int(BASELINE["macs"] * work),
        "seconds": draw.uniform(4, 40),
        "rung": 1,
        "recipe": recipe,
    }
    gone = dict.fromkeys(("accuracy", "accuracy_drop"))
    if ratio > 0.5:
        text = f"latency 0.5x: {ratio:.2f}x measured, the whole interval misses"
        row |= gone | {"status": "infeasible", "reason": text, "rung": None}
    elif draw.uniform() < 0.06:
        costs = dict.fromkeys(("latency_ms", "latency_ratio", "size_bytes", "params", "macs"))
        text = draw.choice(["loss is NaN at step 17", "OutOfMemoryError: <tried> to allocate 2 GiB & failed"]).item()
        row |= gone | costs | {"status": "failed", "reason": text, "rung": None}
    elif drop > 1.5:
        row |= {"status": "infeasible", "reason": "loses 1.8 points, more than 1.5 points"}
    return row


def example_rows(trials: int = 60, seed: int = 0) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(rows of trials.csv, rows of front.csv)."""
    draw = np.random.default_rng(seed)
    rows = [draw_trial(number, draw) for number in range(trials)]
    done = [row for row in rows if row["status"] == "complete"]
    keep = non_dominated([[row["accuracy_drop"], row["latency_ratio"]] for row in done])
    front = [BASELINE]
    for row in (row for row, kept in zip(done, keep, strict=True) if kept):
        ratio, test_drop = row["latency_ratio"] * draw.uniform(0.98, 1.02), row["accuracy_drop"] + draw.normal(0.1, 0.3)
        row["artifact"] = f"artifacts/{row['trial']}"
        front.append(row | {
            "latency_ratio": ratio,
            "latency_ratio_low": ratio * 0.97,
            "latency_ratio_high": ratio * 1.04,
            "test_accuracy": BASELINE["test_accuracy"] - test_drop,
            "test_accuracy_drop": test_drop,
            "size_ratio": row["size_bytes"] / BASELINE["size_bytes"],
        })  # fmt: skip
    return rows, front


def write_run(folder: Path, trials: int = 60, seed: int = 0, **job: Any) -> Path:
    """Writes a whole run into ``folder`` and returns it; ``job`` replaces keys of ``JOB``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.yaml").write_text(yaml.safe_dump({**JOB, **job}, sort_keys=False), encoding="utf-8")
    rows, front = example_rows(trials, seed)
    results.write_trials(folder, rows)
    results.write_front(folder, front)
    for row in front[1:]:
        artifact = folder / row["artifact"]
        artifact.mkdir(parents=True)
        (artifact / "model.onnx").write_bytes(bytes(1000))
        (artifact / "model.safetensors").write_bytes(bytes(2000))
        interval = [row["test_accuracy_drop"] - 0.5, row["test_accuracy_drop"] + 0.5]
        metrics = {"test_accuracy_drop_interval": interval, "noisy": row is front[1]}
        (artifact / "metrics.json").write_text(json.dumps(metrics))
        (artifact / "recipe.json").write_text(json.dumps(row["recipe"]))
        (artifact / "plan.json").write_text("[]")
    summary = {
        "hypervolume": speed_hypervolume(
            *zip(*((row["accuracy_drop"], row["latency_ratio"]) for row in front), strict=True)
        ),
        "seconds": 812.4,
        "trials": {},
        "cache": {"hits": 41, "misses": 73},
        "images": {"train": 12000, "val": 2000, "test": 3000},
        "baseline": BASELINE,
        "environment": {
            "machine": "x86_64",
            "processor": "Xeon",
            "features": ["avx512_vnni", "amx_int8"],
            "threads": 1,
            "onnxruntime": "1.32.0",
            "session": {"graph_optimization": "all", "intra_op_threads": 1},
        },
        "nearest_miss": None,
        "plugins": {
            "applied": ["ghost", "obs", "scop", "quantize", "slb"],
            "refused": {"adder": ["layers of adders run 50 times slower on onnxruntime-cpu"]},
            "broken": {"acme": "ImportError: no module named 'acme_core'"},
        },
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def write_everything(folder: Path, trials: int = 60) -> Path:
    """Writes a run whose page has every section that a page of a run can have.

    Figures of layers, tables and other devices are made up.
    """
    write_run(folder, trials)
    best = results.read(folder).recommended()
    assert best is not None
    layers = [_layer(number, group) for group in GROUPS for number in range(4)]
    step = {"accuracy_drop": 0.4, "latency_ratio": 0.6, "latency_ratio_low": 0.55, "latency_ratio_high": 0.63}
    stages = ("operators", "channels", "repair", "training", "bits")
    steps = [{**step, "stage": stage, "latency_ratio": 0.8**number} for number, stage in enumerate(stages)]
    figures = {"latency_ms": 1.0, "latency_ratio": 0.5, "ratio_low": 0.4, "ratio_high": 0.6, "baseline_ms": 2.0}
    models = [{"trial": 1, "noisy": True, **figures}, {"trial": 2, "reason": "cannot load it"}]
    timed = {"operator": "conv", "float_us": 2.0, "integer_us": 1.0}
    summary = json.loads((folder / "summary.json").read_text())
    summary |= {
        "explained": {"trial": int(best["trial"]), "steps": steps, "layers": layers, "limit": 12.0, "missing": ""},
        "tap_crop": {**step, "layers": 2, "weights": 100, "macs": 100, "size_ratio": 0.9},
        "also": [{"device": "openvino-cpu", "models": models, "reason": ""}, {"device": "ssh:board", "reason": "gone"}],
        "placement": [
            {"layer": layer["layer"], "group": layer["group"], "computes": layer["computes"], **timed}
            for layer in layers
        ],
        "float_layers": ["layer2.0.odd"],
        "preprocessing": ["convert the picture to grey", "resize it to 32 x 32 pixels (bicubic)"],
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    _write_tables(folder)
    return folder


def _layer(number: int, group: str) -> dict[str, Any]:
    """A row of the table of layers; every other layer has a fourth of its channels."""
    cut = number % 2
    kinds = ((8, "integers"), (4, "integers"), (None, "float"), (8, "float"))
    bits, computes = kinds[number]
    return {
        **{"layer": f"{group}.{number}.conv1", "group": group, "operator": "conv", "became": "Ghost" if cut else ""},
        **{"channels": [64, 16 if cut else 64], "params": [36864, 9216 if cut else 36864], "macs": [9e6, 2e6]},
        **{
            "weight_bits": bits,
            "activation_bits": bits and 8,
            "computes": computes,
            "us": [30.0, 10.0 + number],
            "loss": [0.002, 0.4, None, 1e-5][number],
        },
    }


def _write_tables(folder: Path) -> None:
    losses = [1e-5, 0.004, 0.03, 0.4, 2.5]
    sensitivity = [
        {"group": group, "role": role, "quantizer": "quantize", "bits": bits, "loss": loss, "agreement": 90.0}
        for role in ("weight", "activation")
        for bits, shift in ((8, 0), (4, 1), (2, 2))
        for group, loss in zip(GROUPS, losses[shift:] + losses[:shift], strict=True)
    ]
    results.write_sensitivity(folder, sensitivity)
    shares = [round(1 - number / 16, 4) for number in range(16)]
    structure = [
        {"axis": "structure", "name": f"{group}.0.conv1", "group": group, "choice": share, "divergence": 3 * loss}
        | {"scale": 1.0, "measured": share in (0.25, 0.5)}
        for group, loss in zip(GROUPS, losses, strict=True)
        for share in shares
    ]
    results.write_tables(folder, structure)
