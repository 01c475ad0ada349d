"""View: the data of one iteration for the terms of an objective."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from autocompress.synthesis.statistics import NormInput


@dataclass(frozen=True)
class View:
    """One forward pass of the teacher.

    Attributes:
        images: input of the teacher, after pooling, shift and flip: float ``(B, C, H, W)``,
            normalised.
        logits: logits of the teacher, float32 ``(B, K)``.
        norms: statistics of inputs of its batch norms, in network order; empty if it has none.
        targets: int64 labels ``(B,)`` or float32 probabilities ``(B, K)``, if any.
        student_logits: float32 ``(B, K)`` where there is a student.
    """

    images: torch.Tensor
    logits: torch.Tensor
    norms: Sequence[NormInput] = ()
    targets: torch.Tensor | None = None
    student_logits: torch.Tensor | None = None


Term = Callable[[View], torch.Tensor]
"""One term of an objective: maps a view to a scalar with gradient."""
