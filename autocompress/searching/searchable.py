"""The interface of an opened job for a search.

``opened.job.OpenedJob`` implements it; tests have a smaller class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from autocompress.compression.candidate import Candidate
from autocompress.contract import Deployable, Device, Method, Value
from autocompress.contract.space import Chooser
from autocompress.data import Scored, Splits
from autocompress.export import Agreement, TapCrop
from autocompress.job import Job
from autocompress.opened.baseline import Baseline
from autocompress.proposals.proposer import Proposed
from autocompress.recipes.recipe import Recipe
from autocompress.sensitivity.table import Sensitivity


class SearchableJob(Protocol):
    """A job, its baseline, and the way from a recipe to a scored file."""

    @property
    def job(self) -> Job: ...
    @property
    def baseline(self) -> Baseline: ...
    @property
    def methods(self) -> Sequence[Method]: ...
    @property
    def refused(self) -> Mapping[str, list[str]]: ...
    @property
    def training_seconds(self) -> float:
        """Seconds of training the baseline in this process."""

    @property
    def prepared(self) -> Sequence[str]:
        """Keys of the entries of the store that were needed for opening it."""

    @property
    def device(self) -> Device: ...
    @property
    def splits(self) -> Splits: ...

    def compose(self, chooser: Chooser) -> Recipe:
        """The recipe that ``chooser`` gives."""

    def at_rung(self, recipe: Recipe, rung: int) -> Recipe | None:
        """``recipe`` with the training of all rungs up to ``rung``; None if rungs do not apply."""

    def cheapest(self) -> list[tuple[str, dict[str, Value]]]:
        """Labels and values of the cheapest recipes, with all methods together last."""

    def sensitivity(
        self, progress: Callable[[float, str], None] | None = None, pause: Callable[[], None] | None = None
    ) -> list[Sensitivity]:
        """The loss of each number of bits alone; empty if no group has a choice."""

    def partly_float(
        self, progress: Callable[[float, str], None] | None = None, pause: Callable[[], None] | None = None
    ) -> list[tuple[str, dict[str, Value]]]:
        """Labels and values of recipes with 8 bits and, in sensitive groups, float."""

    def end_proposals(self) -> None:
        """Ends what :meth:`begin_proposals` started; it may be called at any time."""

    def begin_proposals(self) -> bool:
        """Starts a process that prepares :meth:`proposals`; returns whether there is one."""

    def proposals(
        self, progress: Callable[[float, str], None] | None = None, pause: Callable[[], None] | None = None
    ) -> Proposed | None:
        """Recipes from measured tables; None if there are none. ``pause`` is called often.

        Raises:
            NoProposals: if a method raises an error.
        """

    def float_layers(self) -> list[str]:
        """The layers of the baseline that cannot be quantized."""

    def offered(self) -> list[str]:
        """Names of the methods that recipes may use."""

    def neutral(self) -> Mapping[str, Value]:
        """Values that leave the network unchanged, by name of a parameter of a method."""

    def placement(self) -> list[dict[str, Any]]:
        """Times of the baseline's regions in float and in integers; empty if not measured."""

    def starting_points(self, sensitivity: Sequence[Sensitivity] = ()) -> list[tuple[str, dict[str, Value]]]:
        """Labels and values of the recipes to try first."""

    def candidate(
        self,
        recipe: Recipe,
        *,
        dry_run: bool = False,
        progress: Callable[[float, str], None] | None = None,
        pause: Callable[[], None] | None = None,
    ) -> Candidate:
        """The model that ``recipe`` gives."""

    def stages(self, values: Mapping[str, Value], rung: int) -> Sequence[tuple[str, Recipe]]:
        """(stage, recipe up to it) for each stage of the recipe ``values``, trained on ``rung``."""

    def layers(self, artifact: Path) -> list[dict[str, Any]]:
        """Describes what an artifact made of each layer of the baseline."""

    def layer_losses(self, artifact: Path, seconds: float) -> dict[str, float]:
        """The divergence of each layer of an artifact alone; empty if the time is too short."""

    def export(self, candidate: Candidate, file: Path) -> Deployable:
        """Writes the file of the candidate."""

    def cropped_baseline(self, file: Path) -> tuple[Deployable, TapCrop] | None:
        """The float baseline's file with only the tap crop; None if no tap is left out."""

    def agreement(
        self, candidate: Candidate, deployable: Deployable, pause: Callable[[], None] | None = None
    ) -> Agreement:
        """Agreement of the candidate's file with its torch model on some validation images."""

    def accuracy(
        self, deployable: Deployable, split: Scored, pause: Callable[[], None] | None = None
    ) -> tuple[float, np.ndarray]:
        """Accuracy in percent, and which images are correct; calls ``pause`` between images."""

    def model_accuracy(self, candidate: Candidate, pause: Callable[[], None] | None = None) -> tuple[float, np.ndarray]:
        """:meth:`accuracy` of the candidate's torch model, on the validation split."""

    def save_artifact(
        self, candidate: Candidate, deployable: Deployable, folder: Path, metrics: dict[str, Any]
    ) -> None:
        """Writes the artifact's files."""


class Opener(Protocol):
    """Opens a job, in the driver and once in every worker."""

    def __call__(self, job: Job, progress: Callable[[float, str], None] | None = None) -> SearchableJob:
        """The opened job; ``progress`` is called during long work."""


def is_by_agreement(opened: SearchableJob) -> bool:
    """Whether labels are predictions of the baseline, so that accuracy is agreement with it."""
    return opened.splits.by_agreement
