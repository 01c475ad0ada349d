"""Cache of couplings: they are found and verified once per structure and process."""

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
"""Maximum number of structures in the cache; a search with substitutions has many."""
T = TypeVar("T")
_fixed: WeakKeyDictionary[nn.Module, dict[str, list[Coupling]]] = WeakKeyDictionary()
_measured: OrderedDict[str, list[Coupling]] = OrderedDict()
_judged: OrderedDict[str, Judged] = OrderedDict()


def known_couplings(
    model: nn.Module, size: tuple[int, int, int], mode: str, specs: Sequence[LayerSpec] = ()
) -> list[Coupling]:
    """The verified couplings of ``model``, cached by its structure.

    Arguments and errors as in :func:`.couplings.couplings`.
    """
    present = {type(module) for module in model.modules()}
    specs = [spec for spec in specs if spec.layer_type in present]
    key = digest(structure(model), list(size), [repr(spec) for spec in specs])
    known = _kept(_judged, key, lambda: judged(model, size, specs))
    group = "group" if mode == "inner" else mode  # both need the same check, which takes seconds
    measured = _kept(_measured, f"{key} {group}", lambda: couplings(model, size, group, specs, known=known))
    return [only_inner(coupling) for coupling in measured] if mode == "inner" else measured


def fixed_couplings(model: nn.Module, size: tuple[int, int, int], mode: str) -> list[Coupling]:
    """The couplings of a baseline, cached by identity, because a baseline never changes."""
    modes = _fixed.setdefault(model, {})
    if mode not in modes:
        modes[mode] = known_couplings(model, size, mode)
    return modes[mode]


def _kept(cache: OrderedDict[str, T], key: str, make: Callable[[], T]) -> T:
    """The cached result of ``make`` for this key; the oldest one is removed first."""
    if key not in cache:
        cache[key] = make()
        while len(cache) > STRUCTURES_KEPT:
            cache.popitem(last=False)
    return cache[key]
