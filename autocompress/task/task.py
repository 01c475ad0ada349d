"""Task: the interface of what a network is for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from autocompress.objectives.intervals import Interval
from autocompress.task import losses
from autocompress.task.jackknife import paired_interval


class Task(ABC):
    """The interface of a task: loss, metric, divergence and prediction of a network.

    Derive a class of your own from it, and name it in a job as ``module:Class``.

    Outputs are what the network gives for a batch: one float tensor, images first. Targets are
    what the data set gives for each image as its label: a tensor with images first, in any type.

    A task holds no state besides its options, which are the keyword arguments of ``__init__`` and
    JSON values.
    """

    metric_name: ClassVar[str] = "accuracy"
    """The name of the metric in reports, in lower case: ``mean IoU``."""
    augments: ClassVar[bool] = True
    """Whether the engine rotates, shifts and scales training images.

    Targets are not changed. Set it to False if targets have positions, and override
    :meth:`augmented`.
    """

    # --- what every task has ----------------------------------------------------------------------

    @abstractmethod
    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The training loss: the mean over the batch, scalar, with a gradient to ``outputs``."""

    @abstractmethod
    def marks(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """What the metric needs to know of each image: a number, or a row of numbers.

        Accuracy needs whether an image is right, ``(N,)``. A mean intersection over union needs
        the intersections and unions of each image, ``(N, 2 * classes)``.
        """

    @abstractmethod
    def divergences(self, reference: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """How far ``outputs`` are from ``reference``, the outputs of the baseline, ``(N,)``.

        It is at least 0, and 0 for equal outputs. Tables, repairs and proposals minimise it.
        Distillation uses it as a loss, so it must have a gradient to ``outputs``. In the built-in
        tasks it is a Kullback-Leibler divergence in nats.
        """

    @abstractmethod
    def prediction(self, outputs: torch.Tensor) -> torch.Tensor:
        """What a user of the network reads from its outputs, as integers: ``(N,)`` or ``(N, ...)``.

        An exported file is refused if its predictions differ from those of its torch model.
        """

    # --- what has a default -----------------------------------------------------------------------

    def metric(self, marks: np.ndarray) -> float:
        """The metric in percent for the marks of all images; a higher one is better.

        The default is the mean of the marks, times 100.
        """
        return 100.0 * float(marks.mean())

    def interval(self, candidate: np.ndarray, baseline: np.ndarray) -> Interval:
        """The metric of ``candidate`` minus that of ``baseline`` in points, with its 95 % interval.

        Args:
            candidate, baseline: marks of the same images, in the same order.
        """
        return paired_interval(self.metric, candidate, baseline)

    def agreement(self, reference: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """The share of the prediction that is the same for both outputs, by image, ``(N,)``."""
        same = self.prediction(reference) == self.prediction(outputs)
        return same.flatten(1).float().mean(1) if same.ndim > 1 else same.float()

    def smoothed_loss(self, outputs: torch.Tensor, targets: torch.Tensor, smoothing: float) -> torch.Tensor:
        """The loss with label smoothing; the default is :meth:`loss`, without smoothing."""
        del smoothing
        return self.loss(outputs, targets)

    def answers(self, outputs: torch.Tensor, temperature: float) -> torch.Tensor:
        """Converts the outputs of a teacher to the form that :meth:`distillation` needs."""
        return outputs.float() / temperature

    def distillation(self, outputs: torch.Tensor, answers: torch.Tensor, temperature: float) -> torch.Tensor:
        """The distillation loss of a student, scalar.

        Args:
            outputs: outputs of the student.
            answers: answers of its teacher, from :meth:`answers`.
            temperature: temperature by which the outputs of both are divided.
        """
        return temperature**2 * self.divergences(answers, outputs / temperature).mean()

    def total_divergence(self, reference: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """The sum of :meth:`divergences`, scalar."""
        return self.divergences(reference, outputs).sum()

    def sampled_loss(self, outputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """The summed negative log-likelihood of targets that are drawn from the network itself.

        Its squared gradients are the Fisher information. The default is for outputs with normal
        noise of variance 1.
        """
        return losses.sampled_normal(outputs, generator)

    def uninformed_loss(self, classes: int) -> float:
        """The loss of a network that has learned nothing; 0 if it is unknown.

        A training that ends far above it, and above the loss at its start, has diverged.
        """
        del classes
        return 0.0

    def output_shape(self, classes: int) -> tuple[int, ...] | None:
        """The shape of the outputs for one image; None for any shape."""
        del classes
        return None

    def network(self, name: str, arguments: dict[str, Any], *, pretrained: bool) -> nn.Module:
        """Makes the network of the job. Override it for a head of your own on a timm backbone.

        The default is the classifier of timm. The network must return one tensor, also in training
        mode.

        Args:
            name: name of the model in the job.
            arguments: arguments of ``timm.create_model``: ``num_classes`` and ``in_chans`` of the
                data, and ``model_args`` of the job.
            pretrained: load the pretrained weights of the backbone.
        """
        import timm

        return timm.create_model(name, pretrained=pretrained, **arguments)

    def check_targets(self, targets: torch.Tensor, classes: int) -> str:
        """Why the task cannot use these targets, as the end of a sentence; empty if it can.

        Args:
            targets: targets of some images of the data set.
            classes: number of classes of the data set.
        """
        del targets, classes
        return ""

    def augmented(
        self, images: torch.Tensor, targets: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Augments training images together with their targets. The default changes nothing.

        Args:
            images: float32 ``(N, C, H, W)``, normalised, on the CPU or a GPU.
            targets: targets of the images, on the CPU.
            generator: generator of all random numbers, on the CPU.
        """
        del generator
        return images, targets
