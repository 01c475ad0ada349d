"""Accuracy of any ONNX file on labelled images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autocompress import data
from autocompress.checking.limits import Limits
from autocompress.contract import Deployable, manager
from autocompress.data import Split
from autocompress.devices import sessions
from autocompress.devices.lock import MachineLock
from autocompress.errors import TrialFailed, UserError
from autocompress.processors import usable_processors
from autocompress.scoring import Scorer
from autocompress.task.checking import targets_fault

_ASKED = ("mean", "std", "crop_pct", "crop_mode", "interpolation")


def scored(model: Deployable, limits: Limits) -> np.ndarray:
    """The marks of the task for each image of the budget's data.

    For classes: whether the file classifies it correctly, bool ``(images,)``.

    The preprocessing is that of the budget, else that of the file's metadata.

    Raises:
        UserError: if the budget names no labelled images, the preprocessing is unknown, the classes
            do not fit, or the file outputs no logits.
    """
    if limits.data is None:
        raise UserError("accuracy is limited, but the budget names no images", "give it data: folder:PATH")
    told = _told(model.file, limits)
    wanted = {name: told[name] for name in _ASKED if name in told}
    channels, height, width = model.input_size
    asked = {**wanted, "input_size": (height, width), "channels": channels}
    task = data.task_of(limits.task)
    splits = data.load(limits.data, manager().datasets(), **asked, task=task)
    split = splits.test if len(splits.test) else splits.val
    if not len(split) or splits.by_agreement:
        raise UserError("the budget names no labelled images to judge by", "give it data: folder:PATH")
    names = told.get("class_names")
    if fault := targets_fault(split.info.task, split.subset(1).labels(), split.num_classes):
        raise UserError(f"the task '{task.title}' {fault}", "name the task of the file in 'task:'")
    if names is not None and task.is_classification:
        split = _with_labels_of(split, list(names), model.file)
    scorer = Scorer(usable_processors())
    try:
        classes = scorer.predict(model, np.zeros((1, *model.input_size), np.float32)).shape
        if task.is_classification and (len(classes) != 2 or classes[1] < split.info.num_classes):
            raise UserError(f"{model.file} gives outputs of shape {list(classes)}", "logits (N, classes) are needed")
        lock = MachineLock()
        with lock.shared():  # it gives way to the measurements of other processes
            return scorer.score(model, split, pause=lock.breathe)
    except TrialFailed as failed:
        raise UserError(str(failed)) from None


def _told(file: Path, limits: Limits) -> dict[str, Any]:
    """The preprocessing of pictures: of the budget, else of the file's metadata."""
    if limits.preprocessing is not None:
        return {name: value for name, value in limits.preprocessing.model_dump().items() if value is not None}
    found = sessions.session(file, 1).get_modelmeta().custom_metadata_map
    try:
        told = {key: json.loads(found[key]) for key in (*_ASKED, "class_names") if key in found}
    except ValueError:
        told = {}
    if not {"mean", "std"} <= told.keys():
        raise UserError(f"{file} does not say how its pictures are prepared", "give the budget 'preprocessing:'")
    return told


def _with_labels_of(split: Split, names: list[str], file: Path) -> Split:
    """``split`` with labels in the order of the model's classes."""
    own = split.info.class_names
    if list(own) == names:
        return split
    if unknown := [name for name in own if name not in names]:
        raise UserError(f"the images have a class '{unknown[0]}' that {file} does not know", f"it has {len(names)}")
    numbers = torch.tensor([names.index(name) for name in own])
    return split.relabelled(numbers[split.labels()])
