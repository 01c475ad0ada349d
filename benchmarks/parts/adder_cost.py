"""Time and memory of a training step: an adder network compared with convolutions."""

from __future__ import annotations

import copy
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import nn

import int8
from autocompress import data
from autocompress.compute import Compute
from autocompress.contract import Context, Transform, manager
from autocompress.data import Split, Splits
from autocompress.job import load_job
from autocompress.opened.transfer import user_data
from autocompress.training import Training, TrainSettings, default_device
from parts.slb_cost import Clock
from shared.asked import params_of
from shared.cifar import cifar_resnet

TARGETS = {"time": 6.0, "memory": 2.0}
STEPS = 2
"""Steps of one training before the other one has its turn."""
KINDS = ("convolution", "adder")


def run(depth: int, data_name: str, rounds: int, batch: int) -> dict[str, Any]:
    """Steps of a CIFAR ResNet with adder layers against the same with convolutions.

    Args:
        depth: depth of the network: 20 for ResNet-20.
        data_name: name of a data set with ten classes.
        rounds: number of rounds with ``STEPS`` steps of each; the first does not count.
        batch: number of images in a step.
    """
    trainings = {kind: training_of(kind, depth, data_name, rounds, batch) for kind in KINDS}
    for turn in range(1, rounds + 1):
        for training, _ in trainings.values():
            training.run(until=turn)
    blocks = {
        kind: np.median(np.array(clock.steps).reshape(rounds, -1), axis=1)[1:] for kind, (_, clock) in trainings.items()
    }
    memory = {kind: _peak(kind, depth, data_name, batch) for kind in KINDS}
    part: dict[str, Any] = {
        "model": f"cifar-resnet{depth}",
        "data": data_name,
        "batch": batch,
        "rounds": rounds,
        "targets": TARGETS,
        "milliseconds": {kind: 1e3 * float(np.median(found)) for kind, found in blocks.items()},
        "time": int8.ratio(blocks["adder"], blocks["convolution"]),
        "peak_bytes": memory,
        "memory": memory["adder"] / memory["convolution"],
    }
    part["met"] = part["time"]["median"] <= TARGETS["time"] and part["memory"] <= TARGETS["memory"]
    return part


def training_of(kind: str, depth: int, data_name: str, rounds: int, batch: int) -> tuple[Training, Clock]:
    """A training with ``STEPS`` steps per epoch, and its clock."""
    splits = _splits(data_name)
    split = splits.train.subset(batch * STEPS)
    model: nn.Module = cifar_resnet(depth, splits.info)
    clock = Clock()
    callbacks: list[Any] = [clock]
    if kind == "adder":
        method = next(method for method in manager().methods() if method.name == "adder")
        assert isinstance(method, Transform)
        params = params_of(method, model, {})
        transfer = user_data(splits, 0)
        teacher = copy.deepcopy(model)
        context = Context(splits.info.input_size, transfer, teacher, compute=Compute.on(default_device()))
        model, _ = method.apply(model, params, context)
        callbacks += method.callbacks(model, params, context)
    settings = TrainSettings(epochs=rounds, batch_size=batch)
    return Training(model, _repeated(split, batch), settings, callbacks=callbacks, pause=clock.stop), clock


def _splits(data_name: str) -> Splits:
    return data.load(load_job(model="resnet18", data=data_name).data, manager().datasets())


def _repeated(split: Split, batch: int) -> Split:
    """As many images as the steps need. They are repeated if there are too few."""
    return split.take(torch.arange(batch * STEPS) % len(split))


def _peak(kind: str, depth: int, data_name: str, batch: int) -> int:
    """Bytes of memory that a process needs for a training of ``STEPS`` steps."""
    arguments = f"{kind!r}, {depth}, {data_name!r}, {torch.get_num_threads()}, {batch}"
    code = f"from parts.adder_cost import grown; print(grown({arguments}))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout.split()[-1])


def grown(kind: str, depth: int, data_name: str, threads: int, batch: int) -> int:
    """Peak memory of this process in a training, minus that before its first step, in bytes."""
    torch.set_num_threads(threads)
    training, _ = training_of(kind, depth, data_name, 1, batch)
    before = psutil.Process().memory_info().rss
    training.run()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before


def lines(part: dict[str, Any]) -> list[str]:
    """The table of this part."""
    time, targets = part["time"], part["targets"]
    return [
        f"{part['model']}, batch {part['batch']}: adder {part['milliseconds']['adder']:.0f} ms a step, convolution "
        f"{part['milliseconds']['convolution']:.0f} ms, {time['median']:.2f} "
        f"({time['low']:.2f}..{time['high']:.2f}) times (target {targets['time']:g}); "
        f"memory {part['memory']:.2f} times (target {targets['memory']:g})"
    ]
