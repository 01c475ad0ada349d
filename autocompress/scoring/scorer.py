"""Scorer: outputs of an exported file in ONNX Runtime, and their marks in the task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from autocompress.contract import Deployable
from autocompress.data import Split
from autocompress.devices import sessions
from autocompress.errors import TrialFailed
from autocompress.job import Job
from autocompress.processors import usable_processors

BATCH = 64
LOADED_TOGETHER = 64
PIXELS_BETWEEN_PAUSES = 64 * 64**2
"""Pixels that are scored between two pauses: some tenths of a second for a ResNet-50.

It is a number of pixels and not a time, so that batches are the same in every run. The number of
images in a batch changes the last bits of logits.
"""


def images_between_pauses(input_size: tuple[int, int, int]) -> int:
    """The number of images of ``input_size`` (channels, height, width) between two pauses."""
    return min(max(1, PIXELS_BETWEEN_PAUSES // (input_size[1] * input_size[2])), LOADED_TOGETHER)


def worker_threads(job: Job) -> int:
    """Threads of torch and of the scorer in each worker of a search."""
    return max(1, usable_processors() // job.workers) if job.cluster.is_local else job.cluster.threads


@dataclass(frozen=True)
class Scorer:
    """Runs exported files in ONNX Runtime on the processor of this machine.

    It takes no lock. A caller that holds the machine lock shared passes ``pause``, so that
    measurements come first.

    Attributes:
        threads: number of threads of a session.
    """

    threads: int = 1

    @classmethod
    def of(cls, job: Job) -> Scorer:
        """The scorer of a search: each worker gets an equal share of the processors.

        On a cluster it gets the processors that the job names for a worker.
        """
        return cls(worker_threads(job))

    def predict(self, deployable: Deployable, images: np.ndarray) -> np.ndarray:
        """Outputs float32 ``(N, ...)`` of the file for float32 images ``(N, C, H, W)``.

        Images are run in batches of 64, or of the batch size of the file if that is fixed.

        Raises:
            TrialFailed: if ONNX Runtime cannot load the file.
        """
        loaded = sessions.session(deployable.file, self.threads)
        batch = sessions.input_shape(loaded, BATCH, deployable.input_size)[0]
        logits = []
        for start in range(0, len(images), batch):
            part = np.ascontiguousarray(images[start : start + batch], dtype=np.float32)
            missing = batch - len(part) if isinstance(loaded.get_inputs()[0].shape[0], int) else 0
            padded = np.concatenate([part, np.zeros((missing, *part.shape[1:]), np.float32)]) if missing else part
            logits.append(sessions.run(loaded, padded)[: len(part)])
        if not logits:
            return np.zeros((0, loaded.get_outputs()[0].shape[-1]), np.float32)
        return np.concatenate(logits).astype(np.float32, copy=False)

    def score(
        self,
        deployable: Deployable,
        split: Split,
        *,
        strict: bool = False,
        pause: Callable[[], None] | None = None,
    ) -> np.ndarray:
        """The marks of each image (``Task.marks``).

        In classification, a mark says whether the file classifies the image correctly. NaN and
        infinite logits count as wrong. In other tasks they are an error.

        Args:
            deployable: the file.
            split: images and labels.
            strict: NaN and infinite outputs are an error in classification too.
            pause: called after every few images (:func:`images_between_pauses`).

        Returns:
            ``(images, ...)``, in the order of the split; bool ``(images,)`` in classification.

        Raises:
            TrialFailed: if the file cannot be loaded, or outputs are not finite.
        """
        task, strict = split.task, strict or not split.info.task.is_classification
        found, step = [], images_between_pauses(deployable.input_size)
        for images, labels in split.loader(LOADED_TOGETHER):
            for part, wanted in zip(images.split(step), labels.split(step), strict=True):
                outputs = self.predict(deployable, part.numpy())
                if strict and not np.isfinite(outputs).all():
                    raise TrialFailed("the model's outputs are not finite numbers on some images")
                found.append(task.marks(torch.from_numpy(outputs), wanted).numpy())
                if pause is not None:
                    pause()
        return np.concatenate(found) if found else np.zeros(0, bool)
