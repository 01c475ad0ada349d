"""Tables of accuracy and KL: by share of the MACs, order and repair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from parts import repair_ghost
from shared.repaired import SearchableJob
from shared.rows import Rows
from shared.trained import SLOW, Trained, environment, job_of, trained


@dataclass(frozen=True)
class Asked:
    """What every table is made with.

    Attributes:
        file: the JSON file.
        command: the command that makes the table.
        data: name of the data set, or the data of a job.
        epochs: epochs of the baseline; None for its own number.
        until: time after which no row begins; None for no limit.
        small: whether to use few networks and shares, to try a part out.
    """

    file: Path
    command: str
    data: str | Mapping[str, Any] = "glyphs"
    epochs: int | None = None
    until: float | None = None
    small: bool = False


PRUNERS = ("obs", "magnitude", "bn_scale", "random")
CUTS = ("inner:0.7", "inner:0.5", "inner:0.35", "group:0.5", "group:0.35")
"""Rows of the part 'uniform'.

A mode of couplings, and the share of the multiply-adds that is kept.
"""


CLOTHES = {"train": "idx:/usr/share/datasets/fashion-mnist", "train_images": 12000, "val_images": 2000}
"""Fashion-MNIST, from Debian's package dataset-fashion-mnist.

A small transformer learns it in three epochs. On glyphs it is still at chance after three.
"""


def uniform(asked: Asked, model: str, cuts: Sequence[str] = CUTS) -> None:
    """The same share of the channels of every coupling, by order and by repair."""
    opened, rows = _opened(model, asked, 12)
    for mode, _, text in (cut.partition(":") for cut in cuts):
        share = float(text)
        keep = opened.widths(share, mode)
        name = f"{round(100 - 100 * share)} % {mode}"
        for pruner in PRUNERS:
            for fit in ("nothing", "none", "one-shot", *(["sequential"] if pruner == "obs" else [])):
                make = partial(opened.row, pruner, keep, mode, fit, images=_images(fit))
                rows.row(f"{name}, {pruner}, {fit}", make)
        make = partial(opened.row, "obs", keep, mode, "one-shot", params={"weighting": "equal"})
        rows.row(f"{name}, obs equal, one-shot", make)
    rows.write()


def mobilenetv2(asked: Asked) -> None:
    """A depthwise network at 15, 30 and 50 % of the MACs, with and without some training."""
    name = "mobilenetv2_050"
    opened, rows = _opened(name, asked, int(SLOW[name]["epochs"]))
    for share in (0.5,) if asked.small else (0.85, 0.7, 0.5):
        keep = opened.widths(share, "inner")
        for fit in ("one-shot", "none", "sequential"):
            make = partial(opened.row, "obs", keep, "inner", fit, images=_images(fit), train=True)
            rows.row(f"{round(100 - 100 * share)} % inner, obs, {fit}", make)
    rows.write()


def vit(asked: Asked) -> None:
    """A small vision transformer with heads and MLP at 80 % of the multiply-adds.

    The class token is always sampled, or as rarely as other positions.
    """
    name = "vit_tiny_patch16_224"
    args: dict[str, Any] = {"img_size": 28, "patch_size": 7, "depth": 2 if asked.small else 3}
    opened, rows = _opened(name, replace(asked, data=CLOTHES), int(SLOW[name]["epochs"]), args)
    keep = opened.widths(0.8, "inner", heads=2 / 3)  # one of three heads is removed, and the MLP gives the rest
    for fit in ("one-shot", "none", "sequential"):
        rows.row(f"20 %, obs, {fit}", partial(opened.row, "obs", keep, "inner", fit, images=_images(fit)))
    alike = SearchableJob(opened.baseline)  # it needs its own store
    with (
        mock.patch("autocompress.repair.moments.prefix_tokens", return_value=0),
        mock.patch("autocompress.compression.repair.prefix_tokens", return_value=0),
    ):
        for fit in ("one-shot", "sequential"):
            make = partial(alike.row, "obs", keep, "inner", fit, images=_images(fit))
            rows.row(f"20 %, obs, {fit}, class token as any other", make)
    for fit in ("one-shot", "none", "sequential"):
        rows.row(f"20 %, magnitude, {fit}", partial(opened.row, "magnitude", keep, "inner", fit, images=_images(fit)))
    rows.write()


def ghost(asked: Asked) -> None:
    """Ghost modules at ratio 2, with the layers behind them refitted or not."""
    for name in ("resnet18", "mobilenetv2_050", "regnety_002"):
        own = int(SLOW.get(name, {}).get("epochs", 12))
        opened, rows = _opened(name, replace(asked, file=asked.file.with_name(f"ghost-{name}.json")), own)
        for fit in ("none", "sequential"):
            rows.row(f"ratio 2, {fit}", partial(repair_ghost.row, opened, fit))
        rows.write()


def _images(fit: str) -> int:
    """Sequential repair fits many more numbers, so it needs more images."""
    return 2048 if fit == "sequential" else 512


def _opened(name: str, asked: Asked, epochs: int, args: dict[str, Any] | None = None) -> tuple[SearchableJob, Rows]:
    epochs = asked.epochs or epochs
    head = {"model": name, "data": asked.data, "epochs": epochs, "command": asked.command, **environment()}
    head |= {"model_args": args} if args else {}
    rows = Rows(asked.file, head, asked.until)
    baseline: Trained = trained(job_of(name, asked.data, epochs, model_args=args))
    opened = SearchableJob(baseline)
    rows.row("baseline", lambda: opened.judged(baseline.model))
    return opened, rows
