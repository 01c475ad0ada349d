"""Hypervolume over wall clock: a search of autocompress against a sweep of Torch-Pruning with ONNX Runtime's int8.

Both start from the same trained baseline. The clock starts with each process, so start-up and preparation count; only
the training of the baseline is outside. The rival's time is T and its hypervolume R. The front of a search at a time is
its non-dominated trials by validation, at most 12. All files are scored by the neutral scorer on the test split.

    python benchmarks/search_quality.py [--rivals FOLDER] [--model resnet18] [--data glyphs] [--epochs 12] [--seeds 0]
        [--space joint] [--without proposals] [--out results/search/resnet18-glyphs.json]

FOLDER holds tp_sweep.py and score.py. Without it, hypervolume is that of a search's own figures on the validation
split. Measure on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import psutil
from safetensors.torch import save_file

from autocompress import models
from autocompress.compression.baseline import export_baseline
from autocompress.data import Split
from autocompress.files import write_json
from autocompress.objectives.hypervolume import speed_hypervolume
from autocompress.results import read_trials
from shared.rows import command_line
from shared.trained import Trained, environment, job_of, trained

TIMES = {"T/2": 0.5, "T": 1.0, "2T": 2.0}
MOST_FILES = 12
POLL_SECONDS = 0.25
GRACE_SECONDS = 60.0
"""A search that has had its time closes; its front is not used, so it is not waited for longer."""


def arrays(split: Split, file: Path) -> None:
    """Images as the model wants them, and labels."""
    batches = list(split.loader(500))
    x = np.concatenate([images.numpy() for images, _ in batches]).astype(np.float32)
    np.savez(file, x=x, y=np.concatenate([labels.numpy() for _, labels in batches]).astype(np.int64))


def prepared(baseline: Trained, model: str, data: str, folder: Path) -> None:
    """What both start from: arrays, weights, the float file, and a job."""
    for role in ("train", "val", "test"):
        arrays(getattr(baseline.splits, role), folder / f"{role}.npz")
    weights = {name: tensor.contiguous() for name, tensor in baseline.model.state_dict().items()}
    save_file(weights, folder / "base.safetensors")
    shutil.copy(export_baseline(baseline.model, folder / "cache").deployable.file, folder / "base.onnx")
    info = models.data_info(baseline.model)
    job = {
        "model": model,
        "data": data,
        "checkpoint": str(folder / "base.safetensors"),
        "model_args": {"mean": list(info.mean), "std": list(info.std)},
    }
    (folder / "job.yaml").write_text(json.dumps(job), encoding="utf-8")


def rival(folder: Path, rivals: Path, model: str) -> float:
    """Runs the sweep; returns its seconds."""
    out = folder / "rival"
    command = [sys.executable, str(rivals / "tp_sweep.py"), "--model", model, "--epochs", "1"]
    command += ["--checkpoint", str(folder / "base.safetensors"), "--train", str(folder / "train.npz")]
    command += ["--test", str(folder / "test.npz"), "--out", str(out)]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def searched(folder: Path, seconds: float, space: str, seed: int) -> dict[str, float]:
    """Runs a search for ``seconds`` and keeps each trial's file; returns when each trial was there."""
    name, kept = f"search-{seed}", folder / f"kept-{seed}"
    kept.mkdir()
    job = json.loads((folder / "job.yaml").read_text(encoding="utf-8"))
    job |= {"space": space, "seed": seed, "name": name, "results": str(folder), "budget": {"trials": 1000}}
    (folder / "search.yaml").write_text(json.dumps(job), encoding="utf-8")
    command = [sys.executable, "-m", "autocompress.cli", "search", str(folder / "search.yaml")]
    environment_ = {**os.environ, "AUTOCOMPRESS_CACHE": str(folder / f"cache-{seed}")}
    found: dict[str, float] = {}
    started = time.perf_counter()
    with (folder / f"search-{seed}.log").open("w") as log:
        process = subprocess.Popen(command, env=environment_, stdout=log, stderr=log)
        while process.poll() is None and (now := time.perf_counter() - started) < seconds:
            for file in (folder / name / "artifacts").glob("*/model.onnx"):
                trial = file.parent.name
                if trial not in found and not trial.startswith("."):
                    with suppress(FileNotFoundError):  # dominated, and dropped already
                        shutil.copy(file, kept / f"{trial}.onnx")
                        found[trial] = now
            time.sleep(POLL_SECONDS)
        _end(process)
    return found


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a search without closing."""
    process.terminate()
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()


def front_at(folder: Path, seed: int, there: dict[str, float], seconds: float) -> list[str]:
    """Trials that no other one of that time dominates by validation, at most 12, spread over latency."""
    trials = read_trials(folder / f"search-{seed}")
    own = trials[trials["trial"].astype(str).isin([trial for trial, at in there.items() if at <= seconds])]
    own = own.sort_values(["latency_ratio", "accuracy_drop"])
    front, best = [], float("inf")
    for row in own.itertuples():
        if row.accuracy_drop < best:
            front.append(str(row.trial))
            best = row.accuracy_drop
    places = np.linspace(0, len(front) - 1, min(MOST_FILES, len(front))).round().astype(int)
    return [front[at] for at in dict.fromkeys(places.tolist())]


def scored(folder: Path, rivals: Path, files: Sequence[Path]) -> tuple[float, list[dict[str, Any]]]:
    """Hypervolume and rows of the neutral scorer."""
    if not files:
        return 0.0, []
    out = folder / "scores.json"
    command = [sys.executable, str(rivals / "score.py"), str(folder / "base.onnx"), *map(str, files)]
    command += ["--data", str(folder / "test.npz"), "--json", str(out)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rows = json.loads(out.read_text(encoding="utf-8"))
    return float(told.strip().splitlines()[-1].split()[-1]), [{**row, "file": Path(row["file"]).name} for row in rows]


def by_own_figures(run: Path, front: Sequence[str]) -> tuple[float, list[dict[str, Any]]]:
    """Hypervolume and rows of a front as the search itself measured it, on the validation split."""
    trials = read_trials(run)
    own = trials[trials["trial"].astype(str).isin(front)]
    points = list(zip(own["accuracy_drop"], own["latency_ratio"], strict=True))
    return float(speed_hypervolume([drop for drop, _ in points], [ratio for _, ratio in points])), own[
        ["trial", "accuracy_drop", "latency_ratio"]
    ].to_dict("records")


def main(arguments: list[str] | None = None) -> None:
    """Runs the rival once and a search for each seed, in one go, and writes a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rivals", type=Path, help="folder of tp_sweep.py and score.py; without, our own figures")
    parser.add_argument("--seconds", type=float, default=90.0, help="T, where no rival is run")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--data", default="glyphs")
    parser.add_argument("--epochs", type=int, default=12, help="of the baseline's training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--space", default="joint")
    parser.add_argument("--times", type=float, default=2.0, help="how long a search runs, in T")
    parser.add_argument("--out", type=Path, default=Path("results/search/resnet18-glyphs.json"))
    asked = parser.parse_args(arguments)
    baseline = trained(job_of(asked.model, asked.data, asked.epochs))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prepared(baseline, asked.model, asked.data, folder)
        load = psutil.getloadavg()[0]
        told: dict[str, Any] = {"command": command_line(), "load_before": load, "environment": environment()}
        told |= {"model": asked.model, "data": asked.data, "space": asked.space, "searches": {}}
        seconds, volume = asked.seconds, float("nan")
        if asked.rivals is not None:
            seconds = rival(folder, asked.rivals, asked.model)
            volume, rows = scored(folder, asked.rivals, sorted((folder / "rival").glob("*.onnx")))
            told["rival"] = {"seconds": round(seconds, 1), "hypervolume": volume, "rows": rows}
            print(f"rival: hypervolume {volume:.3f} in {seconds:.0f} s", flush=True)
        for seed in asked.seeds:
            there = searched(folder, asked.times * seconds, asked.space, seed)
            search: dict[str, Any] = {"first_trial": min(there.values(), default=None), "at": {}}
            for name, share in TIMES.items():
                front = front_at(folder, seed, there, share * seconds) if there else []
                files = [folder / f"kept-{seed}" / f"{trial}.onnx" for trial in front]
                if asked.rivals is None:
                    own, rows = by_own_figures(folder / f"search-{seed}", front)
                else:
                    own, rows = scored(folder, asked.rivals, files)
                trials = sum(at <= share * seconds for at in there.values())
                search["at"][name] = {
                    "hypervolume": own,
                    "over_R": round(own / volume, 3),
                    "trials": trials,
                    "rows": rows,
                }
                print(f"seed {seed}, {name}: {own:.3f} = {own / volume:.2f} R, {trials} trials", flush=True)
            told["searches"][str(seed)] = search
            write_json(asked.out, told)


if __name__ == "__main__":
    main()
