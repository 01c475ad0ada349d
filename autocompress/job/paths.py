"""Makes the paths in a job absolute, so that a job can be read from any folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from autocompress.job.schema import COST_MODEL, Job

LOCAL_MODEL = "local-dir:"
PROFILES = (".yaml", ".yml")
"""Suffixes of cost models that are files of the user."""
MODEL_FILES = frozenset({"checkpoint_path", "file"})
"""Arguments of ``timm.create_model``, or of ``pretrained_cfg_overlay``, that name a file."""


class Plugins(Protocol):
    """The part of ``contract.Manager`` that is needed here; this package may not import it."""

    def datasets(self) -> Sequence[Any]:
        """All data set providers."""


def absolute(path: str) -> str:
    """``path`` as an absolute path without ``~`` and ``..``; links are not resolved."""
    return os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111 (Path keeps the '..')


def below(root: Path | None, path: str) -> str:
    """``path``, below ``root`` if there is a root and ``path`` is relative."""
    return path if root is None else str(root.expanduser() / Path(path).expanduser())


def anchored(job: Job, plugins: Plugins) -> Job:
    """``job`` with absolute paths of model, checkpoint, data, cost models, plugins and earlier run.

    ``results`` stays relative, because the folder of a run may be moved.
    """
    providers = plugins.datasets()

    def data(spec: str | None) -> str | None:
        provider = None if spec is None else next((one for one in providers if one.claims(spec)), None)
        return spec if provider is None else provider.anchored(provider.rooted(spec, job.data.root))

    splits = {split: data(getattr(job.data, split)) for split in ("train", "val", "test")}
    changed: dict[str, Any] = {
        "data": job.data.model_copy(update={**splits, "root": None}),
        "checkpoint": None if job.checkpoint is None else Path(absolute(str(job.checkpoint))),
        "plugins": tuple(Path(absolute(str(path))) for path in job.plugins),
        "recipes_from": None if job.recipes_from is None else Path(absolute(str(job.recipes_from))),
        "device": job.device.model_copy(update={"name": _profile(job.device.name, COST_MODEL)}),
        "cost_model": None if job.cost_model is None else _profile(job.cost_model, ""),
        "model": _after(job.model, LOCAL_MODEL),
        "task": job.task.anchored,
        "model_args": _files(job.model_args),
    }
    copy = job.model_copy(update=changed)
    copy._source = job.source
    return copy


def _after(text: str, prefix: str) -> str:
    """``text`` with an absolute path after ``prefix``; ``text`` itself where it has no prefix."""
    return prefix + absolute(text.removeprefix(prefix)) if text.startswith(prefix) else text


def _profile(name: str, prefix: str) -> str:
    return _after(name, prefix) if name.endswith(PROFILES) else name


def _files(arguments: Any) -> Any:
    """Arguments of the model with absolute paths; timm reports a file that does not exist."""
    if not isinstance(arguments, dict):
        return arguments
    return {
        key: absolute(value)
        if key in MODEL_FILES and isinstance(value, str) and os.path.isfile(os.path.expanduser(value))  # noqa: PTH111, PTH113
        else _files(value)
        for key, value in arguments.items()
    }
