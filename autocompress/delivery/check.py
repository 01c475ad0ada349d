"""Checks that ``infer.py`` labels pictures as the search did."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from autocompress import data, models
from autocompress.contract import Deployable, manager_for
from autocompress.data import DataInfo, Split, TensorSplit, task_of
from autocompress.data.pictures import DatasetSplit
from autocompress.data.preprocessing import evaluation
from autocompress.errors import UserError
from autocompress.job import Job
from autocompress.scoring import Scorer
from autocompress.task import Classification, Task

LEAST_EQUAL = 0.99
"""Minimum share of equal labels. Logits of single pictures and of batches differ slightly."""
NOISE_PICTURES = 16
NOISE_SIZES = ((40, 60), (60, 40), (33, 120), (64, 64))
"""Heights and widths of pictures of noise."""
SECONDS = 3600


@dataclass(frozen=True)
class Check:
    """The result of the script for some pictures.

    Attributes:
        pictures: number of pictures.
        equal: number of pictures with the label that the search gives them.
        accuracy: percent of correct labels; None if the pictures have no labels.
        of: the kind of pictures, as text.
        is_whole: these are all images on which the run judged models.
    """

    pictures: int
    equal: int
    accuracy: float | None
    of: str
    is_whole: bool

    @property
    def is_passed(self) -> bool:
        """Whether enough labels are equal."""
        return self.equal >= LEAST_EQUAL * self.pictures


def check(folder: Path, job: Job, info: DataInfo, most: int) -> Check:
    """Runs ``infer.py`` of ``folder`` on pictures of the job, or on noise if there are none.

    Args:
        folder: folder with the script, the model and ``preprocessing.json``.
        job: job of the run; its data give the pictures.
        info: size, preprocessing and classes of the model.
        most: maximum number of pictures.
    """
    split, of, is_labelled = _judged(job)
    pictures = None if split is None else _pictures(some := split.subset(most, job.seed))
    if split is None or pictures is None:
        noise = _noise(info)
        tensors, labels = torch.stack([evaluation(info)(one) for one in noise]), None
        return _compared(
            folder, noise, tensors.numpy(), labels, "pictures of noise", is_whole=False, task=task_of(job).task()
        )
    images = torch.cat([batch for batch, _ in some.loader(64)]).numpy()
    is_classification = split.info.task.is_classification
    labels = some.labels().numpy() if is_labelled and is_classification else None
    return _compared(folder, pictures, images, labels, of, is_whole=len(some) == len(split), task=split.task)


def _judged(job: Job) -> tuple[Split | None, str, bool]:
    """The judging images of the run, their kind, and whether they have labels; None if missing."""
    if not {"val", "test"} & job.data.words.keys() and not job.data.is_unlabelled:
        return None, "", False
    has_weights = job.pretrained or job.checkpoint is not None
    try:
        splits = data.load(job.data, manager_for(job).datasets(), **models.preprocessing(job), has_weights=has_weights)
    except (UserError, OSError):  # the data may not be on this machine
        return None, "", False
    val = splits.val if splits.whole_val is None else splits.whole_val
    if len(val):
        return val, "validation images", not splits.by_agreement
    return (splits.test, "test images", True) if len(splits.test) else (None, "", False)


def _pictures(split: Split) -> list[Image.Image] | None:
    """The pictures before preprocessing; None if the split has no pictures."""
    if isinstance(split, DatasetSplit):
        return [split.pictures.picture(int(index)) for index in split.indices]
    if isinstance(split, TensorSplit) and split.images.dtype == torch.uint8 and split.images.shape[1] in (1, 3):
        arrays = split.images.permute(0, 2, 3, 1).numpy()
        return [Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array) for array in arrays]
    return None


def _noise(info: DataInfo) -> list[Image.Image]:
    draw = np.random.default_rng(0)
    sizes = [NOISE_SIZES[number % len(NOISE_SIZES)] for number in range(NOISE_PICTURES)]
    mode = "L" if info.channels == 1 else "RGB"
    return [Image.fromarray(draw.integers(0, 256, (*size, 3), dtype=np.uint8)).convert(mode) for size in sizes]


def _compared(
    folder: Path,
    pictures: Sequence[Image.Image],
    images: np.ndarray,
    labels: np.ndarray | None,
    of: str,
    *,
    is_whole: bool,
    task: Task,
) -> Check:
    """Compares the labels of the script for ``pictures`` with those of the search for ``images``.

    ``images`` are the same pictures after preprocessing.
    """
    deployable = Deployable(folder / "model.onnx", (images.shape[1], images.shape[2], images.shape[3]))
    ours = task.prediction(torch.from_numpy(Scorer().predict(deployable, images)))
    told = _told(folder, pictures)
    if isinstance(task, Classification):
        found = np.array([one["label"] for one in told], dtype=np.int64)
        accuracy = None if labels is None else 100.0 * float((found == labels).mean())
        return Check(len(found), int((found == ours.numpy()).sum()), accuracy, of, is_whole)
    wanted = [own.nonzero().flatten().tolist() for own in ours]
    equal = sum(one["labels"] == own for one, own in zip(told, wanted, strict=True))
    return Check(len(told), equal, None, of, is_whole)


def _told(folder: Path, pictures: Sequence[Image.Image]) -> list[dict[str, Any]]:
    """The output of the script for each picture.

    Raises:
        UserError: if it fails.
    """
    with tempfile.TemporaryDirectory() as temporary:
        files = [Path(temporary) / f"{number}.png" for number in range(len(pictures))]
        for file, picture in zip(files, pictures, strict=True):
            picture.save(file)
        # -I: without PYTHONPATH and the current folder, as for users of the folder.
        command = [sys.executable, "-I", str(folder / "infer.py"), "--json", *map(str, files)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    if done.returncode:
        said = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        raise UserError(f"the exported model cannot be run by its own script: {said}")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found
