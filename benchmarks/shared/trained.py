"""A float model, trained by this project, with its data, and an opened job with given recipes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from autocompress import data, models
from autocompress.contract import Parameter, Value, manager
from autocompress.data import Splits
from autocompress.devices.machine import machine
from autocompress.job import Job, load_job
from autocompress.opened.job import OpenedJob
from autocompress.recipes.choosers import Replay
from autocompress.recipes.recipe import Recipe
from autocompress.training import train_baseline, versions

QUANTIZERS = ("quantize", "slb")
SLOW = {
    "mobilenetv2_050": {"epochs": 20, "lr": 4e-3, "batch_size": 64},
    "lenet5": {"epochs": 40},
    "vit_tiny_patch16_224": {"epochs": 3, "lr": 1e-3, "batch_size": 64},
}
"""Minimum of ``epochs`` for baselines that need more than others, and their other settings."""


@dataclass(frozen=True)
class Trained:
    """A float baseline in eval mode on the CPU, and its training data."""

    job: Job
    model: nn.Module
    splits: Splits


def job_of(
    model: str,
    data_of: str | Mapping[str, Any],
    epochs: int,
    *,
    seed: int = 0,
    qat_epochs: int = 1,
    model_args: Any = None,
) -> Job:
    """A job in which QUANTIZE alone acts, on the whole model as one group.

    Args:
        model: in timm, with arguments for it where it needs some, in JSON:
            ``mobilenetv2_050:output_stride=8``,
            ``resnet10t:channels=[32,64,128,256];stem_width=16``.
        data_of: the data of the job, by name or in full.
        epochs: epochs of the float baseline.
        seed: random seed of the job.
        qat_epochs: maximum epochs of the training in QUANTIZE.
        model_args: further arguments.
    """
    name, _, words = model.partition(":")
    pairs = (word.partition("=") for word in words.split(";") if word)
    return load_job(
        model=name,
        model_args={**(model_args or {}), **{key: json.loads(value) for key, _, value in pairs}},
        data=data_of,
        methods=list(QUANTIZERS),
        granularity="model",
        baseline=baseline_of(name, epochs),
        budget={"epochs": qat_epochs},
        seed=seed,
    )


def baseline_of(name: str, epochs: int) -> dict[str, float]:
    """Settings of the float training. A short run (one or two epochs) is not extended."""
    own: dict[str, float] = dict(SLOW.get(name, {})) if epochs > 2 else {}
    return {**own, "epochs": max(epochs, own.get("epochs", 0))}


def trained(job: Job) -> Trained:
    """The baseline of the job, trained once and stored in the cache folder."""
    splits = data.load(job.data, manager().datasets(), **models.preprocessing(job))
    return Trained(job, train_baseline(job, models.create(job, splits.info), splits), splits)


class Written:
    """A chooser: one width for all groups, the rest as given, else the default.

    Args:
        weight: quantizer and bits as in the space, for example "quantize:4" or "slb:1".
        activation_bits: bits of activations, 2 to 8.
        values: values of parameters by full name.
    """

    def __init__(self, weight: str, activation_bits: int, values: Mapping[str, Value] | None = None) -> None:
        self._weight, self._bits, self._values = weight, activation_bits, Replay(dict(values or {}))

    def choose(self, parameter: Parameter) -> Value:
        """The value of a parameter."""
        if parameter.name.startswith("bits.weight."):
            return self._weight
        if parameter.name.startswith("bits.activation."):
            return self._bits
        return self._values.choose(parameter)


def recipe_of(
    opened: OpenedJob, weight: str, activation_bits: int = 8, values: Mapping[str, Value] | None = None
) -> Recipe:
    """The recipe in words, in the space of the opened job."""
    return opened.compose(Written(weight, activation_bits, values))


def environment() -> dict[str, Any]:
    """The machine and versions on which figures depend."""
    return {**machine(), "versions": versions()}
