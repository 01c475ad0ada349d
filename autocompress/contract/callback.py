"""Callback: hooks of a method in the training of its layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from torch.optim import Optimizer


class Callback:
    """Hooks of the engine's trainer, all optional.

    The callbacks of every method that was applied run in every later training. Each training (a
    recovery, a rung, QUANTIZE) gets new callbacks, and counts its steps and epochs from 0.
    """

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Optimizer groups for parameters that need other settings.

        A group is ``{"params": [...], "weight_decay": 0.0, "lr_scale": 1.0}``. All other parameters
        are in the groups of the trainer. With ``"optimizer": "sgd"`` a group is always updated by
        SGD with momentum. With ``"clip": False`` its gradients are not clipped.
        """
        del model
        return []

    def taps(self) -> list[str]:
        """Names of modules with outputs that ``loss`` needs.

        The outputs of the student are recorded, and those of the teacher if it has the module.
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
        """An additional scalar loss term from the tapped features; None for no term."""
        del student, teacher
        return None

    def after_backward(self, model: nn.Module, optimizer: Optimizer, step: int) -> None:
        """Called between backward pass and optimizer step: after unscaling, before clipping."""

    def on_epoch_end(self, model: nn.Module, epoch: int) -> None:
        """After each epoch, counted from 0."""

    def on_end(self, model: nn.Module) -> None:
        """After the last step."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and JSON values for continuing a paused training."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the result of :meth:`state_dict`."""
