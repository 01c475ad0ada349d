"""Checks of a job that need no torch, because importing torch takes seconds."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterable
from pathlib import Path

from autocompress.errors import UserError, did_you_mean
from autocompress.job.images import UNLABELLED
from autocompress.job.modelnames import PLUGIN_GROUP, check_model_name, other_plugins
from autocompress.job.paths import below
from autocompress.job.schema import COST_MODEL, Job
from autocompress.job.sections import DeviceConfig
from autocompress.job.spaces import Limits, limits_of
from autocompress.job.yamlfile import read_yaml

BUILT_IN = "builtin"
"""The entry point of the built-in devices and data sets. It has no method."""
LOCAL = (str(DeviceConfig.model_fields["name"].default), "openvino-cpu", "torch-eager")
"""The built-in devices, without cost models."""
SAMPLERS = ("tpe", "nsga2", "gp", "random")
"""The built-in samplers."""
JOB_FILE = "job.yaml"
"""The file that every folder of a run has."""
REMOTE = "ssh:"
"""Prefix of the names of devices on other machines."""
FOLDERS = {
    "folder:": "data: folder:PATH needs a folder of class folders",
    UNLABELLED: "data: {train: unlabelled:PATH} needs a folder of pictures",
}
"""Prefixes of data sets that are folders, and hints if there is no such folder."""
PROFILES = Path(__file__).parents[1] / "devices" / "profiles"


def check_names(job: Job) -> None:
    """Refuses models, files, methods and devices that do not exist; torch is not imported.

    Other plugins may offer methods, devices and samplers. If other plugins are installed or named
    by the job, or if torch is imported already, :func:`autocompress.job.validate` checks these
    names instead.

    Raises:
        UserError: naming file, line and key, with the closest known names.
    """
    check_model_name(job)
    check_checkpoint(job)
    check_recipes_from(job)
    check_plugins(job)
    check_task(job)
    check_data_folders(job)
    limits = limits_of(job)
    if "torch" in sys.modules or job.plugins or other_plugins():
        return
    points = importlib.metadata.entry_points(group=PLUGIN_GROUP)
    check_method_names(job, limits, sorted(point.name for point in points if point.name != BUILT_IN))
    check_sampler_name(job, SAMPLERS)
    modelled = [COST_MODEL + path.stem for path in sorted(PROFILES.glob("*.yaml"))]
    devices = [*LOCAL, *modelled]
    if not _is_device(job.device.name, devices):
        raise unknown_device(job, devices)
    for config in job.also:
        if not _is_device(config.name, devices):
            raise unknown_also(job, config.name, devices)
    if job.energy_device not in (None, *devices) and not _is_profile(str(job.energy_device)):
        raise unknown_cost_model(job, devices)


def check_checkpoint(job: Job) -> None:
    """Refuses a checkpoint that is not a file."""
    if job.checkpoint is not None and not job.checkpoint.is_file():
        raise job.source.error("checkpoint", f"names no file: {job.checkpoint}")


def check_plugins(job: Job) -> None:
    """Refuses a plugin that is not a Python file."""
    for path in job.plugins:
        if not path.is_file() or path.suffix != ".py":
            raise job.source.error("plugins", f"names no Python file: {path}", "install packages with pip instead")


def check_task(job: Job) -> None:
    """Refuses a task in a file or module that does not exist."""
    if fault := job.task.fault:
        raise job.source.error("task", fault, "write module:Class or FILE.py:Class; docs/tasks.md has an example")


def check_data_folders(job: Job) -> None:
    """Refuses data in a folder that does not exist."""
    for word in job.data.words.values():
        for prefix, hint in FOLDERS.items():
            if not word.startswith(prefix):
                continue
            folder = Path(below(job.data.root, word.removeprefix(prefix))).expanduser()
            if not folder.is_dir():
                raise UserError(f"there is no folder {folder}", hint)


def check_recipes_from(job: Job) -> None:
    """Refuses an earlier run that is not a folder of a run."""
    if job.recipes_from is not None and not (job.recipes_from / JOB_FILE).is_file():
        text = f"names no run: {job.recipes_from} has no {JOB_FILE}"
        raise job.source.error("recipes_from", text, "give the folder that a search wrote, results/NAME")


def check_method_names(job: Job, limits: Limits, known: Iterable[str]) -> None:
    """Refuses a method in the list of the job, or of its space, that is not ``known``."""
    known = list(known)
    for name in limits.methods or ():
        if name not in known:
            source = job.source if job.methods is not None else limits.source
            raise source.error("methods", f"names no installed method: '{name}'", did_you_mean(name, known))


def check_sampler_name(job: Job, known: Iterable[str]) -> None:
    """Refuses a sampler that is not ``known``."""
    known = list(known)
    if job.sampler not in known:
        raise job.source.error("sampler", f"names no sampler: '{job.sampler}'", did_you_mean(job.sampler, known))


def unknown_device(job: Job, known: Iterable[str]) -> Exception:
    """The error for a device that does not exist."""
    key = "device.name" if "device.name" in job.source.places else "device"
    return job.source.error(key, f"names no device: '{job.device.name}'", did_you_mean(job.device.name, known))


def unknown_also(job: Job, name: str, known: Iterable[str]) -> Exception:
    """The error for another device that does not exist."""
    return job.source.error("also", f"names no device: '{name}'", did_you_mean(name, known))


def unknown_cost_model(job: Job, devices: Iterable[str]) -> Exception:
    """The error for a cost model that is not among ``devices``."""
    profiles = [name.removeprefix(COST_MODEL) for name in devices if name.startswith(COST_MODEL)]
    hint = did_you_mean(str(job.cost_model), profiles) or "no cost model is installed"
    return job.source.error("cost_model", f"names no cost model: '{job.cost_model}'", hint)


def _is_device(name: str, devices: Iterable[str]) -> bool:
    return name in devices or name.startswith(REMOTE) or _is_profile(name)


def _is_profile(device: str) -> bool:
    """Whether ``device`` is a cost model in a file of the user; an unreadable file is refused."""
    path = device.removeprefix(COST_MODEL)
    if path == device or not path.endswith((".yaml", ".yml")):
        return False
    read_yaml(Path(path), "cost-model profile")
    return True
