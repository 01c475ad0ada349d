"""The engine's PRUNE and REPAIR on one network, for tests of pruners."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from autocompress.compression.prune_repair import Structural
from autocompress.contract import Context, LayerSpec, Params, Plan, Pruner, Space, manager
from autocompress.graph import facts
from autocompress.recipes.choosers import Replay
from autocompress.recipes.pruning import Pruning, prune_space
from autocompress.store import Store

WITHOUT: Params = {"fit": "none"}
"""Parameters of REPAIR with which nothing is refitted."""


def asked(model: nn.Module, pruner: Pruner, keep: Any = 0.5, **limits: Any) -> Pruning | None:
    """The parameters of PRUNE for a job with these limits.

    Args: model: the baseline. pruner: orders the channels. keep: share of all channels, or shares
    by module path. limits: ``mode``, ``multiple`` (1 by default), and the parameters of the pruner
    under their short names.
    """
    values: dict[str, Any] = {"prune.method": pruner.name, "prune.multiple": 1}
    values |= {f"prune.keep.{name}": share for name, share in keep.items()} if isinstance(keep, dict) else {}
    values |= {"prune.keep": 1.0 if isinstance(keep, dict) else keep}
    for name, value in limits.items():
        values[f"{'prune' if name in ('mode', 'multiple') else pruner.name}.{name}"] = value
    space = Space(Replay({}), "model", values)
    found = prune_space(space, model, [pruner])
    if unknown := set(values) - space.matched:
        raise ValueError(f"there is no parameter {', '.join(sorted(unknown))}")
    return found


def specs() -> list[LayerSpec]:
    """The layer types of installed plugins."""
    return [spec for method in manager().methods() for spec in method.layers]


def structural(baseline: nn.Module, folder: Path, layers: Sequence[LayerSpec] | None = None, seed: int = 0) -> Any:
    """The two stages for recipes of ``baseline``, with a store of their own."""
    return Structural(baseline, "baseline", specs() if layers is None else layers, Store(folder), seed)


def pruned(
    baseline: nn.Module,
    pruner: Pruner,
    context: Context,
    keep: Any = 0.5,
    *,
    entering: nn.Module | None = None,
    repair: Params = WITHOUT,
    layers: Sequence[LayerSpec] | None = None,
    **limits: Any,
) -> tuple[nn.Module, list[Plan]]:
    """The network after both stages, and the steps of its plan (none in a dry run).

    Args: baseline: not changed. pruner: orders the channels; ``context.state`` has its state.
    context: dry, or with images and teacher. keep: as in :func:`asked`. entering: the network that
    a transform made from the baseline; not changed. repair: parameters of REPAIR. layers: layer
    types of plugins; None for those of the installed methods. limits: as in :func:`asked`.
    """
    model = copy.deepcopy(baseline if entering is None else entering)
    wanted = asked(baseline, pruner, keep, **limits)
    untouched = entering is None
    with tempfile.TemporaryDirectory() as folder:
        stages = structural(baseline, Path(folder), layers, context.seed)
        if context.dry_run:
            return stages.dry(model, wanted, repair, context, untouched=untouched), []
        found, steps = stages.run(model, wanted, repair, pruner, context, {}, untouched=untouched)
        return found, steps


def kept(steps: Sequence[Plan]) -> dict[str, list[int]]:
    """The kept channels by coupling, according to the plan."""
    (step,) = [step for step in steps if step["stage"] == "prune"]
    found: dict[str, list[int]] = step["plan"]["keep"]
    return found


def macs(model: nn.Module, size: tuple[int, int, int]) -> int:
    """Multiply-adds of one image."""
    return facts(model, size).macs
