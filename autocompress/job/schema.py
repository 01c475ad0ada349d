"""Job: what the user asked for, as a type. Its sections are in modules of their own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    JsonValue,
    PlainSerializer,
    PrivateAttr,
    field_validator,
    model_validator,
)

from autocompress.errors import HintedError, clipped
from autocompress.files import cache_folder, digest
from autocompress.job.cluster import ClusterConfig, workers_moved
from autocompress.job.constraints import Constraints
from autocompress.job.images import AugmentConfig, DataConfig
from autocompress.job.section import Section as _Section
from autocompress.job.sections import BaselineConfig, Budget, ComputeConfig, DeviceConfig, SearchConfig
from autocompress.job.source import Source
from autocompress.job.task import TaskConfig
from autocompress.objectives.quantities import OBJECTIVES
from autocompress.remote.urls import checked_url, joined, url_of

if TYPE_CHECKING:
    Objective = str
else:
    Objective = Literal[OBJECTIVES]
"""The name of a quantity that a search can optimise."""

Granularity = Literal["model", "stage", "block"]


def _place(results: Path) -> Path:
    """Checks the URL of results; as a path, it has lost a slash."""
    if (url := url_of(results)) is not None:
        try:
            checked_url(url)
        except ValueError as error:
            raise HintedError(str(error)) from None
    return results


def _spelled(results: Path) -> str:
    return url_of(results) or str(results)


_Path = Annotated[Path, Field(strict=False)]
_Results = Annotated[Path, Field(strict=False), AfterValidator(_place), PlainSerializer(_spelled, when_used="json")]
_Names = Annotated[tuple[str, ...], Field(strict=False)]
_Paths = Annotated[tuple[_Path, ...], Field(strict=False)]


def _files_of(plugins: Any) -> Any:
    """Imported modules among ``plugins`` as the files that they come from."""
    if isinstance(plugins, list | tuple):
        return [getattr(one, "__file__", one) if isinstance(one, ModuleType) else one for one in plugins]
    return plugins


def default_name(values: dict[str, Any]) -> str:
    """``<model>-<data>``, with only the characters that a folder name may have."""
    data = values["data"].name.rstrip("/").split("/")[-1].split(":")[-1] or "data"
    return re.sub(r"[^\w.-]+", "-", f"{values['model']}-{data}").strip("-.")


def folder_of(results_url: str, name: str) -> Path:
    """The folder on this machine that stands for a run on a URL."""
    return cache_folder("runs", digest(results_url)[:12]) / name


COST_MODEL = "cost-model:"
"""Prefix of the device name of a cost model; the key ``cost_model`` of a job has the rest."""


class Job(_Section):
    """What the user asked for.

    YAML keys, keyword arguments and command-line flags have these names.

    Make one with :func:`autocompress.job.load_job`, which raises UserError. The class itself raises
    ``pydantic.ValidationError``. Paths are relative to the working folder.
    """

    model: str = Field(min_length=1)
    """Name of the network, as in timm: ``resnet18``, ``resnet18.a1_in1k``."""
    model_args: dict[str, JsonValue] = Field(default_factory=dict)
    """Further arguments of ``timm.create_model``."""
    pretrained: bool = False
    """Start from timm's pretrained weights."""
    checkpoint: _Path | None = None
    """Start from the weights in this file. A job without weights first trains a baseline, once."""
    data: DataConfig
    """Where images come from; one name stands for all splits, ``none`` for no data."""
    task: TaskConfig = TaskConfig()
    """What the network is for: its loss, its metric and its labels."""
    device: DeviceConfig = DeviceConfig()
    """Where latency is measured, and how."""
    also: Annotated[tuple[DeviceConfig, ...], Field(strict=False)] = ()
    """Other devices on which the front is measured when the search ends."""
    cost_model: str | None = None
    """Cost model for energy: a name or a YAML file."""
    objectives: Annotated[tuple[Objective, ...], Field(strict=False, min_length=1)] = ("accuracy", "latency")
    """Quantities that the search optimises together."""
    constraints: Constraints = Constraints()
    """Upper bounds that a model must meet."""
    methods: _Names | None = None
    """Methods to use; without it, all that apply to the model, except those only for comparison."""
    space: str | dict[str, Any] = "default"
    """A name in search_spaces/, a YAML file, limits written here, or ``default``."""
    granularity: Granularity = "stage"
    """Scope of one parameter: the model, a stage of the network, or a block."""
    budget: Budget = Budget()
    """Limits of the search."""
    baseline: BaselineConfig = BaselineConfig()
    """How the baseline is trained, where there are no weights yet."""
    compute: ComputeConfig = ComputeConfig()
    """Where and how torch computes."""
    augment: AugmentConfig | None = None
    """How training images are augmented; without it, the augmentation of the data set."""
    sampler: str = "tpe"
    """Sampler of recipes: ``tpe``, ``nsga2``, ``gp``, ``random``, or that of a plugin."""
    search: SearchConfig = SearchConfig()
    """Parts of a search that can be switched off."""
    recipes_from: _Path | None = None
    """Folder of another run, whose recipes are tried first (flag ``--from``)."""
    plugins: Annotated[_Paths, BeforeValidator(_files_of)] = ()
    """Python files with hooks, which need not be installed (flag ``--plugin``)."""
    workers: int = Field(default=2, ge=1)
    """Trials that run at the same time."""
    cluster: ClusterConfig = ClusterConfig()
    """Where workers run."""
    seed: int = Field(default=0, ge=0)
    """Seed of everything random."""
    name: str = Field(default_factory=default_name)
    """Name of the run's folder; without it, ``<model>-<data>``."""
    results: _Results = Path("results")
    """Folder, or URL, in which runs are stored."""

    _source: Source = PrivateAttr(default_factory=Source)

    @model_validator(mode="before")
    @classmethod
    def _workers_of_cluster(cls, given: Any) -> Any:
        return workers_moved(given)

    @property
    def energy_device(self) -> str | None:
        """The name of the device for ``cost_model``; None if the job names no cost model."""
        return None if self.cost_model is None else COST_MODEL + self.cost_model

    @field_validator("space", mode="before")
    @classmethod
    def _check_space(cls, given: Any) -> Any:
        if isinstance(given, Path):
            return str(given)
        if not isinstance(given, str | Mapping):
            raise HintedError(f"cannot be {given!r}", "give a name in search_spaces/, a path, or a mapping of limits")
        return given

    @field_validator("objectives", "methods")
    @classmethod
    def _check_twins(cls, given: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in given or ():
            if (given or ()).count(name) > 1:
                raise HintedError(f"names '{name}' twice")
        return given

    @field_validator("name")
    @classmethod
    def _check_name(cls, given: str) -> str:
        if not re.fullmatch(r"\w[\w.-]*", given):
            raise HintedError(
                f"cannot be {clipped(repr(given))}",
                "it names a folder: use letters, digits, '.', '_', '-'",
            )
        return given

    @model_validator(mode="after")
    def _check_baseline(self) -> Job:
        if self.pretrained and self.checkpoint is not None:
            raise HintedError("cannot be combined with 'pretrained'", "leave one of them out", "checkpoint")
        has_labels = self.data.train is not None and not self.data.is_unlabelled
        if not has_labels and not self.pretrained and self.checkpoint is None:
            text = "has no labelled images to train the baseline on"
            raise HintedError(text, "set 'pretrained' or 'checkpoint'", "data")
        if self.data.val_images is not None and not has_labels and self.data.val is None:
            raise HintedError("needs validation images", "name them for 'val'", "data.val_images")
        if self.data.train_images is not None and self.data.is_free:
            raise HintedError("needs training images", "name them for 'train'", "data.train_images")
        return self

    @model_validator(mode="after")
    def _check_storage(self) -> Job:
        if self.search.storage is not None and self.run_url is not None:
            text = "cannot be combined with results on a URL, which hold the study too"
            raise HintedError(text, "leave one of them out", "search.storage")
        return self

    @model_validator(mode="after")
    def _check_task(self) -> Job:
        if self.task.is_classification:
            return self
        if self.data.is_unlabelled or not self.data.words:
            raise HintedError(f"'{self.task.name}' needs images with labels", "give data with labels", "task")
        mixes = self.augment is not None and (self.augment.mixup or self.augment.cutmix)
        if mixes:
            raise HintedError(f"'{self.task.name}' cannot mix labels", "leave out mixup and cutmix", "augment")
        return self

    @model_validator(mode="after")
    def _check_until_met(self) -> Job:
        if self.budget.until_met and not self.constraints.bounds():
            text = "needs a constraint that the uncompressed model does not meet already"
            raise HintedError(text, "bound a cost, such as latency: 0.5x", "budget.until_met")
        return self

    @property
    def source(self) -> Source:
        """Where each key was written. Used in error messages; not part of the value of the job."""
        return self._source

    @property
    def run_url(self) -> str | None:
        """The URL of the run; None if its results are in a folder."""
        url = url_of(self.results)
        return None if url is None else joined(url, self.name)

    @property
    def folder(self) -> Path:
        """The folder of the run: ``<results>/<name>``.

        If results are on a URL, this is a folder of the cache.
        """
        if (url := url_of(self.results)) is not None:
            return folder_of(url, self.name)
        return self.results / self.name

    def to_yaml(self, versions: Mapping[str, str] | None = None) -> str:
        """The job as a complete YAML file, with every key and the limits of its space.

        Args:
            versions: package versions, written above the job as comments.

        Raises:
            UserError: if the space cannot be read.
        """
        from autocompress.job.spaces import resolved  # here, because that module imports this one

        values = resolved(self).model_dump(mode="json")
        values["constraints"] = {key: value for key, value in values["constraints"].items() if value is not None}
        values["data"] = self.data.spelled()
        head = "".join(f"# {name} {version}\n" for name, version in (versions or {}).items())
        if isinstance(self.space, str) and self.space != values["space"]:
            head += f"# space: {self.space}\n"
        return head + yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
