"""Hypervolume over time of a search, compared with a sweep of Torch-Pruning and int8.

The sweep quantizes with ONNX Runtime. Both start from the same trained baseline and from stored
images. The clock starts with each process, so start-up and preparation count, but the training of
the baseline does not. The time of the sweep is T, and its hypervolume is R. The front of a search
at a time has at most 12 of its non-dominated trials, by validation. One scorer scores all files on
the test split.

    python benchmarks/search_quality.py [--rivals FOLDER] [--model resnet18] [--data glyphs]
        [--epochs 12] [--seeds 0] [--space joint] [--times 3] [--without rungs proposals]
        [--only bits pruning] [--sampler random nsga2] [--keep SCRATCH]
        [--out results/search/resnet18-glyphs.json]

FOLDER contains tp_sweep.py and score.py. Without it, hypervolume is computed from the search's own
figures on the validation split. Further searches with each seed have a switch off (``--without``),
methods of one kind (``--only``), or a sampler without tables and proposals (``--sampler``). A
picture of hypervolume over time is written beside the JSON: medians and ranges of the seeds. The
ceiling is the hypervolume of a model as fast as the fastest measured file, without loss of
accuracy. Measure on a machine without other work. With ``--keep``, the same command continues after
an interruption: searches that ended are not repeated.

Another network and other data, here 12,000 pictures of Fashion-MNIST:

    python benchmarks/search_quality.py --rivals FOLDER --times 3 --sampler random
        --model "resnet18:input_size=[1,32,32]"
        --data '{"train": "idx:/usr/share/datasets/fashion-mnist", "train_images": 12000,
        "val_images": 2000}' --out results/search/resnet18-fashion.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import psutil
from safetensors.torch import save_file

from autocompress import models
from autocompress.data import Split
from autocompress.files import cache_folder, write_json
from autocompress.objectives.hypervolume import speed_hypervolume
from autocompress.opened.baseline import export_baseline
from autocompress.results import read_trials
from shared.trained import Trained, environment, job_of, trained

TIMES = {"T/2": 0.5, "T": 1.0, "2T": 2.0, "3T": 3.0, "6T": 6.0}
CURVE = tuple(step / 8 for step in range(2, 25))
"""Times at which hypervolume is drawn, as multiples of T."""
SWITCHES = ("tables", "proposals", "repair", "rungs", "crop")
ALONE: Mapping[str, Sequence[str]] = {
    "bits": ("quantize", "slb"),
    "pruning": ("obs", "scop", "magnitude", "bn_scale"),
    "ghost": ("ghost",),
    "adder": ("adder",),
}
"""Methods of each search of one kind."""
SAMPLERS = ("random", "nsga2", "gp")
RIVAL = "Torch-Pruning and int8"
MOST_FILES = 12
POLL_SECONDS = 0.25
GRACE_SECONDS = 60.0
"""Seconds to wait for the closing of a search, whose result is not used."""


def arrays(split: Split, file: Path) -> None:
    """Images prepared for the model, and labels."""
    batches = list(split.loader(500))
    x = np.concatenate([images.numpy() for images, _ in batches]).astype(np.float32)
    np.savez(file, x=x, y=np.concatenate([labels.numpy() for _, labels in batches]).astype(np.int64))


def prepared(baseline: Trained, folder: Path) -> None:
    """The common start of both.

    Images as they are kept once made, weights, the float file, and a job.
    """
    for role in ("train", "val", "test"):
        arrays(getattr(baseline.splits, role), folder / f"{role}.npz")
    weights = {name: tensor.contiguous() for name, tensor in baseline.model.state_dict().items()}
    save_file(weights, folder / "base.safetensors")
    shutil.copy(export_baseline(baseline.model, folder / "cache").deployable.file, folder / "base.onnx")
    if (kept := cache_folder("data")).is_dir():
        shutil.copytree(kept, folder / "data")
    info, job = models.data_info(baseline.model), baseline.job
    own = {
        "model": job.model,
        "data": job.data.model_dump(mode="json", exclude_defaults=True),
        "checkpoint": str(folder / "base.safetensors"),
        "model_args": {**job.model_args, "mean": list(info.mean), "std": list(info.std)},
    }
    (folder / "job.yaml").write_text(json.dumps(own), encoding="utf-8")


def begun(folder: Path, asked: Mapping[str, Any]) -> None:
    """Makes the folder; refuses one of other searches."""
    kept = folder / "asked.json"
    if kept.exists() and json.loads(kept.read_text(encoding="utf-8")) != asked:
        raise SystemExit(f"{folder} has searches with other arguments; name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(kept, dict(asked))


def rival(folder: Path, rivals: Path, model: str) -> float:
    """Runs the sweep; returns its seconds."""
    out, kept = folder / "rival", folder / "rival.json"
    if kept.exists():
        return float(json.loads(kept.read_text(encoding="utf-8")))
    command = [sys.executable, str(rivals / "tp_sweep.py"), "--model", model, "--epochs", "1"]
    command += ["--checkpoint", str(folder / "base.safetensors"), "--train", str(folder / "train.npz")]
    command += ["--test", str(folder / "test.npz"), "--out", str(out)]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    write_json(kept, seconds)
    return seconds


def searched(folder: Path, seconds: float, space: str, search: str) -> dict[str, float]:
    """Runs a search for ``seconds``, keeps each trial's file, and returns when it was there.

    ``search`` is a seed, or a seed with a change of the job (:func:`changes`): ``0-without-rungs``.
    """
    name, kept, times = f"search-{search}", folder / f"kept-{search}", folder / f"times-{search}.json"
    if times.exists():
        return dict(json.loads(times.read_text(encoding="utf-8")))
    cache = folder / f"cache-{search}"
    for cut_short in (folder / name, kept, cache):
        shutil.rmtree(cut_short, ignore_errors=True)
    kept.mkdir()
    seed, _, change = search.partition("-")
    job = json.loads((folder / "job.yaml").read_text(encoding="utf-8"))
    job |= {"space": space, "seed": int(seed), "name": name, "results": str(folder), "budget": {"trials": 1000}}
    job |= changes(change)
    (folder / "search.yaml").write_text(json.dumps(job), encoding="utf-8")
    command = [sys.executable, "-m", "autocompress.cli", "search", str(folder / "search.yaml")]
    (folder / "data").mkdir(exist_ok=True)
    shutil.copytree(folder / "data", cache / "data")
    environment_ = {**os.environ, "AUTOCOMPRESS_CACHE": str(cache)}
    found: dict[str, float] = {}
    started = time.perf_counter()
    with (folder / f"search-{search}.log").open("w") as log:
        process = subprocess.Popen(command, env=environment_, stdout=log, stderr=log)
        while process.poll() is None and (now := time.perf_counter() - started) < seconds:
            for file in (folder / name / "artifacts").glob("*/model.onnx"):
                trial = file.parent.name
                if trial not in found and not trial.startswith("."):
                    with contextlib.suppress(FileNotFoundError):  # it is dominated, and its file was removed already
                        shutil.copy(file, kept / f"{trial}.onnx")
                        found[trial] = now
            time.sleep(POLL_SECONDS)
        _end(process)
    write_json(times, found)
    return found


def changes(change: str) -> dict[str, Any]:
    """The part of a job that a further search changes.

    Args:
        change: ``without-SWITCH``, ``only-KIND`` or ``sampler-NAME``; empty changes nothing.
    """
    kind, _, name = change.partition("-")
    if kind == "without":
        return {"search": {name: False}}
    if kind == "only":
        return {"methods": list(ALONE[name])}
    if kind == "sampler":
        return {"sampler": name, "search": {"tables": False, "proposals": False}}
    return {}


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a search without closing it."""
    process.terminate()
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()


def front_at(folder: Path, search: str, there: dict[str, float], seconds: float) -> list[str]:
    """At most 12 non-dominated models by validation at that time, spread over latency.

    A trained model (``12-rung1``) has the figures of its row; the model below it has the accuracy
    that the row keeps of rung 0.
    """
    trials = {str(row.trial): row for row in read_trials(folder / f"search-{search}").itertuples()}
    own = []
    for name in (name for name, at in there.items() if at <= seconds):
        trial, _, rung = name.partition("-rung")
        row: Any = trials.get(trial)
        if row is not None and int(rung or 0) == int(row.rung):
            own.append((row.latency_ratio, row.accuracy_drop, name))
        elif row is not None and not rung:
            own.append((row.latency_ratio, row.accuracy_drop + row.accuracy - row.accuracy_rung0, name))
    front, best = [], float("inf")
    for _, drop, name in sorted(own):
        if drop < best:
            front.append(name)
            best = drop
    places = np.linspace(0, len(front) - 1, min(MOST_FILES, len(front))).round().astype(int)
    return [front[at] for at in dict.fromkeys(places.tolist())]


def scored(folder: Path, rivals: Path, files: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Rows of the neutral scorer by file.

    All in one interleaved run, since machines differ from minute to minute.
    """
    out = folder / "scores.json"
    command = [sys.executable, str(rivals / "score.py"), str(folder / "base.onnx"), *map(str, files)]
    command += ["--data", str(folder / "test.npz"), "--json", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    return {row["file"]: row for row in json.loads(out.read_text(encoding="utf-8"))[1:]}


def own_figures(folder: Path, search: str, trials: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The same rows from the search's own figures, on the validation split."""
    table = read_trials(folder / f"search-{search}")
    return {
        str(kept_file(folder, search, str(row.trial))): {
            "drop": float(row.accuracy_drop),
            "ratio": float(row.latency_ratio),
        }
        for row in table.itertuples()
        if str(row.trial) in trials
    }


def kept_file(folder: Path, search: str, trial: str) -> Path:
    """The path of the stored file of a trial."""
    return folder / f"kept-{search}" / f"{trial}.onnx"


def part(files: Sequence[Path], rows: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Hypervolume and rows of some files."""
    own = [rows[str(file)] for file in files if str(file) in rows]
    volume = float(speed_hypervolume([row["drop"] for row in own], [row["ratio"] for row in own])) if own else 0.0
    return {
        "hypervolume": round(volume, 4),
        "rows": [{**row, "file": file.name} for file, row in zip(files, own, strict=True)],
    }


def main(arguments: list[str] | None = None) -> None:
    """Runs the rival once and a search for each seed, one after another, and writes a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rivals", type=Path, help="folder of tp_sweep.py and score.py; by default, figures of the search are used"
    )
    parser.add_argument("--seconds", type=float, default=90.0, help="T if no rival is run")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--data", default="glyphs", help="a name, or the data of a job in JSON")
    parser.add_argument("--epochs", type=int, default=12, help="of the baseline's training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--without", choices=SWITCHES, nargs="*", default=[], help="also searches without these")
    parser.add_argument("--only", choices=ALONE, nargs="*", default=[], help="also searches with these methods alone")
    parser.add_argument("--sampler", choices=SAMPLERS, nargs="*", default=[], help="also searches by a sampler alone")
    parser.add_argument("--space", default="joint")
    parser.add_argument("--times", type=float, default=2.0, help="duration of a search as a multiple of T")
    parser.add_argument("--keep", type=Path, help="folder of the files of all searches; the same command continues")
    parser.add_argument("--out", type=Path, default=Path("results/search/resnet18-glyphs.json"))
    asked = parser.parse_args(arguments)
    data = json.loads(asked.data) if asked.data.startswith("{") else asked.data
    baseline = trained(job_of(asked.model, data, asked.epochs))
    with contextlib.ExitStack() as stack:
        folder = asked.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        begun(folder, {name: getattr(asked, name) for name in ("model", "data", "epochs", "space", "times")})
        if not (folder / "job.yaml").exists():  # written last
            prepared(baseline, folder)
        load = psutil.getloadavg()[0]
        told: dict[str, Any] = {"command": "python benchmarks/search_quality.py --rivals FOLDER"}
        told |= {"load_before": load, "environment": environment()}
        told |= {"model": asked.model, "data": asked.data, "space": asked.space}
        seconds = asked.seconds if asked.rivals is None else rival(folder, asked.rivals, baseline.job.model)
        further = {"without": asked.without, "only": asked.only, "sampler": asked.sampler}
        names = [str(seed) for seed in asked.seeds]
        changed = [f"{kind}-{name}" for kind, wanted in further.items() for name in wanted]
        names += [f"{seed}-{change}" for change in changed for seed in asked.seeds]
        searches = {name: searched(folder, asked.times * seconds, asked.space, name) for name in names}
        times = {name: share for name, share in TIMES.items() if share <= asked.times}
        shares = sorted({*times.values(), asked.times, *(share for share in CURVE if share <= asked.times)})
        fronts = {
            (name, share): [kept_file(folder, name, trial) for trial in front_at(folder, name, there, share * seconds)]
            for name, there in searches.items()
            for share in shares
        }
        sweep = sorted((folder / "rival").glob("*.onnx"))
        if asked.rivals is None:
            rows = {k: v for name, there in searches.items() for k, v in own_figures(folder, name, list(there)).items()}
        else:
            files = dict.fromkeys([*sweep, *(file for front in fronts.values() for file in front)])
            rows = scored(folder, asked.rivals, list(files))
        told["T"] = round(seconds, 1)
        told["rival"] = {"name": RIVAL} | part(sweep, rows) if asked.rivals is not None else None
        fastest = min((row["ratio"] for row in rows.values()), default=1.0)
        told["ceiling"] = round(float(speed_hypervolume([0.0], [fastest])), 4)
        told["searches"] = {
            search: {
                "first_trial": min(there.values(), default=None),
                "trials": {name: sum(at <= share * seconds for at in there.values()) for name, share in times.items()},
                "at": {name: part(fronts[search, share], rows) for name, share in times.items()},
                "curve": [[share, part(fronts[search, share], rows)["hypervolume"]] for share in shares],
            }
            for search, there in searches.items()
        }
        write_json(asked.out, told)
        drawn(told, asked.out.with_suffix(".png"))
        show(told)


def drawn(told: dict[str, Any], file: Path) -> None:
    """A picture of hypervolume over time: the median of the seeds, and their range as a band."""
    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    curves: dict[str, list[Any]] = {}
    for search, found in told["searches"].items():
        curves.setdefault(search.partition("-")[2], []).append(np.array(found["curve"]))
    for change, found in curves.items():
        seconds, volumes = told["T"] * found[0][:, 0], np.stack([curve[:, 1] for curve in found])
        label = change.replace("-", " ") or "autocompress"
        label += f", median of {len(found)} seeds" if len(found) > 1 else ""
        (line,) = axes.step(seconds, np.median(volumes, 0), where="post", label=label, ls=":" if change else "-")
        axes.fill_between(seconds, volumes.min(0), volumes.max(0), step="post", color=line.get_color(), alpha=0.2, lw=0)
    if told["rival"] is not None:
        axes.plot(told["T"], told["rival"]["hypervolume"], "kD", label=RIVAL)
    axes.set(xlabel="seconds from process start", ylabel="hypervolume, neutral scorer", xlim=(0, None), ylim=(0, None))
    axes.set_title(f"{told['model']} on {told['data']}")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def show(told: dict[str, Any]) -> None:
    """The table of a result."""
    rival_volume = None if told["rival"] is None else told["rival"]["hypervolume"]
    print(f"T {told['T']:.0f} s, rival {rival_volume}, ceiling {told['ceiling']}")
    for search, found in told["searches"].items():
        for name, at in found["at"].items():
            over = "" if not rival_volume else f" = {at['hypervolume'] / rival_volume:.2f} R"
            print(f"seed {search}, {name}: {at['hypervolume']:.3f}{over}, {found['trials'][name]} trials", flush=True)


if __name__ == "__main__":
    main()
