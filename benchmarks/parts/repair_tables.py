"""Tables of accuracy and KL: by cut, order and repair."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from parts import repair_ghost
from shared.repaired import SearchableJob
from shared.rows import Rows, command_line
from shared.trained import SLOW, environment, job_of, trained

PRUNERS = ("obs", "magnitude", "bn_scale", "random")
CUTS = ("inner:0.7", "inner:0.5", "inner:0.35", "group:0.5", "group:0.35")
"""Of the part 'uniform': a mode of couplings, and the share of the multiply-adds that stays."""


def uniform(out: Path, epochs: int | None, model: str, data: str, cuts: Sequence[str] = CUTS) -> None:
    """The same share of every coupling's channels: by order and by repair."""
    opened, rows = _opened(model, data, epochs or 12, out)
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


def mobilenetv2(out: Path, epochs: int | None) -> None:
    """A depthwise network at 15, 30 and 50 % of its multiply-adds, with and without a quarter
    epoch.
    """
    name = "mobilenetv2_050"
    opened, rows = _opened(name, "glyphs", epochs or int(SLOW[name]["epochs"]), out)
    for share in (0.85, 0.7, 0.5):
        keep = opened.widths(share, "inner")
        for fit in ("none", "one-shot", "sequential"):
            make = partial(opened.row, "obs", keep, "inner", fit, images=_images(fit), train=True)
            rows.row(f"{round(100 - 100 * share)} % inner, obs, {fit}", make)
    rows.write()


def vit(out: Path, epochs: int | None) -> None:
    """A small vision transformer: heads and MLP at 80 % of the multiply-adds, class token always
    drawn or not.
    """
    args: dict[str, Any] = {"img_size": 32, "patch_size": 4, "depth": 6}
    opened, rows = _opened("vit_tiny_patch16_224", "glyphs", epochs or 20, out, args)
    keep = opened.widths(0.8, "inner")
    for pruner in ("obs", "magnitude"):
        for fit in ("none", "one-shot", "sequential"):
            rows.row(f"20 %, {pruner}, {fit}", partial(opened.row, pruner, keep, "inner", fit))
    rows.write()


def ghost(out: Path, epochs: int | None) -> None:
    """Ghost modules at ratio 2, with the layers behind them refitted or not."""
    for name in ("resnet18", "mobilenetv2_050", "regnety_002"):
        own = int(SLOW.get(name, {}).get("epochs", 12))
        opened, rows = _opened(name, "glyphs", epochs or own, out.with_name(f"ghost-{name}.json"))
        for fit in ("none", "sequential"):
            rows.row(f"ratio 2, {fit}", partial(repair_ghost.row, opened, fit))
        rows.write()


def _images(fit: str) -> int:
    """Sequential repair fits many more numbers, and needs more images."""
    return 2048 if fit == "sequential" else 512


def _opened(
    name: str, data: str, epochs: int, out: Path, args: dict[str, Any] | None = None
) -> tuple[SearchableJob, Rows]:
    job = job_of(name, data, epochs, model_args=args)
    baseline = trained(job)
    opened = SearchableJob(baseline)
    head = {"model": name, "data": data, "epochs": epochs, "command": command_line(), **environment()}
    rows = Rows(out, head)
    rows.row("baseline", lambda: opened.judged(baseline.model))
    return opened, rows
