"""Control scales: the share of a real feature map, relative to its knockoff, for the classifier.

    Ahat^l = beta^l A^l + (1 - beta^l) A~^l        real stream, beta^l in [0, 1], one per channel
    A~^l   = A~^l                                  knockoff stream: never receives real features
    minimise over beta only   mean_i CE( f(X_i, X~_i; beta), Y_i )

Real images and knockoffs are the two halves of one batch of 2N. W and the affine part of every norm
are frozen. As in the official code, norms use the statistics of that batch, because mixing lowers
variances, and running statistics would not fit.

Deliberate differences from the official code: everything is done on a copy, so that running
statistics of the given model do not change; dropout and stochastic depth are off, because they only
add noise; predictions of the teacher replace labels that do not come from the user.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import nn

from autocompress.compat.torch import BatchNormBase
from autocompress.data import Split
from autocompress.errors import TrialFailed
from autocompress.task import Classification, Task
from autocompress_scop.knockoffs import Knockoffs

BETAS = (0.5, 0.9)
START = 0.5
MIXINGS = ("pre_bn", "post_bn")
LARGEST_BATCH, SMALLEST_BATCH, STEPS = 128, 32, 32
"""Largest and smallest batch, and minimum number of steps per epoch.

Small data sets get small batches, because Adam moves a beta by at most ``lr`` per step.
"""


@dataclass(frozen=True)
class ScaleSettings:
    """Settings for learning the control scales.

    Attributes:
        epochs: passes over the images (paper: 20 on ImageNet). On glyphs, four are better than one
            before recovery (MobileNetV2 at half its MACs: 29 % instead of 13 %), but not after
            recovery.
        lr: learning rate of Adam, constant, with betas (0.5, 0.9).
        mixing: "pre_bn", on the raw output of the convolution (the official code), or "post_bn",
            behind its norm and before the activation (the paper's figure shows features).
    """

    epochs: int = 1
    lr: float = 0.004
    mixing: str = "pre_bn"


class ControlScale(nn.Module):
    """Mixes the halves of a batch: ``concat[beta * real + (1 - beta) * knockoff, knockoff]``.

    Args:
        channels: M.
        dim: dimension of the channels: 1 for maps, -1 for the output of a linear layer.
    """

    def __init__(self, channels: int, dim: int = 1) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.full((channels,), START))
        self.dim = dim

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        """``(2N, ...)`` -> ``(2N, ...)``: the first half real, the second knockoff."""
        real, knockoff = u.chunk(2)
        shape = [1] * u.ndim
        shape[self.dim] = -1
        beta = self.beta.view(shape)
        return torch.cat([beta * real + (1 - beta) * knockoff, knockoff])


@contextmanager
def controlled(
    model: nn.Module, pairs: Mapping[str, str | None], mixing: str = "pre_bn"
) -> Iterator[dict[str, ControlScale]]:
    """Puts a control scale behind each layer of ``pairs`` by hooks, and removes all at the end.

    Args:
        model: takes batches of 2N within the block; its modules, parameters and names do not
            change.
        pairs: layer -> the norm directly behind it, or None.
        mixing: one of :data:`MIXINGS`; a layer without norm mixes its own output either way.

    Raises:
        ValueError: for another mixing.
    """
    if mixing not in MIXINGS:
        raise ValueError(f"mixing must be one of {', '.join(MIXINGS)}, not {mixing!r}")
    scales: dict[str, ControlScale] = {}
    handles: list[Any] = []
    for name, norm_name in pairs.items():
        layer = model.get_submodule(name)
        norm = model.get_submodule(norm_name) if norm_name else None
        scale = ControlScale(int(_width(layer)), -1 if isinstance(layer, nn.Linear) else 1)
        scales[name] = scale.to(next(layer.parameters()).device)
        if mixing == "post_bn" and isinstance(norm, BatchNormAct2d):
            # its activation is inside, so the input of the activation is mixed
            handles.append(norm.act.register_forward_pre_hook(_before(scale)))
        else:
            place = layer if norm is None or mixing == "pre_bn" else norm
            handles.append(place.register_forward_hook(_behind(scale)))
    try:
        yield scales
    finally:
        for handle in handles:
            handle.remove()


def learn(
    model: nn.Module,
    pairs: Mapping[str, str | None],
    split: Split,
    knockoffs: Knockoffs,
    settings: ScaleSettings | None = None,
    *,
    labelled: bool = True,
    device: torch.device | None = None,
    seed: int = 0,
    progress: Callable[..., None] | None = None,
) -> dict[str, torch.Tensor]:
    """Learns one control scale for each channel.

    Args:
        model: the trained network; not changed.
        pairs: as in :func:`controlled`.
        split: images, with labels if ``labelled``; otherwise predictions of the network for the
            real images are used.
        knockoffs: X -> X~.
        settings: settings of learning.
        device: where torch computes; None for the CPU.
        seed: random seed of order, augmentation and knockoffs.
        progress: called with the finished fraction and a word.

    Returns:
        beta by layer, float32 ``(M,)`` on the CPU, each in [0, 1]; exactly 0.5 with ``epochs`` 0.

    Raises:
        TrialFailed: if the loss is not a finite number.
    """
    settings = settings or ScaleSettings()
    device = device or torch.device("cpu")
    teacher = None if labelled else copy.deepcopy(model).to(device).eval()
    model = copy.deepcopy(model).to(device).requires_grad_(False)
    batch_statistics(model)
    generator = torch.Generator().manual_seed(seed)
    size = max(1, min(LARGEST_BATCH, max(SMALLEST_BATCH, len(split) // STEPS), len(split)))
    total = settings.epochs * math.ceil(len(split) / size)
    with controlled(model, pairs, settings.mixing) as scales:
        optimizer = torch.optim.Adam([scale.beta for scale in scales.values()], lr=settings.lr, betas=BETAS)
        step = 0
        for epoch in range(settings.epochs):
            for images, labels in split.loader(size, shuffle=True, seed=seed + epoch, augment=split.task.augments):
                images, labels = images.to(device), labels.to(device)
                loss = control_loss(model, images, knockoffs(images, generator), labels, teacher, split.task)
                if not math.isfinite(float(loss.detach())):
                    raise TrialFailed(f"the loss of the control scales is {float(loss.detach())} at step {step}")
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                clamp(scales)
                step += 1
                if progress is not None:
                    progress(step / total, "control scales")
    return {name: scale.beta.detach().float().cpu() for name, scale in scales.items()}


def control_loss(
    model: nn.Module,
    images: torch.Tensor,
    knockoffs: torch.Tensor,
    labels: torch.Tensor,
    teacher: nn.Module | None = None,
    task: Task | None = None,
) -> torch.Tensor:
    """Mean cross-entropy of the real stream, scalar; ``model`` is a controlled one.

    With a ``teacher``, its predictions for the real images replace the labels. Another ``task``
    than classification has its own loss.
    """
    outputs = model(torch.cat([images, knockoffs]))[: len(images)].float()
    if teacher is None:
        return F.cross_entropy(outputs, labels) if task is None else task.loss(outputs, labels)
    with torch.no_grad():
        answers = teacher(images).float()
    if task is None or isinstance(task, Classification):
        return F.cross_entropy(outputs, answers.softmax(1))
    return task.divergences(answers, outputs).mean()


@torch.no_grad()
def clamp(scales: Mapping[str, ControlScale]) -> None:
    """Limits every beta to [0, 1]."""
    for scale in scales.values():
        scale.beta.clamp_(0, 1)


def batch_statistics(model: nn.Module) -> None:
    """Eval mode, but batch norms use statistics of the batch and keep their running ones."""
    model.eval()
    for module in model.modules():
        if isinstance(module, BatchNormBase):
            module.train()
            module.momentum = 0.0


def _width(layer: nn.Module) -> int:
    return int(getattr(layer, "out_channels", getattr(layer, "out_features", 0)))


def _behind(scale: ControlScale) -> Callable[..., torch.Tensor]:
    return lambda _module, _inputs, output: scale(output)


def _before(scale: ControlScale) -> Callable[..., tuple[Any, ...]]:
    return lambda _module, inputs: (scale(inputs[0]), *inputs[1:])
