"""Networks with removed channels at a share of the MACs, by the engine and by Torch-Pruning."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp
from torch import nn

from autocompress import models
from autocompress.channels.couplings import couplings
from autocompress.channels.removal import remove
from autocompress.compression import prune
from autocompress.compression.prune_repair import LEAST_RECALIBRATION, RECALIBRATION_PIXELS, Structural
from autocompress.compute import Compute
from autocompress.contract import Context, Params, Pruner, Space, TransferSet
from autocompress.errors import InvalidRecipe
from autocompress.graph import facts
from autocompress.opened.transfer import user_data
from autocompress.recipes.choosers import Replay
from autocompress.recipes.pruning import Pruning, kept_whole, prunable
from autocompress.recipes.recipe import params_of
from autocompress.store import Store
from autocompress.training import default_device, recalibrate_batch_norm, recover
from autocompress_scop import Scop
from autocompress_simple_pruners import BatchNormScale, Magnitude, Random
from shared.trained import Trained

CRITERIA: Mapping[str, Pruner] = {
    "scop": Scop(),
    "magnitude": Magnitude(),
    "bn-scale": BatchNormScale(),
    "random": Random(),
}
"""The criteria that SCOP is compared with, by the name of a row."""
RECOVERY: Params = {"lr": 2e-3, "distill": 0.5}
"""The defaults of RECOVER."""
LARGEST_RATE = 0.95
HALVINGS = 12


def context_of(
    baseline: Trained, *, seed: int, images: int | None = None, transfer: TransferSet | None = None
) -> Context:
    """What methods and RECOVER are given: the teacher, and images to score and train on.

    Args:
        baseline: the float network.
        seed: random seed of scores and recovery.
        images: number of training images that are used; None for all.
        transfer: images in place of the data of the baseline.
    """
    transfer = user_data(baseline.splits, seed) if transfer is None else transfer
    train = transfer.train
    device = default_device()
    return Context(
        input_size=models.input_size(baseline.model),
        transfer=transfer if images is None else replace(transfer, train=train.subset(min(images, len(train)), seed)),
        teacher=copy.deepcopy(baseline.model).to(device).eval(),
        compute=Compute.on(device),
        seed=seed,
    )


def uniform(pruner: Pruner, model: nn.Module, rate: float, mode: str, multiple: int = 1) -> Pruning:
    """What a recipe would ask.

    The same rate in all layers, which may lie between the steps of the space.

    Args:
        pruner: orders the channels, with its default parameters.
        model: the baseline, in eval mode; not changed.
        rate: share of the channels to remove.
        mode: mode of removal.
        multiple: numbers of kept channels are multiples of it.
    """
    keep = {coupling.name: 1.0 - rate for coupling in prunable(model, mode)}
    return Pruning(pruner.name, params_of(pruner, Space(Replay({})), model), keep, mode, multiple)


def structure(model: nn.Module, rate: float, mode: str, multiple: int = 1) -> nn.Module:
    """A copy with the widths of this rate, made without data. Its weights mean nothing."""
    asked, size = uniform(Magnitude(), model, rate, mode, multiple), models.input_size(model)
    cut = prune.decide(prune.affected(model, model, asked, []), model, asked, None)
    return remove(copy.deepcopy(model), cut.keep, size, mode, couplings=cut.couplings).eval()


def left(model: nn.Module, rate: float, mode: str, multiple: int = 1) -> tuple[float, float]:
    """Shares of parameters and MACs that a rate keeps; 1 if it removes nothing."""
    size = models.input_size(model)
    try:
        small = facts(structure(model, rate, mode, multiple), size)
    except InvalidRecipe:
        return 1.0, 1.0
    whole = facts(model, size)
    return small.params / whole.params, small.macs / whole.macs


def nearest(share_of: Callable[[float], float], target: float) -> tuple[float, float]:
    """The rate whose share of the MACs is nearest to ``target``, and that share, by bisection."""
    low, high = 0.0, LARGEST_RATE
    found = (0.0, 1.0)
    for _ in range(HALVINGS):
        rate = (low + high) / 2
        share = share_of(rate)
        found = min(found, (rate, share), key=lambda pair: abs(pair[1] - target))
        low, high = (rate, high) if share > target else (low, rate)
    return found


def removed(pruner: Pruner, model: nn.Module, asked: Pruning, context: Context) -> nn.Module:
    """A copy without the channels.

    Nothing is refitted, norms are recalibrated, and it is not yet recovered.

    Args:
        pruner: the pruner in ``asked``; ``context.state`` has its state.
        model: the baseline; not changed.
        asked: parameters of PRUNE.
        context: a context with images and teacher.
    """
    with tempfile.TemporaryDirectory() as folder:
        stages = Structural(model, "baseline", [], Store(Path(folder)), context.seed)
        whole = copy.deepcopy(model).to(context.device)
        return stages.run(whole, asked, {"fit": "none"}, pruner, context, {}, untouched=True)[0]


def recovered(model: nn.Module, epochs: int, context: Context) -> nn.Module:
    """``model`` after RECOVER with its defaults. It is trained in place."""
    return recover(model, {**RECOVERY, "epochs": epochs}, context, []) if epochs else model.eval()


class TorchPruning:
    """Torch-Pruning's pruner with group magnitude, on the layers that the engine prunes.

    Args:
        model: the float model, in eval mode; not changed.
        mode: mode of removal; it decides which layers are not pruned.
    """

    def __init__(self, model: nn.Module, mode: str) -> None:
        self._model, self._size = model, models.input_size(model)
        whole = kept_whole(model, mode)
        every = couplings(model, self._size, mode, verify=False)
        self._alone = [layer for coupling in every if coupling.name in whole for layer in coupling.producers]

    def __call__(self, rate: float) -> nn.Module:
        """A copy pruned with one rate for all layers, in eval mode on the CPU.

        Its norms are not recalibrated.
        """
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
        """The share of the MACs that a rate keeps."""
        return facts(self(rate), self._size).macs / facts(self._model, self._size).macs

    def removed(self, rate: float, context: Context) -> nn.Module:
        """A pruned copy, whose norms are recalibrated on as many images as in the engine."""
        assert context.transfer is not None
        pixels = self._size[1] * self._size[2]
        images = max(LEAST_RECALIBRATION, RECALIBRATION_PIXELS // pixels)
        model = self(rate).to(context.device)
        recalibrate_batch_norm(
            model, context.transfer.calibration, images=images, device=context.device, seed=context.seed
        )
        return model.eval()
