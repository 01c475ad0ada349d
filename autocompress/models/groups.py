"""Groups: parts of a network (model, stage or block) that share parameters of the search."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from autocompress.models.parts import classifier, stem

MOST_STAGES = 8
"""A list with more parts than this is divided into runs."""
RUNS = 4
"""Number of runs where no reduction of the network gives boundaries (transformers)."""

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Group:
    """Modules that share parameters.

    Attributes:
        name: ``stem``, ``head``, or module names of the baseline: ``layer3``, ``blocks.0-2``.
        prefixes: module names; every layer at or below one of them belongs to the group.
    """

    name: str
    prefixes: tuple[str, ...]


@dataclass(frozen=True)
class _Unit:
    """One child of the network, or of a list that holds most of it."""

    name: str
    module: nn.Module

    @property
    def has_layers(self) -> bool:
        """Whether the unit has a weight of two or more dimensions, unlike a normalisation."""
        return any(p.ndim > 1 for p in self.module.parameters())

    @property
    def is_layer(self) -> bool:
        """Whether the unit itself is one convolution or linear layer."""
        return any(p.ndim > 1 for p in self.module.parameters(recurse=False))

    def holds(self, names: Iterable[str]) -> bool:
        """Whether a module of ``names`` is this unit or inside it."""
        return any(name == self.name or name.startswith(f"{self.name}.") for name in names)


_fixed: WeakKeyDictionary[nn.Module, dict[str, list[Group]]] = WeakKeyDictionary()


def groups(model: nn.Module, granularity: str = "stage") -> list[Group]:
    """Divides ``model`` into groups, in network order. Each layer belongs to exactly one.

    ``model`` gives one group of that name. ``stage`` gives the stem, the stages and the head; a
    plain list of blocks, as in a transformer, is divided into up to four runs. ``block`` gives the
    blocks within the stages.

    Raises:
        ValueError: for another granularity.
    """
    if granularity == "model":
        return [Group("model", ("",))]
    if granularity not in ("stage", "block"):
        raise ValueError(f"granularity must be model, stage or block, not {granularity!r}")
    units = _units(model)
    first, last = _stem_end(model, units), _head_start(model, units)
    last = max(first, last)
    middle = units[first:last]
    found = _stages(model, middle) if granularity == "stage" else _blocks(middle)
    ends = [("stem", units[:first]), ("head", units[last:])]
    named = [Group(name, tuple(unit.name for unit in part)) for name, part in ends]
    return [group for group in (named[0], *found, named[1]) if group.prefixes]


def fixed_groups(model: nn.Module, granularity: str) -> list[Group]:
    """The groups of a baseline, cached by identity, because a baseline never changes."""
    known = _fixed.setdefault(model, {})
    if granularity not in known:
        known[granularity] = groups(model, granularity)
    return known[granularity]


def group_of(layer_name: str, groups: Sequence[Group]) -> str:
    """The group of ``layer_name``; a module that the baseline lacks is in the last group."""
    best, length = groups[-1].name, -1
    for group in groups:
        for prefix in group.prefixes:
            inside = not prefix or layer_name == prefix or layer_name.startswith(f"{prefix}.")
            if inside and len(prefix) > length:
                best, length = group.name, len(prefix)
    return best


def _reductions(model: nn.Module) -> list[tuple[str, int]]:
    """timm's feature points: module name, and the reduction of the image there."""
    info: Any = getattr(model, "feature_info", None) or []
    points = info if isinstance(info, list) else getattr(info, "info", [])
    return [(point["module"], int(point.get("reduction", 0) or 0)) for point in points if point.get("module")]


def _units(model: nn.Module) -> list[_Unit]:
    """The network's children.

    A list with several feature points (``stages``, ``blocks``, ``features``) is replaced by its
    children.
    """
    points = [name for name, _ in _reductions(model)]
    total = sum(p.numel() for p in model.parameters())
    units: list[_Unit] = []
    for name, child in model.named_children():
        inside = {point for point in points if point.startswith(f"{name}.")}
        heavy = not points and sum(p.numel() for p in child.parameters()) > total / 2
        if isinstance(child, _CONTAINERS) and (len(inside) > 1 or heavy):
            units += [_Unit(f"{name}.{inner}", module) for inner, module in child.named_children()]
        else:
            units.append(_Unit(name, child))
    return units


def _stem_end(model: nn.Module, units: list[_Unit]) -> int:
    """Number of units in the stem: up to the one that reads the image, and its normalisation."""
    first = stem(model)
    end = max((i + 1 for i, unit in enumerate(units) if unit.holds(first)), default=0)
    while end < len(units) and not units[end].has_layers:
        end += 1
    return end


def _head_start(model: nn.Module, units: list[_Unit]) -> int:
    """Start of the head: the classifier, small units before it, and at most one plain layer."""
    last = classifier(model)
    start, layers = len(units), 0
    while start > 0:
        unit = units[start - 1]
        layers += unit.is_layer and not unit.holds(last)
        if layers > 1 or not (unit.holds(last) or unit.is_layer or not unit.has_layers):
            break
        start -= 1
    return start


def _stages(model: nn.Module, units: list[_Unit]) -> list[Group]:
    ends = _boundaries(model, units)
    layered = sum(unit.has_layers for unit in units)
    flat = len({reduction for _, reduction in _reductions(model)}) == 1
    loose = 2 * sum(unit.is_layer for unit in units) > layered  # VGG: single layers, not stages
    if layered <= MOST_STAGES and not flat and not loose:
        return _attached(units)
    if len(ends) < 2:
        blocks = [i for i, unit in enumerate(units) if unit.has_layers]
        runs = min(RUNS, len(blocks))
        ends = [blocks[(k + 1) * len(blocks) // runs - 1] + 1 for k in range(runs)]
    return [_run(units[start:end]) for start, end in _spans(units, ends)]


def _boundaries(model: nn.Module, units: list[_Unit]) -> list[int]:
    """Ends of runs within ``units``: after the last feature point of each reduction."""
    by_reduction: dict[int, int] = {}
    for name, reduction in _reductions(model):
        for i, unit in enumerate(units):
            if unit.holds([name]):
                by_reduction[reduction] = max(i + 1, by_reduction.get(reduction, 0))
    return sorted(set(by_reduction.values())) if len(by_reduction) > 1 else []


def _spans(units: list[_Unit], ends: list[int]) -> list[tuple[int, int]]:
    """(start, end) of each run.

    Units after the last end are another run if they have layers, else part of the last run.
    """
    if any(unit.has_layers for unit in units[ends[-1] :]):
        ends = [*ends, len(units)]
    ends = [*ends[:-1], len(units)]
    spans, start = [], 0
    for end in ends:
        if any(unit.has_layers for unit in units[start:end]):
            spans.append((start, end))
            start = end
    return spans


def _run(units: list[_Unit]) -> Group:
    layered = [unit.name for unit in units if unit.has_layers]
    first, last = layered[0], layered[-1]
    name = first if first == last else f"{first}-{_short(first, last)}"
    return Group(name, tuple(unit.name for unit in units))


def _short(first: str, last: str) -> str:
    """``last`` without the parent that it shares with ``first``."""
    parent = first.rpartition(".")[0]
    return last[len(parent) + 1 :] if parent and last.startswith(f"{parent}.") else last


def _blocks(units: list[_Unit]) -> list[Group]:
    found: list[Group] = []
    for unit in units:
        if unit.has_layers:
            found += _attached(_opened(unit))
        elif found:
            found[-1] = _with(found[-1], unit.name)
    return found


def _opened(unit: _Unit) -> list[_Unit]:
    """The blocks inside ``unit``, where it is a list of blocks or a stage with such a list."""
    children = [_Unit(f"{unit.name}.{name}", child) for name, child in unit.module.named_children()]
    is_list = isinstance(unit.module, _CONTAINERS) or type(unit.module).__name__.endswith("Stage")
    if not is_list or not any(child.has_layers and not child.is_layer for child in children):
        return [unit]
    return [inner for child in children for inner in _opened(child)]


def _attached(units: list[_Unit]) -> list[Group]:
    """A group for each unit with a layer; a unit without a layer joins the group before it."""
    found: list[Group] = []
    waiting: list[str] = []
    for unit in units:
        if unit.has_layers:
            found.append(Group(unit.name, (*waiting, unit.name)))
            waiting = []
        elif found:
            found[-1] = _with(found[-1], unit.name)
        else:
            waiting.append(unit.name)
    if waiting and not found:
        found = [Group(waiting[0], tuple(waiting))]
    return found


def _with(group: Group, prefix: str) -> Group:
    return Group(group.name, (*group.prefixes, prefix))
