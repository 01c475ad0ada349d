"""The hooks that a plugin may implement, with ``@autocompress.contract.hookimpl``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

from autocompress.contract.command import Command
from autocompress.contract.device import Device
from autocompress.contract.methods import Method
from autocompress.contract.sampler import Sampler
from autocompress.data import DatasetProvider

if TYPE_CHECKING:
    from autocompress.job import Job

hookspec = pluggy.HookspecMarker("autocompress")
hookimpl = pluggy.HookimplMarker("autocompress")


@hookspec
def autocompress_methods() -> list[Method]:  # type: ignore[empty-body]
    """The compression methods of the plugin."""


@hookspec
def autocompress_devices() -> list[Device]:  # type: ignore[empty-body]
    """The devices of the plugin."""


@hookspec
def autocompress_datasets() -> list[DatasetProvider]:  # type: ignore[empty-body]
    """The data sets of the plugin."""


@hookspec
def autocompress_samplers() -> list[Sampler]:  # type: ignore[empty-body]
    """The samplers of the plugin."""


@hookspec
def autocompress_commands() -> list[Command]:  # type: ignore[empty-body]
    """The sub-commands of the plugin.

    ``autocompress`` asks plugins for them if it has no such command itself, and for ``--help``.
    """


@hookspec
def autocompress_search_started(job: Job) -> None:
    """Called before the first trial of this process, in a resumed search too.

    For loggers; an error here is logged and stops nothing.
    """


@hookspec
def autocompress_trial_finished(job: Job, trial: dict[str, Any]) -> None:
    """Called for each finished trial with its row (the columns of trials.csv).

    Called again, with the new row, where the trial was trained on a higher rung. For loggers. An
    error here is logged and does not stop the search.
    """


@hookspec
def autocompress_search_finished(job: Job, result: Any) -> None:
    """Called at the end of a search with its SearchResult. For loggers."""


@hookspec
def autocompress_search_stopped(job: Job) -> None:
    """Called where a started search ends without a result: by SIGTERM or an error.

    ``autocompress_search_finished`` is not called then. After SIGTERM the process has two seconds
    left for all hooks together. For loggers.
    """
