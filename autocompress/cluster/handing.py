"""Sends the results of opening a job from the driver to workers whose cache lacks them.

These are weights and file of the baseline, and entries of the store, by content key. They are sent
through Ray's object store. A node that has an entry in its cache folder already does not fetch it.
Entries that are only in the cache on a URL are read there by each node.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from autocompress.files import atomic, atomic_folder, cache_folder
from autocompress.store import Store
from autocompress.training import handed

BASELINES = "baselines"


@dataclass(frozen=True)
class Handed:
    """References to Ray's object store.

    Attributes:
        weights: file name and content of the trained baseline; None if none was trained.
        files: contents by name, from the folder of baselines.
        entries: for each key of the store, contents by name.
    """

    weights: tuple[str, Any] | None = None
    files: Mapping[str, Any] = field(default_factory=dict)
    entries: Mapping[str, Any] = field(default_factory=dict)


def handed_out(baseline_file: Path, keys: Iterable[str]) -> Handed:
    """Puts the results of this process for its job into the object store.

    Args:
        baseline_file: the exported baseline.
        keys: keys of the entries of the store.
    """
    store, weights = Store(), handed.kept()
    there = weights is not None and weights.is_file()
    in_cache = baseline_file.parent == cache_folder(BASELINES)
    return Handed(
        (weights.name, ray.put(weights.read_bytes())) if weights is not None and there else None,
        {baseline_file.name: ray.put(baseline_file.read_bytes())} if in_cache else {},
        {key: ray.put(_contents(store.folder / key)) for key in keys if store.is_here(key)},
    )


@contextmanager
def taken(given: Handed | None) -> Iterator[None]:
    """Adds missing entries to the cache of this machine.

    Within the block, a baseline that the driver has trained is read, not trained again.

    Raises:
        UserError: if the folder of the cache cannot be made or written.
        OSError: if there is no room in it.
    """
    if given is None:
        yield
        return
    folder, store = cache_folder(BASELINES), Store()
    own = dict(given.files)
    if given.weights is not None:
        own[given.weights[0]] = given.weights[1]
    for name, reference in own.items():
        if not (folder / name).exists():
            with atomic(folder / name) as temporary:
                temporary.write_bytes(ray.get(reference))
    for key, reference in given.entries.items():
        if not store.has(key):
            with atomic_folder(store.folder / key) as half:
                for name, content in ray.get(reference).items():
                    (half / name).write_bytes(content)
    with handed.weights_given(None if given.weights is None else folder / given.weights[0]):
        yield


def _contents(entry: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in entry.iterdir() if file.is_file()}
