"""Writes the folder for others from an artifact of a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime

from autocompress.compression.artifact import MODEL_FILE, PLAN_FILE, RECIPE_FILE, WEIGHTS_FILE, load
from autocompress.contract import manager_for
from autocompress.data import DataInfo
from autocompress.delivery.asked import asked
from autocompress.delivery.card import card
from autocompress.delivery.check import Check, check
from autocompress.errors import UserError
from autocompress.files import atomic_folder, full_disk_told
from autocompress.job import Job, load_job
from autocompress.results import JOB_FILE
from autocompress.runtime import session_options

SCRIPT, CARD, PREPROCESSING, PROGRAM = "infer.py", "README.md", "preprocessing.json", "model.pt2"
CHECKED = 500
"""Number of pictures for the check of the script."""


@dataclass(frozen=True)
class Delivered:
    """The written folder.

    Attributes:
        folder: its path.
        trial: number of the trial of the model.
        files: sorted names.
        check: the check of the script; None if it did not run.
    """

    folder: Path
    trial: int
    files: tuple[str, ...]
    check: Check | None


def export_model(
    run: str | Path,
    to: str | Path,
    trial: int | None = None,
    *,
    pt2: bool = False,
    safetensors: bool = False,
    images: int = CHECKED,
) -> Delivered:
    """Writes a model of a run as a folder that others can use.

    The folder holds ``model.onnx``, ``README.md`` (a model card), ``infer.py`` (labels pictures;
    only needs onnxruntime, numpy and Pillow) and ``preprocessing.json``. The script is run on
    images of the job, or on noise if these are missing. The script must label the images as the
    search did. Only classification and multilabel have such a script.

    Args:
        run: ``results/<name>``.
        to: a new or empty folder.
        trial: number of the trial; the recommended one by default.
        pt2: also ``model.pt2``, the program that ``torch.export`` makes; it takes one image.
        safetensors: also the weights with the plan and the recipe, which ``autocompress.load``
            reads.
        images: number of images for the check of the script; 0 for no check.

    Raises:
        UserError: if ``run`` is not a run, has no such model, ``to`` is not empty, or the script
            labels images differently. Nothing is written then.
    """
    result, row, artifact = asked(run, to, trial)
    to = Path(to)
    told = preprocessing(artifact / MODEL_FILE)
    with full_disk_told(to), atomic_folder(to) as folder:
        shutil.copyfile(artifact / MODEL_FILE, folder / MODEL_FILE)
        (folder / PREPROCESSING).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        shutil.copyfile(Path(__file__).with_name(SCRIPT), folder / SCRIPT)
        if safetensors:
            for name in (WEIGHTS_FILE, PLAN_FILE, RECIPE_FILE):
                shutil.copyfile(artifact / name, folder / name)
        found = None
        if pt2 or images:
            job = load_job(result.folder / JOB_FILE)
            if pt2:
                _write_program(artifact, job, told["input_size"], folder / PROGRAM)
            found = check(folder, job, _info(told), images) if images else None
        if found is not None and not found.is_passed:
            raise UserError(
                f"the exported script labels {found.pictures - found.equal} of {found.pictures} {found.of} differently "
                "from the search",
                "the libraries here differ from those of the search, or this is a bug",
            )
        (folder / CARD).write_text(card(result, row, told, found), encoding="utf-8")
        files = tuple(sorted(path.name for path in folder.iterdir()))
    return Delivered(to, int(row["trial"]), files, found)


def preprocessing(file: Path) -> dict[str, Any]:
    """The preprocessing of pictures, from the metadata of the file.

    Raises:
        UserError: if the file cannot be loaded, or its metadata lack the preprocessing.
    """
    try:
        session = onnxruntime.InferenceSession(str(file), session_options(1), providers=["CPUExecutionProvider"])
        found = session.get_modelmeta().custom_metadata_map
        told = {key: json.loads(value) for key, value in sorted(found.items())}
    except Exception as error:  # the runtime's own exceptions have no common base
        raise UserError(f"{file} cannot be loaded: {str(error).strip().splitlines()[0]}") from None
    if missing := {"input_size", "mean", "std", "class_names", "session_config"} - told.keys():
        raise UserError(f"{file} does not say how its pictures are prepared: {sorted(missing)[0]} is missing")
    return told


def _info(told: Mapping[str, Any]) -> DataInfo:
    """The preprocessing as ``DataInfo``."""
    channels, height, width = told["input_size"]
    names = tuple(told["class_names"])
    return DataInfo(
        len(names),
        channels,
        (height, width),
        tuple(told["mean"]),
        tuple(told["std"]),
        names,
        crop_pct=told["crop_pct"],
        crop_mode=told["crop_mode"],
        interpolation=told["interpolation"],
        exif=bool(told.get("exif")),
    )


def _write_program(artifact: Path, job: Job, input_size: list[int], file: Path) -> None:
    """The program of ``torch.export`` for the artifact's module, for one image ``(1, C, H, W)``."""
    import torch

    model = load(artifact, manager_for(job))
    with torch.no_grad():
        program = torch.export.export(model, (torch.zeros(1, *input_size),))
    torch.export.save(program, file)
