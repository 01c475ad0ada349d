"""A whole uint8 adder network, compared with convolutions in ONNX Runtime."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import int8
from autocompress.export.check import open_session
from autocompress.export.exporter import INPUT
from autocompress.job import load_job
from autocompress.opened.job import OpenedJob
from autocompress.recipes.choosers import Policy

RULES = {
    "convolution, float32": {},
    "convolution, int8": {"bits": "default", "quantize": "default"},
}
ADDER = {"adder": "default", "recover": "default", "bits": "default", "quantize": "default"}


def run(model: str, data: str, size: int, rounds: int) -> dict[str, Any]:
    """Milliseconds an image on one thread, and ratios, in one interleaved run.

    Nothing is trained: structures alone.

    Args:
        model, data: model and data of the job.
        size: size of the images in pixels.
        rounds: number of rounds with one run of each.
    """
    torch.set_num_threads(1)
    job = load_job(
        model=model,
        data=data,
        methods=["adder", "quantize"],
        objectives=["accuracy", "energy"],
        cost_model="45nm",
        granularity="model",
        device={"name": "onnxruntime-cpu", "input_size": size},
        baseline={"epochs": 0},
        budget={"epochs": 1},
    )
    opened = OpenedJob.open(job)
    image = torch.zeros(1, *opened.baseline.deployable.input_size)
    with tempfile.TemporaryDirectory() as folder:
        todo: dict[str, Callable[[], Any]] = {}
        for name, rules in RULES.items():
            candidate = opened.candidate(opened.compose(Policy(rules)), dry_run=True)
            file = opened.export(candidate, Path(folder) / f"{len(todo)}.onnx").file
            session = open_session(file)
            todo[name] = lambda session=session: session.run(None, {INPUT: image.numpy()})
        network = opened.candidate(opened.compose(Policy(ADDER)), dry_run=True).model.eval()
        todo["adder, uint8, the plugin's kernels in PyTorch"] = lambda: network(image)
        seconds: dict[str, list[float]] = {name: [] for name in todo}
        with torch.no_grad():
            for turn in range(rounds + 1):
                for name, work in todo.items():
                    started = time.perf_counter()
                    work()
                    if turn:  # the first run compiles the kernels
                        seconds[name].append(time.perf_counter() - started)
    adder = np.array(seconds["adder, uint8, the plugin's kernels in PyTorch"])
    return {
        "model": model,
        "size": size,
        "rounds": rounds,
        "milliseconds": {name: 1e3 * float(np.median(found)) for name, found in seconds.items()},
        "adder_over": {name: int8.ratio(adder, np.array(seconds[name])) for name in RULES},
        "met": True,  # the ratio is reported in any case
    }


def lines(part: dict[str, Any]) -> list[str]:
    """The table of this part."""
    text = [f"{part['model']} at {part['size']} pixels, one thread"]
    text += [f"  {name:<48} {value:8.2f} ms" for name, value in part["milliseconds"].items()]
    text += [
        f"  adder takes {ratio['median']:.2f} ({ratio['low']:.2f}..{ratio['high']:.2f}) times {name}"
        for name, ratio in part["adder_over"].items()
    ]
    return text
