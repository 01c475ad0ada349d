"""Candidates of one baseline by PRUNE and REPAIR, at any share of its multiply-adds."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autocompress import models
from autocompress.channels.known import fixed_couplings
from autocompress.compression import prune, repair
from autocompress.compression.prune_repair import Structural
from autocompress.contract import Context, LayerSpec, Pruner, Space, manager
from autocompress.graph import facts
from autocompress.opened.transfer import user_data
from autocompress.recipes.choosers import Replay
from autocompress.recipes.pruning import Pruning, prunable
from autocompress.recipes.recipe import params_of
from autocompress.store import Store
from autocompress.training import logits, recover
from shared.trained import Trained

HALVINGS = 14
QUARTER = 0.25


@dataclass
class SearchableJob:
    """One baseline, its data, and the two stages.

    Attributes:
        baseline: the trained network.
        seed: random seed of images, orders and training.
        folder: folder of the store, in which orders and moments are kept.
    """

    baseline: Trained
    seed: int = 0
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp()))

    def __post_init__(self) -> None:
        self.structural = Structural(self.baseline.model, "benchmark", [], Store(self.folder), self.seed)
        transfer = user_data(self.baseline.splits, self.seed)
        size = models.input_size(self.baseline.model)
        teacher = copy.deepcopy(self.baseline.model).eval()
        self.context = Context(input_size=size, transfer=transfer, teacher=teacher, seed=self.seed)

    def structural_with(self, specs: Sequence[LayerSpec]) -> Structural:
        """The two stages, for networks with layers of a plugin."""
        return replace(self.structural, specs=specs)

    @cached_property
    def teacher_logits(self) -> torch.Tensor:
        """The logits of the baseline on the validation split."""
        return logits(self.baseline.model, self.baseline.splits.val)

    def widths(self, share: float, mode: str, multiple: int = 1, heads: float | None = None) -> Mapping[str, float]:
        """Equal shares of channels of ``mode`` that leave ``share`` of the multiply-adds.

        ``heads`` is the share of attention heads that stay; None: as of all channels.
        """
        model, low, high = self.baseline.model, 0.02, 1.0
        whole = facts(model, self.context.input_size)
        every = fixed_couplings(model, self.context.input_size, mode)
        offered = prunable(model, mode)
        found: tuple[float, dict[str, float]] = (9.0, {})
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            keep = {coupling.name: heads if coupling.heads and heads is not None else middle for coupling in offered}
            cut = prune.decide(every, model, Pruning("", {}, keep, mode, multiple), None)
            left = repair.macs_left(whole, cut) / whole.macs
            found = min(found, (abs(left - share), keep), key=lambda pair: pair[0])
            low, high = (low, (low + high) / 2) if left > share else ((low + high) / 2, high)
        return found[1]

    def row(
        self,
        pruner: str,
        keep: Mapping[str, float],
        mode: str,
        fit: str,
        *,
        params: Mapping[str, Any] | None = None,
        images: int = 512,
        train: bool = False,
    ) -> dict[str, Any]:
        """Accuracy, KL and seconds of one candidate.

        Args:
            pruner: name of the pruner.
            keep: share of the channels to keep, by coupling.
            mode: mode of the couplings.
            fit: "one-shot", "sequential", "auto", "none" (norms recalibrated), or "nothing" (not
                even that).
            params: parameters of the pruner.
            images: number of images for repair.
            train: whether a quarter of an epoch of distillation follows.
        """
        method = manager().method(pruner)
        assert isinstance(method, Pruner)
        defaults = params_of(method, Space(Replay({})), self.baseline.model)
        asked = Pruning(pruner, {**defaults, **(params or {})}, keep, mode, 1)
        seconds: dict[str, float] = {}
        context = self.context
        if method.prepares:
            state = method.prepare(copy.deepcopy(self.baseline.model), replace(context, params={}))
            context = replace(context, state=state)
        if fit == "nothing":
            demands = frozenset({"freeze_batch_norm"})
            assert context.transfer is not None
            context = replace(context, transfer=replace(context.transfer, demands=demands))
        settings = {"fit": "none" if fit == "nothing" else fit, "images": images}
        model = copy.deepcopy(self.baseline.model)
        model, steps = self.structural.run(model, asked, settings, method, context, seconds, untouched=True)
        row = {"seconds_by_stage": {name: round(value, 2) for name, value in seconds.items()}}
        row |= {"macs_left": round(facts(model, context.input_size).macs / self._macs, 3)}
        if steps[-1]["stage"] == "repair":
            row |= {key: steps[-1]["plan"][key] for key in ("fit", "refitted", "undone", "divergence")}
        row |= self.judged(model)
        if train:
            started = time.perf_counter()
            row["quarter_epoch"] = self.judged(self.trained(model))
            row["quarter_epoch"]["seconds"] = round(time.perf_counter() - started, 1)
        return row

    @cached_property
    def _macs(self) -> int:
        return facts(self.baseline.model, self.context.input_size).macs

    def trained(self, model: nn.Module, lr: float = 5e-4) -> nn.Module:
        """The candidate after a quarter of an epoch of distillation."""
        transfer = self.context.transfer
        assert transfer is not None
        part = transfer.train.subset(int(len(transfer.train) * QUARTER), self.seed)
        context = replace(self.context, transfer=replace(transfer, train=part))
        return recover(model, {"epochs": 1, "lr": lr, "distill": 0.5}, context, [])

    def judged(self, model: nn.Module) -> dict[str, float]:
        """Accuracy, agreement (both in percent) and KL to the baseline, on validation images."""
        val = self.baseline.splits.val
        own = logits(model.eval(), val)
        kl = repair.kl_of(own, self.teacher_logits)
        return {
            "accuracy": round(100 * float((own.argmax(1) == val.labels()).float().mean()), 2),
            "kl": round(kl, 5),
            "agreement": round(100 * float((own.argmax(1) == self.teacher_logits.argmax(1)).float().mean()), 2),
        }
