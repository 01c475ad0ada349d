"""Records what a run began with, and checks that a resume can continue with its rows.

Rows of one study must be comparable: the same job, the same libraries, and latencies of one class
of machine and one runtime version. The record is stored in the study. In job.yaml, only keys that
change no row may be edited.

Digests of the images are stored separately, because they are only known after loading the data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
import onnxscript

from autocompress.contract import Device
from autocompress.data import Splits, task_of
from autocompress.data.guard import Sealed
from autocompress.errors import UserError
from autocompress.job import Job
from autocompress.opened.keys import measured_with
from autocompress.training import versions

EDITABLE = ("name", "results", "budget", "workers", "cluster", "sampler", "recipes_from")
"""Keys of a job that may change between two runs of a search."""
IMAGES_VERSION = "2"
"""Version of the digests of images. A record of another version is ignored."""
CHANGES_NO_ROW = ("search.explain", "search.storage")
"""Keys within a section that may change as well, because no row depends on them.

They switch a measurement after the last row on or off, and name the server of the study.
"""
MOST_SHOWN = 60
"""Maximum length of a value in an error."""


def begun_with(job: Job, device: Device) -> dict[str, Any]:
    """Everything on which the rows of a search depend, as JSON: job, library versions, machine.

    Args:
        job: job read from job.yaml.
        device: device of the job.
    """
    asked = {key: value for key, value in job.model_dump(mode="json").items() if key not in EDITABLE}
    asked["data"].pop("workers")  # the same batches, whoever reads them
    # Keys that runs of earlier versions lack are left out if they have their defaults.
    asked["compute"] = job.compute.model_dump(mode="json", exclude_defaults=True)
    if job.baseline.accumulate == 1:
        del asked["baseline"]["accumulate"]
    if job.task.is_classification:
        del asked["task"]
    else:
        asked["task"] = {"task": asked["task"], "source": task_of(job).key[:16]}
    libraries = {**versions(), "onnx": onnx.__version__, "onnxscript": onnxscript.__version__}
    machine = measured_with(device, job.device)
    for known in ("device", "device_config", "session_options"):  # they are in the job and in "session_config"
        machine.pop(known, None)
    return {"job": asked, "versions": libraries, "machine": machine}


def decided_with(job: Job) -> dict[str, Any]:
    """What the driver has decided by measuring, as JSON: the memory format of trainings."""
    return {"channels_last": job.compute.channels_last}


def as_begun(job: Job, known: Mapping[str, Any] | None) -> Job:
    """``job`` with what the first run has decided.

    Args:
        job: job read from job.yaml.
        known: :func:`begun_with` and :func:`decided_with` of the first run; None if there is
            none.
    """
    if known is None or job.compute.channels_last != "auto":
        return job
    last = known.get("channels_last", False)  # earlier versions had no other format, and did not record it
    if not isinstance(last, bool):
        return job
    return job.model_copy(update={"compute": job.compute.model_copy(update={"channels_last": last})})


def check_resumable(folder: Path, known: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuses to mix rows that cannot be compared.

    Args:
        folder: folder of the run, for the error.
        known: :func:`begun_with` of the first run.
        now: :func:`begun_with` of this process.

    Raises:
        UserError: naming the changes, in one sentence.
    """
    asked = [one for one in _differences(known.get("job", {}), now["job"]) if one[0] not in CHANGES_NO_ROW]
    around = [*_differences(known.get("machine", {}), now["machine"])]
    around += _differences(known.get("versions", {}), now["versions"])
    if asked:
        raise UserError(
            f"{folder} cannot be resumed with another job: {_sentence(asked)}",
            f"put it back in job.yaml, or start another search; only {', '.join(EDITABLE)} may change",
        )
    if around:
        raise UserError(
            f"{folder} cannot be resumed here, because results would not be comparable: {_sentence(around)}",
            "resume it on the same kind of machine and with the same versions, or start another search",
        )


def images_of(splits: Splits) -> dict[str, str]:
    """The digests of the images of the user, by role ("training", "validation", "test").

    "version" has the version of the digests: digests of different versions cannot be compared.

    Sealed test images are left out, because a digest would need to open them. Validation images
    with labels of the baseline are left out too, because the key of the baseline has them.
    """
    roles = {"training": splits.train, "validation": splits.val, "test": splits.test}
    if splits.by_agreement:
        del roles["validation"]
    digests = {role: split.digest for role, split in roles.items() if len(split) and not isinstance(split, Sealed)}
    return {"version": IMAGES_VERSION, **digests}


def check_images(folder: Path, known: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Refuses to judge new rows on other images than the finished rows.

    Args:
        folder: folder of the run, for the error.
        known: :func:`images_of` of the first run, with the same version; a role without an entry is
            not compared.
        now: :func:`images_of` of this process.

    Raises:
        UserError: naming the changed roles, in one sentence.
    """
    changed = [role for role, digest in known.items() if now.get(role) != digest]
    if changed:
        raise UserError(
            f"the {' and '.join(changed)} images changed since the search in {folder} began, so new rows could not be "
            "compared with the finished ones",
            "bring back the same files with the same modification times, or start another search",
        )


def _differences(
    before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, before, after) of each change.

    A key that only one of them has is only a change if it has a value, because later versions add
    keys.
    """
    for key in dict.fromkeys([*before, *after]):
        old, new = before.get(key), after.get(key)
        was, is_now = ({} if value is None else value for value in (old, new))
        if (old or new) and isinstance(was, Mapping) and isinstance(is_now, Mapping):
            yield from _differences(was, is_now, f"{prefix}{key}.")
        elif old != new and (old or new):
            yield f"{prefix}{key}", old, new


def _sentence(changed: list[tuple[str, Any, Any]]) -> str:
    key, before, after = changed[0]
    others = [f"'{name}'" for name, _, _ in changed[1:]]
    more = f" ({', '.join(others[:3])}{', ...' if len(others) > 3 else ''} changed too)" if others else ""
    if before is None:
        return f"'{key}' was not set when the search began and is {_shown(after)} now{more}"
    if after is None:
        return f"'{key}' was {_shown(before)} when the search began and is not set now{more}"
    return f"'{key}' was {_shown(before)} when the search began and is {_shown(after)} now{more}"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if value in ([], {}, ""):
        return "empty"
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= MOST_SHOWN else text[: MOST_SHOWN - 3] + "..."
