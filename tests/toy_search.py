"""A toy job for tests of the search: an analytic model, a hundred images, a device that computes.

It implements ``searching.searchable.SearchableJob``, and its device is that of a plugin. In its
space, ``toy.fault`` (``space: {toy: {fault: [none, raise]}}``) makes trials fail as real ones do,
and ``toy.seconds`` is the duration of the training of a trial. Each training writes a line to
``toy/runs.txt``.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autocompress.contract import (
    Deployable,
    Device,
    Measurement,
    Method,
    OperatorCount,
    Space,
    Value,
    hookimpl,
    manager,
)
from autocompress.contract.space import Chooser
from autocompress.data import DataInfo, Scored, Splits, TensorSplit
from autocompress.errors import InvalidRecipe, TrialFailed
from autocompress.export import Agreement, TapCrop
from autocompress.files import digest, write_json
from autocompress.job import Job, limits_of, load_job
from autocompress.sensitivity.table import Sensitivity

IMAGES = 100
BASELINE_ACCURACY = 90


class ToyDevice(Device):
    """Reads the cost of a file from the file. The interval is a tenth in each direction."""

    name = "toy"
    measures = frozenset({"latency", "energy"})
    deterministic = True

    def compare(self, candidate: Deployable, baseline: Deployable, config: object) -> Measurement:
        del config
        own, base = _read(candidate), _read(baseline)
        ratio = own["latency"] / base["latency"]
        return Measurement(
            own["latency"], ratio, 0.9 * ratio, 1.1 * ratio, base["latency"], own["energy"], False, {"machine": "toy"}
        )


class ToyPlugin:
    """Offers the toy device."""

    @hookimpl
    def autocompress_devices(self) -> list[Device]:
        return [ToyDevice()]


@dataclass(frozen=True)
class ToyRecipe:
    """Width, bits and a learning rate."""

    values: Mapping[str, Value]
    trains: bool = True
    rung: int = 0
    family: str = "toy"

    @property
    def key(self) -> str:
        return digest(dict(self.values))

    @property
    def structural_key(self) -> str:
        return digest({name: value for name, value in self.values.items() if name in ("toy.width", "toy.bits")})


@dataclass(frozen=True)
class ToyCandidate:
    """The candidate of a recipe: costs by width and bits, accuracy by all parameters."""

    recipe: ToyRecipe
    correct: int
    params: int
    macs: int
    operators: tuple[OperatorCount, ...] = ()
    cache_hits: int = 0
    cache_misses: int = 1
    seconds: Mapping[str, float] = field(default_factory=dict)
    float_layers: tuple[str, ...] = ()
    slow: str = ""
    divergence: float | None = None
    crop: TapCrop = field(default_factory=TapCrop)

    @property
    def latency(self) -> float:
        width, bits = float(self.recipe.values["toy.width"]), int(self.recipe.values["toy.bits"])
        return 10.0 * width * (0.2 + 0.8 * bits / 32)


@dataclass(frozen=True)
class ToyBaseline:
    accuracy: float
    correct: np.ndarray
    size_bytes: int
    params: int
    macs: int
    deployable: Deployable
    key: str = "toy"


@dataclass
class OpenedToy:
    """A toy job, opened."""

    job: Job
    folder: Path
    methods: tuple[Method, ...] = ()
    refused: dict[str, list[str]] = field(default_factory=dict)
    device: Device = field(default_factory=ToyDevice)
    training_seconds: float = 0.0
    prepared: tuple[str, ...] = ()
    splits: Splits = field(default_factory=lambda: toy_splits())

    def __post_init__(self) -> None:
        values: dict[str, Value] = {"toy.width": 1.0, "toy.bits": 32, "toy.lr": 0.1, "toy.fault": "none"}
        whole = self.candidate(ToyRecipe(values), dry_run=True)
        file = self.export(whole, self.folder / "baseline.json")
        accuracy, correct = self.accuracy(file, "val")
        self.baseline = ToyBaseline(accuracy, correct, file.file.stat().st_size, whole.params, whole.macs, file)

    def compose(self, chooser: Chooser) -> ToyRecipe:
        space = Space(chooser, self.job.granularity, limits_of(self.job).values).scope("toy")
        width = space.categorical("width", [1.0, 0.5, 0.25, 0.125], default=0.5, cheapest=0.125, neutral=1.0)
        space.categorical("bits", [32, 8, 4, 2], default=8, cheapest=2, neutral=32)
        space.float("lr", 0.01, 1.0, default=0.1, log=True, structural=False)
        asked = limits_of(self.job).values
        space.categorical("fault", FAULTS if "toy.fault" in asked else ["none"], default="none")
        if "toy.seconds" in asked:
            space.float("seconds", 0.0, 10.0, default=0.0, structural=False)
        if width == 0.125 and space.chosen["toy.bits"] == 2:
            raise InvalidRecipe("an eighth of the width cannot go with 2 bits")
        if space.chosen["toy.fault"] == "space":
            raise KeyError("a fault in a search space")
        return ToyRecipe(dict(space.chosen))

    def at_rung(self, recipe: ToyRecipe, rung: int) -> ToyRecipe | None:
        return None

    def cheapest(self) -> list[tuple[str, dict[str, Value]]]:
        whole: dict[str, Value] = {"toy.width": 1.0, "toy.bits": 32, "toy.lr": 0.1, "toy.fault": "none"}
        return [
            ("narrow", {**whole, "toy.width": 0.125}),
            ("all together", {**whole, "toy.width": 0.125, "toy.bits": 4}),
        ]

    def partly_float(self, progress: Any = None, pause: Any = None) -> list[tuple[str, dict[str, Value]]]:
        return []

    def sensitivity(self, progress: Any = None, pause: Any = None) -> list[Sensitivity]:
        del progress
        return [Sensitivity("model", "weight", "toy", bits, 1.0 / bits, 100.0 - 10 / bits) for bits in (8, 4, 2)]

    def begin_proposals(self) -> bool:
        """A toy job has no tables, so nothing begins."""
        return False

    def end_proposals(self) -> None:
        """There is nothing to end."""

    def proposals(self, progress: Any = None, pause: Any = None) -> None:
        return None

    def float_layers(self) -> list[str]:
        return ["norm"]

    def offered(self) -> list[str]:
        return []

    def neutral(self) -> dict[str, Value]:
        return {}

    def placement(self) -> list[dict[str, Any]]:
        return []

    def starting_points(self, sensitivity: Sequence[Sensitivity] = ()) -> list[tuple[str, dict[str, Value]]]:
        del sensitivity
        whole: dict[str, Value] = {"toy.width": 1.0, "toy.bits": 32, "toy.lr": 0.1, "toy.fault": "none"}
        return [("uncompressed", whole), ("8-bit alone", {**whole, "toy.bits": 8})]

    def candidate(
        self,
        recipe: ToyRecipe,
        *,
        dry_run: bool = False,
        progress: Callable[[float, str], None] | None = None,
        pause: Callable[[], None] | None = None,
    ) -> ToyCandidate:
        del progress
        if not dry_run:
            self._note_run(recipe)
            _break(str(recipe.values["toy.fault"]))
            time.sleep(float(recipe.values.get("toy.seconds", 0.0)))
            if pause is not None:
                pause()
        width, bits = float(recipe.values["toy.width"]), int(recipe.values["toy.bits"])
        lost = 6 * (1 - width) + 12 / bits + abs(np.log10(float(recipe.values["toy.lr"])) + 1) * 8
        return ToyCandidate(recipe, int(BASELINE_ACCURACY - lost + 12 / 32), int(1000 * width), int(5000 * width**2))

    def stages(self, values: Mapping[str, Value], rung: int) -> list[tuple[str, Any]]:
        del values, rung
        return []

    def layers(self, artifact: Path) -> list[dict[str, Any]]:
        del artifact
        return []

    def layer_losses(self, artifact: Path, seconds: float) -> dict[str, float]:
        del artifact, seconds
        return {}

    def export(self, candidate: ToyCandidate, file: Path) -> Deployable:
        bits = int(candidate.recipe.values["toy.bits"])
        costs = {"latency": candidate.latency, "energy": float(candidate.macs * bits), "correct": candidate.correct}
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(costs) + " " * (candidate.params * bits // 8))
        return Deployable(file, (1, 8, 8))

    def cropped_baseline(self, file: Path) -> tuple[Deployable, TapCrop] | None:
        return None

    def accuracy(
        self,
        deployable: Deployable,
        split: Scored,
        pause: Callable[[], None] | None = None,
    ) -> tuple[float, np.ndarray]:
        del pause
        correct = np.arange(IMAGES) < _read(deployable)["correct"] - (split == "test")
        if split == "whole_val":  # twice as many wrong images, or half as many
            correct = np.concatenate([correct, np.arange(IMAGES) < (IMAGES + _read(deployable)["correct"]) // 2])
        return 100.0 * float(correct.mean()), correct

    def model_accuracy(
        self, candidate: ToyCandidate, pause: Callable[[], None] | None = None
    ) -> tuple[float, np.ndarray]:
        raise NotImplementedError("no toy file is slow")

    def agreement(
        self, candidate: ToyCandidate, deployable: Deployable, pause: Callable[[], None] | None = None
    ) -> Agreement:
        """The file contains the number of right images, and so does the candidate."""
        del pause
        return Agreement(float(_read(deployable)["correct"] == candidate.correct), IMAGES, 0.0, 0.0)

    def save_artifact(
        self, candidate: ToyCandidate, deployable: Deployable, folder: Path, metrics: dict[str, Any]
    ) -> None:
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(deployable.file.read_bytes())
        write_json(folder / "recipe.json", dict(candidate.recipe.values))
        write_json(folder / "metrics.json", metrics)

    def _note_run(self, recipe: ToyRecipe) -> None:
        """Writes a line for each training, in any process."""
        with (self.folder / "runs.txt").open("a") as file:
            file.write(json.dumps({"key": recipe.key, "values": dict(recipe.values), "pid": os.getpid()}) + "\n")


def toy_splits() -> Splits:
    """Empty images. Only their number, size and digest are used."""
    info = DataInfo(10, 1, (8, 8), (0.5,), (0.5,), tuple("abcdefghij"))
    split = TensorSplit(torch.zeros(IMAGES, 1, 8, 8), torch.arange(IMAGES) % 10, info)
    return Splits(split, split, split, info)


FAULTS = ["none", "space", "raise", "nan", "memory", "die", "hang"]


def _break(fault: str) -> None:
    if fault == "raise":
        raise ValueError("a plugin's fault")
    if fault == "nan":
        raise TrialFailed("the loss is not a number")
    if fault == "memory":
        raise MemoryError("asked for 1 TB")
    if fault == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "hang":
        while True:
            time.sleep(0.1)


def _read(deployable: Deployable) -> dict[str, float]:
    return json.loads(deployable.file.read_text())


_PLUGIN = ToyPlugin()


def offer_toy_device() -> None:
    """Registers the toy device in this process, once."""
    if "toy" not in [device.name for device in manager().devices()]:
        manager().register(_PLUGIN)


def open_toy(job: Job, progress: Callable[[float, str], None] | None = None) -> OpenedToy:
    """The opener of toy searches, for ``run.search(job, opener=open_toy)``."""
    if progress is not None:
        progress(1.0, "opening the toy job")
    offer_toy_device()
    return OpenedToy(job, job.folder / "toy")


def toy_job(folder: Path, **settings: Any) -> Job:
    """A toy job with results in ``folder``."""
    given = {"model": "resnet10t", "data": "digits", "device": "toy", "results": folder, "name": "toy", "workers": 1}
    return load_job(settings=given | settings)


def main(folder: str, trials: int, **settings: Any) -> None:
    """Runs a toy search in a process of its own, for tests that interrupt or kill it."""
    from autocompress.searching import run

    offer_toy_device()
    run.search(toy_job(Path(folder), budget={"trials": trials}, **settings), opener=open_toy)
