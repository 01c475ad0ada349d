"""Training of SLB's layers: temperature, hard tail, parameter groups, batch norms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from autocompress.compat.torch import BatchNormBase
from autocompress.contract import Callback, Context
from autocompress.errors import TrialFailed
from autocompress_slb import start
from autocompress_slb.activations import PactFakeQuantizer
from autocompress_slb.fakequant import SlbFakeQuantizer
from autocompress_slb.settings import Settings
from autocompress_slb.state_norm import calibrate, norms_behind
from autocompress_slb.two_statistics import TwoStatistics

CALIBRATION_BATCH = 64


class SlbCallback(Callback):
    """Runs the search in every layer whose ``weight_quantizer`` is SLB's.

    Args:
        settings: settings of the method.
        context: gives the images on which batch norms are calibrated.
    """

    def __init__(self, settings: Settings, context: Context) -> None:
        self.settings, self._context = settings, context
        self._total = 1
        self._last_step = -1
        self._steps_per_epoch: int | None = None
        self._norms: list[BatchNormBase] = []
        self._two: TwoStatistics | None = None

    # --- start ------------------------------------------------------------------------------------

    def on_start(self, model: nn.Module, total_steps: int) -> None:
        """Makes the logits and prepares the norms.

        Raises:
            TrialFailed: if the logits and their optimizer states do not fit into memory.
        """
        self._total = max(total_steps, 1)
        layers = searched_layers(model)
        lacking = [(name, layer) for name, layer in layers.items() if layer.weight_quantizer.logits is None]
        sizes = [(layer.weight.numel(), layer.weight_quantizer.bits) for _, layer in lacking]
        if sizes and (reason := start.shortage(sizes, layers[lacking[0][0]].weight.device)):
            raise TrialFailed(f"searching for low-bit weights {reason}: give fewer bits or fewer groups to slb")
        for layer in layers.values():
            fake, norm = layer.weight_quantizer, getattr(layer, "norm", None)
            if fake.logits is None:
                fake.start_search(layer.weight)
            if self.settings.scale == "none" and isinstance(norm, BatchNormBase):
                fake.absorb(norm, layer.bias)
        if self.settings.norm == "two_statistics":
            self._two = TwoStatistics(model, list(layers))
        names = norms_behind(model, list(layers))
        self._norms = [module for name, module in model.named_modules() if name in names]

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Groups of logits (without weight decay by default) and of PACT's alphas.

        Alphas have the weight decay of weights. Other scalars have none.
        """
        logits = [fake.logits for fake in _fakes(model) if fake.logits is not None]
        alphas = [module.alpha for module in model.modules() if isinstance(module, PactFakeQuantizer)]
        settings = self.settings
        return [
            {"params": logits, "lr_scale": settings.lr_scale, "weight_decay": settings.weight_decay},
            {"params": alphas},
        ]

    # --- steps ------------------------------------------------------------------------------------

    def before_step(self, model: nn.Module, step: int) -> None:
        """Sets the temperature, and hardens when the tail begins."""
        self._last_step = step
        unit, units = self._position(step)
        schedule = self.settings.temperature
        temperature, hard = schedule.temperature(unit, units), schedule.is_hard(unit, units)
        for fake in _fakes(model):
            fake.temperature, fake.hard = temperature, hard
        if self._two is not None:
            self._two.are_one = hard

    def _position(self, step: int) -> tuple[int, int]:
        """(unit, units) of the schedule, the unit counted from 1.

        The length of an epoch is known when the first one ends. Until then, all steps are in the
        first unit.
        """
        if self.settings.every == "step":
            return step + 1, self._total
        if self._steps_per_epoch is None:
            return 1, self._total
        return step // self._steps_per_epoch + 1, -(-self._total // self._steps_per_epoch)

    def after_backward(self, model: nn.Module, optimizer: Optimizer, step: int) -> None:
        """Sets the gradient of hard logits to zero.

        Without a gradient the optimizer would skip them and keep their momentum, which could later
        change an arg-max of nearly equal logits.
        """
        del optimizer, step
        for fake in _fakes(model):
            if fake.hard and fake.logits is not None:
                fake.logits.grad = None

    def on_epoch_end(self, model: nn.Module, epoch: int) -> None:
        """Calibrates the norms if asked; later training trains the arg-max."""
        if self._steps_per_epoch is None:
            self._steps_per_epoch = max((self._last_step + 1) // (epoch + 1), 1)
        if self.settings.norm == "calibrate_each_epoch":
            self._calibrate(model)

    def on_end(self, model: nn.Module) -> None:
        """Calibrates the norms at the end, if wanted; further training uses the arg-max."""
        if self.settings.norm == "calibrate_end":
            self._calibrate(model)
        if self._two is not None:
            self._two.close()
        for fake in _fakes(model):
            fake.hard = True

    def _calibrate(self, model: nn.Module) -> None:
        # A norm in eval mode was frozen on purpose, and the network was trained with its
        # statistics.
        calibrate(model, [norm for norm in self._norms if norm.training], self._images(model))

    def _images(self, model: nn.Module) -> Iterator[torch.Tensor]:
        if self._context.transfer is None:
            return
        split = self._context.transfer.calibration
        device = next(model.parameters()).device
        wanted = min(self.settings.norm_images, len(split))
        for images, _ in split.subset(wanted, self._context.seed).loader(CALIBRATION_BATCH):
            yield images.to(device)

    # --- pauses -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The length of an epoch; everything else follows from the step."""
        return {"steps_per_epoch": self._steps_per_epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._steps_per_epoch = state["steps_per_epoch"]


def searched_layers(model: nn.Module) -> dict[str, Any]:
    """Layers with SLB's weight quantizer, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(getattr(module, "weight_quantizer", None), SlbFakeQuantizer)
    }


def _fakes(model: nn.Module) -> list[SlbFakeQuantizer]:
    return [module for module in model.modules() if isinstance(module, SlbFakeQuantizer)]
