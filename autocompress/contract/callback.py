"""Callback: how a method takes part in the training of its layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from torch.optim import Optimizer


class Callback:
    """Hooks of the engine's trainer, all optional.

    The callbacks of every method applied so far run in every later training; schedules run over the
    full budget, whatever rung the trial is on."""

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Optimizer groups for parameters that need other settings.

        A group is ``{"params": [...], "weight_decay": 0.0, "lr_scale": 1.0}``. Parameters
        that no callback claims are in the trainer's own groups. With ``"optimizer": "sgd"``
        a group is always updated by SGD with momentum; with ``"clip": False`` its gradients
        are not clipped.
        """
        del model
        return []

    def taps(self) -> list[str]:
        """Names of modules whose outputs ``loss`` needs.

        Outputs of the student are recorded, and of the teacher where it has that module.
        """
        return []

    def on_start(self, model: nn.Module, total_steps: int) -> None:
        """Before the first step."""

    def before_step(self, model: nn.Module, step: int) -> None:
        """Before a step's forward pass."""

    def loss(
        self,
        student: Mapping[str, torch.Tensor],
        teacher: Mapping[str, torch.Tensor],
    ) -> torch.Tensor | None:
        """An extra loss term, scalar, from the tapped features; None for none."""
        del student, teacher
        return None

    def after_backward(self, model: nn.Module, optimizer: Optimizer, step: int) -> None:
        """Between backward and optimizer step: after unscaling, before clipping and decay."""

    def on_epoch_end(self, model: nn.Module, epoch: int) -> None:
        """After each epoch, counted from 0."""

    def on_end(self, model: nn.Module) -> None:
        """After the last step."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and JSON values that a paused training needs."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The reverse of :meth:`state_dict`."""
