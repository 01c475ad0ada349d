"""The hooks that a plugin may implement, with ``@autocompress.contract.hookimpl``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

from autocompress.contract.device import Device
from autocompress.contract.methods import Method
from autocompress.data import DatasetProvider

if TYPE_CHECKING:
    from autocompress.job import Job

hookspec = pluggy.HookspecMarker("autocompress")
hookimpl = pluggy.HookimplMarker("autocompress")


@hookspec
def autocompress_methods() -> list[Method]:  # type: ignore[empty-body]
    """Compression methods that the plugin offers."""


@hookspec
def autocompress_devices() -> list[Device]:  # type: ignore[empty-body]
    """Devices that the plugin can measure on."""


@hookspec
def autocompress_datasets() -> list[DatasetProvider]:  # type: ignore[empty-body]
    """Data sets that the plugin can load."""


@hookspec
def autocompress_trial_finished(job: Job, trial: dict[str, Any]) -> None:
    """A trial has its row (the columns of trials.csv).

    For loggers; an error here is logged and stops nothing.
    """


@hookspec
def autocompress_search_finished(job: Job, result: Any) -> None:
    """The search is over; ``result`` is the SearchResult. For loggers."""
