"""Gradient descent on the pixels of a batch of images, with a frozen teacher."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from autocompress.errors import TrialFailed, UserError
from autocompress.models import device_of
from autocompress.synthesis.frozen import frozen
from autocompress.synthesis.settings import Phase, PixelSettings, learning_rate, phase_deadlines
from autocompress.synthesis.statistics import NormInput, watching_norms
from autocompress.synthesis.view import Term, View

Objective = Mapping[str, tuple[float, Term]]
"""Weight and term by name."""

__all__ = ["Objective", "Optimised", "Phase", "PixelSettings", "optimise_pixels"]


@dataclass(frozen=True)
class Optimised:
    """The result for one batch.

    Attributes:
        images: the iterate with the lowest objective in the last phase, float32 ``(B, C, H, W)`` on
            the CPU, normalised as for the teacher.
        losses: losses of that iterate: each term without its weight, and "total" with weights.
        iterations: number of iterations in all phases.
        seconds: seconds of all iterations.
    """

    images: torch.Tensor
    losses: dict[str, float]
    iterations: int
    seconds: float


def optimise_pixels(
    teacher: nn.Module,
    start: torch.Tensor,
    objective: Objective,
    settings: PixelSettings,
    *,
    targets: torch.Tensor | None = None,
    student: nn.Module | None = None,
    seed: int,
    progress: Callable[..., None] | None = None,
    pause: Callable[[], None] | None = None,
    deadline: float | None = None,
) -> Optimised:
    """Optimises the pixels of ``start`` for ``objective`` by Adam (Yin et al., section 3).

    Runs on the device of the teacher. Parameters, buffers, gradients and modes of teacher and
    student are not changed, even after an interruption. All random numbers depend on ``seed``.

    Args:
        teacher: the classifier; evaluated in eval mode.
        start: pixels, float ``(B, C, H, W)``; not changed.
        objective: weighted terms; those of weight 0 are left out.
        settings: phases, schedule, views.
        targets: int64 labels ``(B,)`` or float probabilities ``(B, K)`` for the terms.
        student: the student in training, for terms that need it, on the device of the teacher; in
            eval mode meanwhile.
        seed: random seed of shifts and flips.
        progress: called with the finished fraction (0 to 1) and a text.
        pause: called between iterations; may wait.
        deadline: seconds after which no iteration begins. Each phase has a share of the time, and
            at least one iteration.

    Raises:
        UserError: if the outputs of the teacher for the starting images are NaN or infinite.
        TrialFailed: if the objective becomes NaN or infinite later.
    """
    device, started = device_of(teacher), time.perf_counter()
    terms = {name: (float(weight), term) for name, (weight, term) in objective.items() if weight}
    if not terms:
        raise ValueError("the objective has no term with a weight")
    x = start.detach().to(device, torch.float32, copy=True).requires_grad_()
    targets = None if targets is None else targets.to(device)
    viewer = _Viewer(settings, device, torch.Generator().manual_seed(seed))
    viewer.project(x)
    ends = phase_deadlines(settings.phases, deadline)
    best, done = _Best(), 0
    with ExitStack() as stack:
        stack.enter_context(frozen(teacher))
        if student is not None:
            stack.enter_context(frozen(student))
        norms = stack.enter_context(watching_norms(teacher))
        for phase, end in zip(settings.phases, ends, strict=True):
            optimizer = torch.optim.Adam([x], lr=settings.lr, betas=settings.betas, eps=settings.eps)
            # Each phase begins again, because objectives at two resolutions cannot be compared.
            # Otherwise, a low objective of the pooled phase would select images that are bad at
            # full resolution. The official code has this fault.
            best = _Best()
            for step in range(phase.iterations):
                if pause is not None:
                    pause()
                view = _look(viewer(x, phase), teacher, student, norms, targets, settings)
                values = {name: term(view) for name, (_, term) in terms.items()}
                total = torch.stack([weight * values[name] for name, (weight, _) in terms.items()]).sum()
                best.keep(_finite(total, values, view, done), x, values)
                _step(optimizer, x, total, learning_rate(settings, step, phase.iterations))
                viewer.project(x)
                done += 1
                if progress is not None:
                    progress(done / settings.iterations, f"images: objective {best.total:.3g}")
                if time.perf_counter() - started >= end:
                    break
    assert best.images is not None
    losses = {**{name: float(value) for name, value in best.values.items()}, "total": best.total}
    return Optimised(viewer.normalised(best.images).cpu(), losses, done, time.perf_counter() - started)


def _look(
    z: torch.Tensor,
    teacher: nn.Module,
    student: nn.Module | None,
    norms: Sequence[NormInput],
    targets: torch.Tensor | None,
    settings: PixelSettings,
) -> View:
    # No float16: gradients of statistics are divided by the number of positions in the batch, and
    # most would underflow to 0.
    half = settings.autocast and z.device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    with torch.autocast(z.device.type, torch.bfloat16, enabled=half):
        logits = teacher(z).float()
        student_logits = None if student is None else student(z).float()
    return View(z, logits, tuple(norms), targets, student_logits)


def _finite(total: torch.Tensor, values: Mapping[str, torch.Tensor], view: View, done: int) -> float:
    found = float(total.detach())
    if math.isfinite(found):
        return found
    if done == 0 and not torch.isfinite(view.logits).all():
        raise UserError("the outputs of the teacher are not finite numbers", "check its checkpoint")
    names = [name for name, value in values.items() if not math.isfinite(float(value.detach()))] or ["total"]
    raise TrialFailed(
        f"making images failed: '{names[0]}' is {found} at iteration {done}; a lower learning rate may help"
    )


def _step(optimizer: torch.optim.Optimizer, x: torch.Tensor, total: torch.Tensor, lr: float) -> None:
    # total.backward() would add to the gradients of a student in training.
    (x.grad,) = torch.autograd.grad(total, x)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()


class _Best:
    """The iterate with the lowest objective so far: its images and values."""

    def __init__(self) -> None:
        self.total = math.inf
        self.images: torch.Tensor | None = None
        self.values: dict[str, torch.Tensor] = {}

    def keep(self, total: float, x: torch.Tensor, values: Mapping[str, torch.Tensor]) -> None:
        if total < self.total:
            self.total = total
            self.images = x.detach().clone()  # x changes in the next step
            self.values = {name: value.detach() for name, value in values.items()}


class _Viewer:
    """Transforms pixels to the input of the teacher."""

    def __init__(self, settings: PixelSettings, device: torch.device, generator: torch.Generator) -> None:
        self.settings, self.generator = settings, generator
        self.bounds = None if settings.bounds is None else [_per_channel(v, device) for v in settings.bounds]
        self.scale = None if settings.normalise is None else [_per_channel(v, device) for v in settings.normalise]

    def __call__(self, x: torch.Tensor, phase: Phase) -> torch.Tensor:
        """``x`` normalised, pooled, shifted and maybe mirrored, equally for the whole batch."""
        z = self.normalised(x)
        if phase.pool > 1:
            z = F.avg_pool2d(z, phase.pool)
        shift = self.settings.jitter // phase.pool
        if shift:
            down, right = torch.randint(-shift, shift + 1, (2,), generator=self.generator).tolist()
            z = torch.roll(z, (down, right), (2, 3))
        if self.settings.flip and torch.rand((), generator=self.generator) > 0.5:
            z = z.flip(3)
        return z

    def normalised(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` normalised for the teacher."""
        return x if self.scale is None else (x - self.scale[0].to(x.device)) / self.scale[1].to(x.device)

    @torch.no_grad()
    def project(self, x: torch.Tensor) -> None:
        """Clamps pixels to their bounds, in place."""
        if self.bounds is not None:
            x.clamp_(*self.bounds)


def _per_channel(values: Sequence[float], device: torch.device) -> torch.Tensor:
    return torch.as_tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1)
