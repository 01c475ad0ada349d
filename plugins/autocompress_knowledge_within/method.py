"""Data source ``knowledge_within``: makes images by one of three schemes, or by two together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from autocompress import models
from autocompress.contract import Context, DataSource, Params, Space, TransferSet
from autocompress.errors import InvalidRecipe
from autocompress.job import limits_of
from autocompress.models import data_info
from autocompress.synthesis.budget import SynthesisBudget, balanced_labels, starting_noise
from autocompress.synthesis.pixels import Objective, Phase, PixelSettings, optimise_pixels
from autocompress.synthesis.sets import teacher_logits, transfer_set
from autocompress.synthesis.settings import pixel_bounds
from autocompress.synthesis.statistics import norm_layers, reasons_against_statistics
from autocompress.synthesis.terms import class_loss
from autocompress.synthesis.terms_gaussian import batch_norm_divergence, blur_residual
from autocompress.synthesis.view import Term

if TYPE_CHECKING:
    from autocompress.job import Job

SCHEMES = ("bns+inception", "bns", "inception", "gaussian")
DIVERGENCES = ("measured", "recorded")
PRESETS = ("bns+inception", "bns", "gaussian")
"""Choices of ``preset`` for a model with batch norm."""
WITHOUT_NORM = ("inception", "gaussian")
"""Choices of ``preset`` for a model without batch norm."""
AS_PRESET = "preset"
SHIFT = 16
"""In each iteration, the images are shifted by at most 1 / SHIFT of their side."""


class KnowledgeWithin(DataSource):
    """Makes images by one of the paper's three schemes, or by two of them together:

        gaussian       x ~ N(0, I), normalised. Nothing is optimised.
        inception      L_I = mean CE(M(x), y) + lambda_p P(x), with balanced labels y and
                       P(x) = mean ||x - G * x||^2
        bns            L_BNS = mean over layers, mean over channels of KL(N(m, v) || N(r, w))
        bns+inception  L_BNS + gamma mean CE(M(x), y) + lambda_p P(x)

    M is the model, x are the images, CE is the cross-entropy, and G is a Gaussian blur. m and v are
    the mean and variance of the inputs of a batch norm, measured on the images; r and w are those
    that it has recorded. L_BNS treats the images themselves as one more layer, with the recorded
    distribution N(0, 1).

    The direction of the divergence, the layer of the images, the order of averaging and the kernel
    of G (5x5, sigma 1, padded with zeros) are those of the authors' code
    (amishacorns/quantized.pytorch, ``Generator_m.py``). Our own choices are cross-entropy as the
    class term (the authors' is exp(-4e-4 mean logit)), gamma and lambda_p, 500 iterations (theirs
    are 1,000), Adam with learning rate 0.1 falling to 0 by half a cosine, small shifts of the
    views, and clamping of the pixels to the range of an image (except in the scheme "gaussian"). No
    figure of the paper's tables is quoted here.

    For noise, the statistics inside the network differ from the recorded ones. So training on
    images of the scheme "gaussian" must not change batch norms: the transfer set demands
    ``freeze_batch_norm``, as in the training of the authors.

    Outputs of the teacher are not stored, because training computes them for augmented images.

    Parameters (``knowledge_within.`` before each):
        preset: "bns+inception", "bns" or "gaussian"; on a model without batch norm "inception" or
            "gaussian".

    Not searched unless the job says so, since each value needs a set of its own:
        scheme: any of the four, instead of ``preset``. A job can fix it to "inception" for any
            model.
        divergence: "measured", KL(measured || recorded), or "recorded", the other direction.
        gamma: weight of the class term. L_BNS becomes small because it is a mean over channels.
            With a gamma of 1, the class term dominates; with 0.1, both terms become small.
        lambda_p: weight of the smoothness prior.
        lr: learning rate of Adam.
        iterations: number of steps of Adam for each batch.
        images: number of images.
        batch_size: maximum number of images that are made together. Statistics are those of a
            batch, so deep layers need large batches: even for images of the right distribution,
            L_BNS is about 1 / batch.
    """

    name = "knowledge_within"
    version = "2"
    reference = (
        "Haroush et al., The Knowledge Within: Methods for Data-Free Model Compression, CVPR 2020, arXiv 1912.01274"
    )

    def check(self, model: nn.Module, job: Job) -> list[str]:
        """Refuses a model whose batch norms have no usable statistics, if a scheme needs them.

        Two of the four schemes need the recorded statistics of batch norms. A model without batch
        norm is offered only the other two. For a model whose batch norms recorded nothing usable,
        the job must name one of the other two.
        """
        needing = [scheme for scheme in self._schemes_left(model, job) if _needs_norms(scheme)]
        if needing and (reasons := reasons_against_statistics(model)):
            others = " and ".join(f"'{scheme}'" for scheme in WITHOUT_NORM)
            return [f"its scheme '{needing[0]}' needs batch norm, and {reasons[0]}; {others} need none"]
        return []

    def _schemes_left(self, model: nn.Module, job: Job) -> list[str]:
        """Returns the schemes that recipes of ``job`` may have."""
        limits = limits_of(job).values
        left = _texts(limits.get(f"{self.name}.scheme", AS_PRESET))
        if AS_PRESET in left:
            left += _texts(limits.get(f"{self.name}.preset", _presets(model)))
        return left

    def search_space(self, space: Space, model: nn.Module) -> Params:
        """Asks for the preset, and for parameters that a job may fix."""
        presets = _presets(model)
        schemes = SCHEMES if presets == PRESETS else WITHOUT_NORM
        scheme = space.categorical("scheme", [*schemes, AS_PRESET], default=AS_PRESET, structural=False, searched=False)
        if scheme == AS_PRESET:
            scheme = space.categorical("preset", presets, default=presets[0], structural=False)
        params: Params = {
            "scheme": scheme,
            "images": space.integer("images", 1, 100_000, default=1024, structural=False, searched=False),
        }
        if scheme == "gaussian":
            return params
        params |= {
            "batch_size": space.integer("batch_size", 1, 4096, default=128, structural=False, searched=False),
            "iterations": space.integer("iterations", 1, 20_000, default=500, structural=False, searched=False),
            "lr": space.float("lr", 1e-3, 1.0, default=0.1, log=True, structural=False, searched=False),
        }
        if _needs_norms(scheme):
            params["divergence"] = space.categorical(
                "divergence", DIVERGENCES, default="measured", structural=False, searched=False
            )
        if scheme == "bns+inception":
            params["gamma"] = space.float("gamma", 1e-3, 10.0, default=0.1, log=True, structural=False, searched=False)
        if scheme != "bns":
            params["lambda_p"] = space.float("lambda_p", 0.0, 1.0, default=1e-2, structural=False, searched=False)
        return params

    def apply(
        self, teacher: nn.Module, params: Params, context: Context, student: nn.Module | None = None
    ) -> TransferSet:
        """Makes the images in batches. ``context.seed`` is the random seed.

        Raises:
            InvalidRecipe: for a scheme that needs batch norm where the teacher has no usable one.
            UserError, TrialFailed: in the same cases as for ``optimise_pixels``.
        """
        del student
        scheme = params["scheme"]
        if _needs_norms(scheme) and (reasons := reasons_against_statistics(teacher)):
            raise InvalidRecipe(f"the scheme '{scheme}' of {self.name} needs batch norm, and {reasons[0]}")
        wanted = params["images"] if context.images is None else min(params["images"], context.images)
        size = models.input_size(teacher)
        if scheme == "gaussian":
            images = starting_noise(wanted, size, torch.Generator().manual_seed(context.seed))
            context.progress(1.0, "images")
        else:
            images = self._optimised(teacher, params, context, wanted)
        return transfer_set(
            images,
            teacher_logits(teacher, images),
            data_info(teacher),
            demands=("freeze_batch_norm",) if scheme == "gaussian" else (),
            made_by=[self.name, self.version, params],
            stored=False,
            seed=context.seed,
        )

    def _optimised(self, teacher: nn.Module, params: Params, context: Context, wanted: int) -> torch.Tensor:
        info = data_info(teacher)
        generator = torch.Generator().manual_seed(context.seed)
        batches = SynthesisBudget(wanted, params["batch_size"], params["iterations"]).batches
        settings = PixelSettings(
            phases=(Phase(iterations=params["iterations"]),),
            lr=params["lr"],
            jitter=min(info.size) // SHIFT,
            bounds=pixel_bounds(info.mean, info.std),
            autocast=context.compute.half is torch.bfloat16,
        )
        images: list[torch.Tensor] = []
        done = 0
        for size in batches:
            labels = balanced_labels(size, info.num_classes, generator, first=done)
            start = starting_noise(size, info.input_size, generator)

            def progress(fraction: float, text: str = "", done: int = done, size: int = size) -> None:
                context.progress((done + fraction * size) / wanted, text)

            made = optimise_pixels(
                teacher,
                start,
                objective(params),
                settings,
                targets=labels,
                seed=int(torch.randint(2**31, (), generator=generator)),
                progress=progress,
            )
            images.append(made.images)
            done += size
        return torch.cat(images)


def objective(params: Params) -> Objective:
    """Returns the loss of a scheme as weighted terms; :class:`KnowledgeWithin` has the formulas.

    The scheme "gaussian" optimises nothing and has no loss.
    """
    terms: dict[str, tuple[float, Term]] = {}
    scheme = params["scheme"]
    if _needs_norms(scheme):
        terms["bns"] = (1.0, batch_norm_divergence(params["divergence"]))
    if scheme != "bns":
        terms["class"] = (params.get("gamma", 1.0), class_loss)
        terms["blur"] = (params["lambda_p"], blur_residual())
    return terms


def _presets(model: nn.Module) -> tuple[str, ...]:
    # Only the structure decides, because the space of a model must not change when it is trained.
    return PRESETS if norm_layers(model) else WITHOUT_NORM


def _texts(limit: object) -> list[str]:
    """Returns the strings in a limit. The space reports other values as errors."""
    return [value for value in (limit if isinstance(limit, list | tuple) else [limit]) if isinstance(value, str)]


def _needs_norms(scheme: str) -> bool:
    return scheme.startswith("bns")
