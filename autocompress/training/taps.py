"""Taps: forward hooks that record the outputs of the modules that callbacks need."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Features:
    """Outputs of the tapped modules in the current step, by module name."""

    student: dict[str, torch.Tensor] = field(default_factory=dict)
    teacher: dict[str, torch.Tensor] = field(default_factory=dict)


@contextmanager
def tapped(student: nn.Module, teacher: nn.Module | None, names: Sequence[str]) -> Iterator[Features]:
    """Records outputs of the modules ``names`` of the student, and of the teacher if it has them.

    The hooks are removed afterwards.

    Raises:
        ValueError: if the student has no such module.
    """
    features = Features()
    handles = []
    for model, kept in ((student, features.student), (teacher, features.teacher)):
        modules = dict(model.named_modules()) if model is not None and names else {}
        handles += [modules[name].register_forward_hook(_keeper(kept, name)) for name in names if name in modules]
    try:
        if missing := [name for name in names if name not in dict(student.named_modules())]:
            raise ValueError(f"a callback needs the output of '{missing[0]}', which the model does not have")
        yield features
    finally:
        for handle in handles:
            handle.remove()


def _keeper(kept: dict[str, torch.Tensor], name: str) -> Callable[[nn.Module, Any, torch.Tensor], None]:
    def keep(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        kept[name] = output

    return keep
