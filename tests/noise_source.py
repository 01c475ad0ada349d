"""Two small data sources, a trained teacher, and an opener for tests of jobs without data."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

import autocompress.builtin
import autocompress_ghost
import autocompress_quantize
from autocompress import data, models
from autocompress.contract import (
    Context,
    DataSource,
    Manager,
    Method,
    Params,
    Plan,
    Space,
    Stage,
    TransferSet,
    Transform,
    hookimpl,
    manager,
)
from autocompress.data import TensorSplit
from autocompress.job import DataConfig, Job, load_job
from autocompress.opened.job import OpenedJob
from autocompress.searching.searchable import SearchableJob
from autocompress.synthesis import data_info
from autocompress.training import TrainSettings, train

IMAGES = 48


class Blobs(DataSource):
    """Makes smooth noise, without optimisation."""

    name, version, reference = "blobs", "1", "none"
    cells = 8

    def search_space(self, space: Space, model: nn.Module) -> Params:
        return {
            "kind": space.categorical("kind", ["soft", "hard"], default="soft", structural=False),
            "images": space.integer("images", 8, 512, default=IMAGES, structural=False, searched=False),
        }

    def adapts(self, params: Params) -> bool:
        return params["kind"] == "hard"

    def apply(
        self, teacher: nn.Module, params: Params, context: Context, student: nn.Module | None = None
    ) -> TransferSet:
        note(f"{self.name} {params['kind']} {'student' if student is not None else 'alone'}")
        context.progress(0.5, "half-way")
        wanted = params["images"] if context.images is None else min(params["images"], context.images)
        generator = torch.Generator().manual_seed(context.seed)
        coarse = torch.randn(wanted, context.input_size[0], self.cells, self.cells, generator=generator)
        images = 2 * nn.functional.interpolate(coarse, context.input_size[1:], mode="bilinear")
        split = TensorSplit(images, torch.zeros(wanted, dtype=torch.int64), data_info(teacher))
        return TransferSet(split, split, split.digest, labelled=False)


class Specks(Blobs):
    """Makes finer noise."""

    name, cells = "specks", 16


class Peeks(Transform):
    """Tries to read test images through everything that a method gets."""

    name, version, reference, stage = "peeks", "1", "none", Stage.PRUNE
    opened: Any = None
    look: Callable[[Any], Any] = staticmethod(lambda opened: next(iter(opened.splits.test.loader(8))))

    def search_space(self, space: Space, model: nn.Module) -> Params:
        return {"on": 1} if space.categorical("on", ["none", "yes"], default="none") == "yes" else {}

    def apply(self, model: nn.Module, params: Params, context: Context) -> tuple[nn.Module, Plan]:
        if not context.dry_run:
            type(self).look(type(self).opened)
        return model, {}

    def rebuild(self, model: nn.Module, plan: Plan) -> nn.Module:
        return model


class NoisePlugin:
    """Registers the sources."""

    @hookimpl
    def autocompress_methods(self) -> list[Method]:
        return [Blobs(), Specks(), Peeks()]


_PLUGIN = NoisePlugin()


def plugins() -> Manager:
    """The sources of this file, and a few of the installed methods.

    The installed sources would take minutes.
    """
    return Manager([autocompress.builtin, autocompress_ghost, autocompress_quantize, _PLUGIN], entry_points=False)


def offer() -> None:
    """Adds the sources to the manager of the process, which checks the names in jobs.

    Remove them with ``withdraw``, because other tests list the installed methods.
    """
    manager().register(_PLUGIN)


def withdraw() -> None:
    """The reverse of ``offer``."""
    manager().unregister(_PLUGIN)


def note(text: str) -> None:
    """Appends a call of a source to the file that NOISE_CALLS names, from any process."""
    if (path := os.environ.get("NOISE_CALLS")) is not None:
        with Path(path).open("a") as file:
            file.write(text + "\n")


def notes() -> list[str]:
    """The lines that :func:`note` has written so far."""
    path = Path(os.environ["NOISE_CALLS"])
    return path.read_text().splitlines() if path.exists() else []


def make_teacher(file: Path) -> Path:
    """A test_resnet that was trained a little on digits, as a checkpoint of a user."""
    job = load_job(model="test_resnet", data="digits", name="teacher")
    splits = data.load(DataConfig(train="digits"), **models.preprocessing(job))
    model = models.create(job, splits.info)
    train(model, splits.train, TrainSettings(epochs=3, batch_size=64), seed=0)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, file)
    return file


def free_job(teacher: Path, results: Path, test: str | None = "digits", **settings: Any) -> Job:
    """A job without training data."""
    given: dict[str, Any] = {
        "model": "test_resnet",
        "checkpoint": teacher,
        "model_args": {"in_chans": 1},
        "data": {"train": "none", "test": test},
        "device": {"name": "onnxruntime-cpu", "input_size": 32},
        "granularity": "model",
        "budget": {"trials": 3, "epochs": 2},
        "workers": 1,
        "results": results,
        "name": "free",
    }
    return load_job(settings=given | settings)


def open_free(job: Job, progress: Callable[[float, str], None] | None = None) -> SearchableJob:
    """The opener of searches with these sources, in every process."""
    opened = OpenedJob.open(job, progress, plugins())
    Peeks.opened = opened
    return opened
