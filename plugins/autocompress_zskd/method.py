"""The data source ``zskd``: images for which the teacher gives sampled soft labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from autocompress.contract import Context, DataSource, Params, Space, TransferSet
from autocompress.errors import InvalidRecipe
from autocompress.models import data_info
from autocompress.synthesis.budget import SynthesisBudget
from autocompress.synthesis.pixels import Phase, PixelSettings, optimise_pixels
from autocompress.synthesis.sets import teacher_logits, transfer_set
from autocompress.synthesis.terms import soft_target_loss
from autocompress_zskd.head import head_weight
from autocompress_zskd.sampling import all_soft_labels

if TYPE_CHECKING:
    from autocompress.job import Job

BETAS = {"mixed": (1.0, 0.1), "even": (1.0,), "sharp": (0.1,)}
"""Named choices of the scales beta; "mixed" is that of the paper."""


class Zskd(DataSource):
    """Makes images from the teacher's weights alone (Nayak et al., section 3):

        y ~ Dir(beta alpha^k + epsilon)                      each class k and beta equally often
        x = argmin_x  - sum_j y_j log softmax(T(x) / tau)_j  from noise U(0, 1), in raw pixels

    It needs no batch norm, only a linear last layer, so it also works for transformers. There
    is no image prior: images look like noise, and quality falls with resolution and with the number
    of classes.

    Deliberate differences from the official code: beta has an effect (see ``sampling``); pixels are
    clamped to [0, 1] instead of rescaled by the extremes of the whole batch; each batch has new
    noise and a new optimiser; labels of all classes are mixed in a batch, which changes nothing,
    since the gradient of an image does not depend on other images. The learning rate is constant,
    as in the official code.

    Soft targets are not stored. Training augments the images and runs the teacher on each view, as
    in the official code. The paper has one temperature tau for synthesis and training, 20; here it
    is 4 for both. Labels are the arg-max of the teacher.

    The images match no statistics, so the set demands ``freeze_batch_norm``.

    Parameters (``zskd.`` before each):
        betas: "mixed" (1 and 0.1, half of the images each; the paper), "even" (1) or "sharp" (0.1).

    Not searched unless the job says so, since each value needs a set of its own:
        beta_scale: factor on every beta. With a thousand classes, a row of alpha has a sum of
            hundreds, and draws are nearly flat; a factor of 10 / classes avoids this.
        tau: temperature of the synthesis. With the paper's 20 a target of 0.9 among ten classes
            needs a logit 88 above the others, which small teachers cannot give.
        lr: learning rate of Adam, in raw pixels.
        iterations: number of steps of Adam for each batch.
        images: number of images. The paper has 24,000 for MNIST and 40,000 for CIFAR-10.
        batch_size: maximum number of images that are made together.
    """

    name = "zskd"
    version = "1"
    reference = "Nayak et al., Zero-Shot Knowledge Distillation in Deep Networks, ICML 2019, arXiv 1905.08114"

    def check(self, model: nn.Module, job: Job) -> list[str]:
        """Checks that there is a linear last layer with a row for each class."""
        del job
        try:
            head_weight(model)
        except ValueError as error:
            return [str(error)]
        return []

    def search_space(self, space: Space, model: nn.Module) -> Params:
        """The scales, and parameters that a job may fix."""
        del model
        return {
            "betas": space.categorical("betas", list(BETAS), default="mixed", structural=False),
            "beta_scale": space.float("beta_scale", 1e-3, 10.0, default=1.0, structural=False, searched=False),
            "tau": space.float("tau", 1.0, 20.0, default=4.0, log=True, structural=False, searched=False),
            "lr": space.float("lr", 1e-3, 0.1, default=0.01, log=True, structural=False, searched=False),
            "iterations": space.integer("iterations", 1, 20_000, default=1500, structural=False, searched=False),
            "images": space.integer("images", 1, 100_000, default=1024, structural=False, searched=False),
            "batch_size": space.integer("batch_size", 1, 4096, default=128, structural=False, searched=False),
        }

    def apply(
        self, teacher: nn.Module, params: Params, context: Context, student: nn.Module | None = None
    ) -> TransferSet:
        """Makes the images, in batches, by ``context.seed``.

        Raises:
            InvalidRecipe: where the teacher has no linear last layer.
            UserError, TrialFailed: as ``optimise_pixels``.
        """
        del student
        try:
            weight = head_weight(teacher)
        except ValueError as error:
            raise InvalidRecipe(f"{self.name} cannot be used: {error}") from None
        wanted = params["images"] if context.images is None else min(params["images"], context.images)
        betas = [params["beta_scale"] * beta for beta in BETAS[params["betas"]]]
        targets = all_soft_labels(weight, wanted, betas, np.random.default_rng(context.seed))
        images = impressions(teacher, targets, params, context)
        return transfer_set(
            images,
            teacher_logits(teacher, images),
            data_info(teacher),
            temperature=params["tau"],
            demands=("freeze_batch_norm",),
            made_by=[self.name, self.version, params],
            stored=False,
            seed=context.seed,
        )


def impressions(teacher: nn.Module, targets: torch.Tensor, params: Params, context: Context) -> torch.Tensor:
    """One image per row of ``targets`` ``(N, K)``: float32 ``(N, C, H, W)``, normalised, CPU.

    Args:
        teacher: stays as it is.
        targets: probabilities.
        params: tau, lr, iterations and batch_size.
        context: seed and progress.
    """
    info = data_info(teacher)
    generator = torch.Generator().manual_seed(context.seed)
    settings = PixelSettings(
        phases=(Phase(iterations=params["iterations"]),),
        lr=params["lr"],
        schedule="constant",
        warmup=0,
        bounds=((0.0,) * info.channels, (1.0,) * info.channels),
        normalise=(info.mean, info.std),
        autocast=context.compute.half is torch.bfloat16,
    )
    images: list[torch.Tensor] = []
    done = 0
    for size in SynthesisBudget(len(targets), params["batch_size"]).batches:

        def progress(fraction: float, text: str = "", done: int = done, size: int = size) -> None:
            context.progress((done + fraction * size) / len(targets), text)

        made = optimise_pixels(
            teacher,
            torch.rand(size, *info.input_size, generator=generator),
            {"soft targets": (1.0, soft_target_loss(params["tau"]))},
            settings,
            targets=targets[done : done + size],
            seed=context.seed,
            progress=progress,
        )
        images.append(made.images)
        done += size
    return torch.cat(images)
