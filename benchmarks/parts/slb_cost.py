"""Time and memory of a training step of SLB, compared with a float step, timed alternately."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

import int8
from autocompress import models
from autocompress.compression.qat import QuantizationSchedule
from autocompress.contract import Callback, Quantizer
from autocompress.data import Split
from autocompress.training import Training, TrainSettings
from shared.simulate import QAT, Setting, prepared
from shared.trained import Trained, job_of, trained

TARGETS = {"time": 2.5, "memory": 5.0}
BATCH = 128
STEPS = 4
"""Steps of one training before the next training has its turn."""


@dataclass
class Clock(Callback):
    """Times whole steps, from the first callback to the end of the optimizer's step.

    The loading of images is not included.
    """

    steps: list[float] = field(default_factory=list)
    _began: float = 0.0

    def before_step(self, model: nn.Module, step: int) -> None:
        """Starts the clock."""
        del model, step
        self._began = time.perf_counter()

    def stop(self) -> None:
        """Stops the clock. The trainer calls this after each step, as ``pause``."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.steps.append(time.perf_counter() - self._began)


def run(model: str, data: str, bits: int, rounds: int) -> dict[str, Any]:
    """Times the steps of three trainings, and counts the bytes of their tensors.

    They are a training in float, SLB with 8-bit activations as in a search, and SLB with float
    activations.

    Args:
        model, data: the network, with random weights, and the data set.
        bits: bits of the weights.
        rounds: number of rounds. In a round, each training does ``STEPS`` steps. The first round
            does not count.
    """
    baseline = trained(job_of(model, data, 0))
    split = baseline.splits.train.subset(BATCH * STEPS)
    trainings = {"float": _float(baseline, split, rounds)}
    for label, activations in (("slb, 8-bit activations", 8), ("slb, float activations", None)):
        trainings[label] = _slb(baseline, split, bits, activations, rounds)
    for turn in range(1, rounds + 1):
        for training, _ in trainings.values():
            training.run(until=turn)
    blocks = {
        label: np.median(np.array(clock.steps).reshape(rounds, -1), axis=1)[1:]
        for label, (_, clock) in trainings.items()
    }
    memory = {label: occupied(training) for label, (training, _) in trainings.items()}
    rows = []
    for label in list(trainings)[1:]:
        row: dict[str, Any] = {
            "training": label,
            "bits": bits,
            "time_over_float": int8.ratio(blocks[label], blocks["float"]),
            "memory_over_float": sum(memory[label].values()) / sum(memory["float"].values()),
            "bytes": memory[label],
            "milliseconds": 1e3 * float(np.median(blocks[label])),
        }
        row["met"] = (
            row["time_over_float"]["median"] <= TARGETS["time"] and row["memory_over_float"] <= TARGETS["memory"]
        )
        rows.append(row)
    return {
        "model": model,
        "input": list(models.input_size(baseline.model)),
        "batch": min(BATCH, len(split)),
        "rounds": rounds,
        "targets": TARGETS,
        "float": {"bytes": memory["float"], "milliseconds": 1e3 * float(np.median(blocks["float"]))},
        "rows": rows,
        "met": rows[0]["met"],
    }


def occupied(training: Training) -> dict[str, int]:
    """Bytes of parameters, logits, gradients and optimizer state after a step."""
    parameters = list(training.model.parameters())
    state = [value for of_one in training.optimizer.state.values() for value in of_one.values()]
    return {
        "parameters": sum(parameter.nbytes for parameter in parameters),
        "gradients": sum(parameter.grad.nbytes for parameter in parameters if parameter.grad is not None),
        "optimizer": sum(value.nbytes for value in state if isinstance(value, torch.Tensor)),
    }


def _float(baseline: Trained, split: Split, rounds: int) -> tuple[Training, Clock]:
    clock = Clock()
    settings = TrainSettings(epochs=rounds, batch_size=BATCH)
    model = models.create(baseline.job, baseline.splits.info)
    return Training(model, split, settings, callbacks=[clock], pause=clock.stop), clock


def _slb(baseline: Trained, split: Split, bits: int, activations: int | None, rounds: int) -> tuple[Training, Clock]:
    # Batch norms are calibrated between epochs. Epochs are very short here, so this is left out.
    # The last part of a training, which computes with the arg-max, is left out too, because its
    # steps are cheaper.
    params = {"norm": "calibrate_end", "hard_tail": False}
    setting = Setting("slb", bits, activations, params, {}, exempt=True)
    network, methods, all_params, context = prepared(baseline, setting, seed=0, images=len(split))
    clock = Clock()
    callbacks: list[Callback] = [clock, QuantizationSchedule({**QAT, "norm_freeze": 2.0, "range_freeze": 2.0})]
    for name, own in all_params.items():
        method = methods[name]
        assert isinstance(method, Quantizer)
        callbacks += method.callbacks(network, own, context)
    settings = TrainSettings(epochs=rounds + 1, batch_size=BATCH)
    return Training(network, split, settings, callbacks=callbacks, pause=clock.stop), clock


def lines(part: dict[str, Any]) -> list[str]:
    """The table of this part."""
    return [
        f"{row['training']:<26} step {row['milliseconds']:.0f} ms, {{median:.2f}} ({{low:.2f}}..{{high:.2f}})".format(
            **row["time_over_float"]
        )
        + f" of float (target {TARGETS['time']}), memory {row['memory_over_float']:.2f} (target {TARGETS['memory']})"
        + f"  {'yes' if row['met'] else 'no'}"
        for row in part["rows"]
    ]
