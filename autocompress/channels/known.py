"""Couplings of networks, found and verified once for each structure in a process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TypeVar
from weakref import WeakKeyDictionary

from torch import nn

from autocompress.channels.couplings import Judged, couplings, judged, only_inner
from autocompress.channels.structure import structure
from autocompress.contract import Coupling, LayerSpec
from autocompress.files import digest

STRUCTURES_KEPT = 16
"""A search of substitutions meets many structures; the latest are enough."""
T = TypeVar("T")
_fixed: WeakKeyDictionary[nn.Module, dict[str, list[Coupling]]] = WeakKeyDictionary()
_measured: OrderedDict[str, list[Coupling]] = OrderedDict()
_judged: OrderedDict[str, Judged] = OrderedDict()


def known_couplings(
    model: nn.Module, size: tuple[int, int, int], mode: str, specs: Sequence[LayerSpec] = ()
) -> list[Coupling]:
    """The measured couplings of ``model``, looked up by its structure. Arguments and errors as in
    :func:`.couplings.couplings`."""
    present = {type(module) for module in model.modules()}
    specs = [spec for spec in specs if spec.layer_type in present]
    key = digest(structure(model), list(size), [repr(spec) for spec in specs])
    known = _kept(_judged, key, lambda: judged(model, size, specs))
    group = "group" if mode == "inner" else mode  # measuring costs seconds, and these measure the same
    measured = _kept(_measured, f"{key} {group}", lambda: couplings(model, size, group, specs, known=known))
    return [only_inner(coupling) for coupling in measured] if mode == "inner" else measured


def fixed_couplings(model: nn.Module, size: tuple[int, int, int], mode: str) -> list[Coupling]:
    """The same for a baseline, which never changes and has no plugin's layers: looked up by
    identity.
    """
    modes = _fixed.setdefault(model, {})
    if mode not in modes:
        modes[mode] = known_couplings(model, size, mode)
    return modes[mode]


def _kept(cache: OrderedDict[str, T], key: str, make: Callable[[], T]) -> T:
    """What ``make`` gave for this key; the oldest goes first."""
    if key not in cache:
        cache[key] = make()
        while len(cache) > STRUCTURES_KEPT:
            cache.popitem(last=False)
    return cache[key]
