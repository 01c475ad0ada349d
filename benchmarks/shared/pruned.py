"""Networks with channels removed, a share of the MACs left: by SCOP's plugin, and by Torch-Pruning itself."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch_pruning as tp
from torch import nn

from autocompress import models
from autocompress.compression import recover
from autocompress.compression.recipe import Replay
from autocompress.compression.trainer import default_device, recalibrate_batch_norm
from autocompress.compression.transfer import user_data
from autocompress.contract import Context, Params, Space, TransferSet
from autocompress.errors import InvalidRecipe
from autocompress.graph import facts
from autocompress.pruning.couplings import couplings
from autocompress_scop.method import LEAST_IMAGES, RECALIBRATION_PIXELS, Scop
from shared.trained import Trained

RECOVERY: Params = {"lr": 2e-3, "distill": 0.5}
"""RECOVER's defaults."""
LARGEST_RATE = 0.95
HALVINGS = 12


def context_of(
    baseline: Trained, *, seed: int, images: int | None = None, transfer: TransferSet | None = None
) -> Context:
    """What methods and RECOVER are given: the teacher, and images to score and train on.

    Args:
        baseline: float.
        seed: of scores and recovery.
        images: of the training split that are used; None for all.
        transfer: in place of the baseline's own data.
    """
    transfer = user_data(baseline.splits, seed) if transfer is None else transfer
    train = transfer.train
    device = default_device()
    return Context(
        input_size=models.input_size(baseline.model),
        transfer=transfer if images is None else replace(transfer, train=train.subset(min(images, len(train)), seed)),
        teacher=copy.deepcopy(baseline.model).to(device).eval(),
        device=device,
        seed=seed,
    )


def uniform(method: Scop, model: nn.Module, rate: float, *, multiple: int = 1, criterion: str = "scop") -> Params:
    """Parameters for one rate in all layers, which may lie between the steps of the space; the method's first mode."""
    values = {"scop.multiple": 1}
    asked = method.search_space(Space(Replay(values), "model", {}).scope("scop"), model)
    rates = dict.fromkeys(asked["rates"], rate)
    return {**asked, "rates": rates, "mode": method.modes[0], "multiple": multiple, "criterion": criterion}


def structure(method: Scop, model: nn.Module, rate: float, multiple: int = 1) -> nn.Module:
    """A copy with the widths of that rate, made without data; its weights mean nothing."""
    context = Context(input_size=models.input_size(model), dry_run=True)
    return method.apply(copy.deepcopy(model), uniform(method, model, rate, multiple=multiple), context)[0]


def left(method: Scop, model: nn.Module, rate: float, multiple: int = 1) -> tuple[float, float]:
    """Shares of parameters and MACs that a rate leaves; 1 where it removes nothing."""
    size = models.input_size(model)
    try:
        small = facts(structure(method, model, rate, multiple), size)
    except InvalidRecipe:
        return 1.0, 1.0
    whole = facts(model, size)
    return small.params / whole.params, small.macs / whole.macs


def nearest(share_of: Callable[[float], float], target: float) -> tuple[float, float]:
    """The rate whose share of the MACs comes nearest to ``target``, and that share; by halving, as shares fall."""
    low, high = 0.0, LARGEST_RATE
    found = (0.0, 1.0)
    for _ in range(HALVINGS):
        rate = (low + high) / 2
        share = share_of(rate)
        found = min(found, (rate, share), key=lambda pair: abs(pair[1] - target))
        low, high = (rate, high) if share > target else (low, rate)
    return found


def removed(method: Scop, model: nn.Module, params: Params, context: Context) -> nn.Module:
    """A copy without the channels; norms recalibrated, not yet recovered. ``context.state`` holds the scores."""
    return method.apply(copy.deepcopy(model).to(context.device), params, context)[0]


def recovered(model: nn.Module, epochs: int, context: Context) -> nn.Module:
    """``model`` after RECOVER with its defaults, trained in place."""
    return recover.run(model, {**RECOVERY, "epochs": epochs}, context, []) if epochs else model.eval()


class TorchPruning:
    """Torch-Pruning's own pruner with its group magnitude, on the layers that the plugin prunes in a mode.

    Args:
        method: whose first mode says which layers are left alone.
        model: the float model; not changed.
    """

    def __init__(self, method: Scop, model: nn.Module) -> None:
        self._model, self._size, mode = model, models.input_size(model), method.modes[0]
        whole = method.reasons(model, mode)
        every = couplings(model, self._size, mode, verify=False)
        self._alone = [layer for coupling in every if coupling.name in whole for layer in coupling.producers]

    def __call__(self, rate: float) -> nn.Module:
        """A copy pruned at one rate for all layers, in eval mode on the CPU; its norms are not recalibrated."""
        model = copy.deepcopy(self._model).cpu().eval().requires_grad_(True)
        modules: dict[str, Any] = dict(model.named_modules())
        tp.pruner.BasePruner(
            model,
            torch.zeros(1, *self._size),
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=rate,
            ignored_layers=[modules[name] for name in self._alone if name in modules],
        ).step()
        return model.eval()

    def share(self, rate: float) -> float:
        """Share of the MACs that a rate leaves."""
        return facts(self(rate), self._size).macs / facts(self._model, self._size).macs

    def removed(self, rate: float, context: Context) -> nn.Module:
        """Pruned, with norms recalibrated on as many images as the plugin takes."""
        assert context.transfer is not None
        pixels = self._size[1] * self._size[2]
        images = max(LEAST_IMAGES, RECALIBRATION_PIXELS // pixels)
        model = self(rate).to(context.device)
        recalibrate_batch_norm(
            model, context.transfer.calibration, images=images, device=context.device, seed=context.seed
        )
        return model.eval()
