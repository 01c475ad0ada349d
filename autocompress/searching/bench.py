"""What the search asks of a workbench (compression.workbench.Workbench has it all)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from autocompress.compression.proposing import Proposed
from autocompress.compression.sensitivity import Sensitivity
from autocompress.contract import Deployable, Device, Method, Value
from autocompress.contract.space import Chooser
from autocompress.data import Splits
from autocompress.job import Job


class Bench(Protocol):
    """A job, its baseline, and the way from a recipe to a scored file."""

    @property
    def job(self) -> Job: ...
    @property
    def baseline(self) -> Any: ...
    @property
    def methods(self) -> Sequence[Method]: ...
    @property
    def refused(self) -> Mapping[str, list[str]]: ...
    @property
    def device(self) -> Device: ...
    @property
    def splits(self) -> Splits: ...

    def compose(self, chooser: Chooser) -> Any:
        """The recipe that ``chooser`` gives."""

    def sensitivity(
        self, progress: Callable[[float, str], None] | None = None, pause: Callable[[], None] | None = None
    ) -> list[Sensitivity]:
        """What each width that the space offers loses alone; empty where no group has a choice."""

    def proposals(
        self, progress: Callable[[float, str], None] | None = None, pause: Callable[[], None] | None = None
    ) -> Proposed | None:
        """Recipes from measured tables; None where none can be made. ``pause`` is called often."""

    def float_layers(self) -> list[str]:
        """The baseline's layers that stay in float however the bits are chosen."""

    def starting_points(self, sensitivity: Sequence[Sensitivity] = ()) -> list[tuple[str, dict[str, Value]]]:
        """Labels and values of the recipes worth trying first."""

    def candidate(
        self,
        recipe: Any,
        *,
        dry_run: bool = False,
        progress: Callable[[float, str], None] | None = None,
        pause: Callable[[], None] | None = None,
    ) -> Any:
        """The model that ``recipe`` gives."""

    def export(self, candidate: Any, file: Path) -> Deployable:
        """Writes the candidate's file."""

    def accuracy(
        self, deployable: Deployable, split: Literal["val", "test"], pause: Callable[[], None] | None = None
    ) -> tuple[float, np.ndarray]:
        """Percent right, and which images these are; ``pause`` is called between images."""

    def save_artifact(self, candidate: Any, deployable: Deployable, folder: Path, metrics: dict[str, Any]) -> None:
        """Writes the artifact's files."""


class Opener(Protocol):
    """Opens the bench of a job, in the driver and once in every worker."""

    def __call__(self, job: Job, progress: Callable[[float, str], None] | None = None) -> Bench:
        """The bench; ``progress`` is told of what takes long."""


def is_by_agreement(bench: Bench) -> bool:
    """Whether the validation images are synthetic, and accuracy on them is agreement with the baseline."""
    splits = getattr(bench, "splits", None)
    return splits is not None and splits.by_agreement
