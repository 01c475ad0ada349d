"""The data source ``deepinversion``: its space, and how it makes a transfer set."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from autocompress import models
from autocompress.contract import Context, DataSource, Params, Space, TransferSet
from autocompress.data import DataInfo
from autocompress.errors import UserError
from autocompress.synthesis import (
    Optimised,
    SynthesisBudget,
    balanced_labels,
    data_info,
    optimise_pixels,
    reasons_against_statistics,
    starting_noise,
    teacher_logits,
    transfer_set,
)
from autocompress_deepinversion.objective import objective
from autocompress_deepinversion.settings import PRESETS, SCHEDULES, Settings, defaults_for

if TYPE_CHECKING:
    from autocompress.job import Job

log = logging.getLogger("autocompress")


class DeepInversion(DataSource):
    """Images of given classes for the teacher, with the feature statistics of its training images.

    One parameter is searched, ``deepinversion.preset``: "plain" or "adaptive". With "adaptive",
    images are also made for the student in training, and those on which student and teacher
    disagree are preferred.

    The other parameters are fixed for the whole job, at published values by image size (see
    ``defaults_for``), because making a set takes minutes: images, batch_size, iterations, lr,
    schedule, feature, tv, l2, competition, first_norm, jitter, flip, clamp, pooled (see
    ``Settings``). Weights depend on batch size, resolution and depth, so a change of one of these
    may require other weights.
    """

    name = "deepinversion"
    version = "1"
    reference = (
        "Yin et al., Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion, CVPR 2020, arXiv 1912.08795"
    )

    def check(self, model: nn.Module, job: Job) -> list[str]:
        """Checks that the model is a classifier with batch norms that recorded statistics."""
        del job
        if not models.classifier(model):
            return ["the model gives no logits of classes"]
        return reasons_against_statistics(model)

    def search_space(self, space: Space, model: nn.Module) -> Params:
        """The preset; other parameters have their defaults unless the job sets them."""
        cfg: Any = getattr(model, "pretrained_cfg", None) or {}
        own = defaults_for(models.input_size(model), bool(cfg.get("fixed_input_size")))
        fixed: dict[str, Any] = {"structural": False, "searched": False}
        preset = space.categorical("preset", PRESETS, default="plain", structural=False)
        params = {
            "preset": preset,
            "images": space.integer("images", 1, 1_000_000, default=own.images, **fixed),
            "batch_size": space.integer("batch_size", 1, 4096, default=own.batch_size, **fixed),
            "iterations": space.integer("iterations", 1, 100_000, default=own.iterations, **fixed),
            "lr": space.float("lr", 1e-3, 1.0, default=own.lr, log=True, **fixed),
            "schedule": space.categorical("schedule", SCHEDULES, default=own.schedule, **fixed),
            "feature": space.float("feature", 0.0, 1e3, default=own.feature, **fixed),
            "tv": space.float("tv", 0.0, 1.0, default=own.tv, **fixed),
            "l2": space.float("l2", 0.0, 1.0, default=own.l2, **fixed),
            "first_norm": space.float("first_norm", 0.0, 100.0, default=own.first_norm, **fixed),
            "jitter": space.float("jitter", 0.0, 0.5, default=own.jitter, **fixed),
            "flip": space.categorical("flip", (True, False), default=own.flip, **fixed),
            "clamp": space.categorical("clamp", (True, False), default=own.clamp, **fixed),
            "pooled": space.categorical("pooled", (True, False), default=own.pooled, **fixed),
        }
        if preset == "adaptive":
            params["competition"] = space.float("competition", 0.0, 100.0, default=own.competition, **fixed)
        return params

    def adapts(self, params: Params) -> bool:
        """Whether images depend on the student: with the adaptive preset."""
        return bool(params.get("preset") == "adaptive")

    def passes(self, params: Params) -> float:
        """The number of passes; those of a pooled phase are weighted by its share of the pixels."""
        phases = Settings.of(params).phases
        return sum(phase.iterations / phase.pool**2 for phase in phases)

    def within(self, params: Params, passes: float) -> Params:
        """Shortens every phase by the same factor."""
        share = min(1.0, passes / self.passes(params))
        return {**params, "iterations": max(1, int(share * params["iterations"]))}

    def without_student(self, params: Params) -> Params:
        """Parameters without a student: the adaptive preset begins with the images of "plain"."""
        plain = {name: value for name, value in params.items() if name != "competition"}
        return {**plain, "preset": "plain"} if self.adapts(params) else params

    def apply(
        self, teacher: nn.Module, params: Params, context: Context, student: nn.Module | None = None
    ) -> TransferSet:
        """Makes the images, batch by batch, each of balanced classes.

        There are no soft targets, because training runs the teacher on augmented images.

        Only the adaptive preset uses ``student``; its first set, without a student, is a plain one.

        Raises:
            UserError: if the teacher has no usable statistics (and ``feature`` is not 0), or its
                outputs are not finite.
            TrialFailed: if the objective stops being finite.
        """
        settings = Settings.of(params)
        if settings.feature and (reasons := reasons_against_statistics(teacher)):
            raise UserError(f"deepinversion cannot make images: {reasons[0]}", "choose another data source")
        info = data_info(teacher)
        wanted = settings.images if context.images is None else min(settings.images, context.images)
        student = student if self.adapts(params) else None
        images, labels, batches = self._make(teacher, settings, info, wanted, context, student)
        logits = teacher_logits(teacher, images)
        agreement = 100 * float((logits.argmax(1) == labels).float().mean())
        distance = sum(batch.losses.get("feature", 0.0) for batch in batches) / len(batches)
        log.info(
            "deepinversion: %d images, agreement with their labels %.1f %%, feature distance %.3g, %.0f s",
            *(len(images), agreement, distance, sum(batch.seconds for batch in batches)),
        )
        return transfer_set(images, logits, info, stored=False, made_by=[self.name, self.version], seed=context.seed)

    def _make(
        self,
        teacher: nn.Module,
        settings: Settings,
        info: DataInfo,
        wanted: int,
        context: Context,
        student: nn.Module | None,
    ) -> tuple[torch.Tensor, torch.Tensor, list[Optimised]]:
        generator = torch.Generator().manual_seed(context.seed)
        sizes = SynthesisBudget(wanted, settings.batch_size).batches
        labels, made = [], []
        for number, size in enumerate(sizes):
            # A few classes cannot match the statistics of the whole set, so each batch has as many
            # classes as possible.
            labels.append(balanced_labels(size, info.num_classes, generator, first=sum(sizes[:number])))
            start = starting_noise(size, info.input_size, generator)

            def progress(done: float, text: str = "", before: int = number) -> None:
                context.progress((before + done) / len(sizes), text)

            made.append(
                optimise_pixels(
                    teacher,
                    start,
                    objective(settings, student is not None),
                    replace(settings.pixels(info), autocast=context.compute.half is torch.bfloat16),
                    targets=labels[-1],
                    student=student,
                    seed=int(torch.randint(2**62, (), generator=generator)),
                    progress=progress,
                )
            )
        return torch.cat([batch.images for batch in made]), torch.cat(labels), made
