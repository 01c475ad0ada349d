"""The cache on a URL, behind the cache on the local disk: one object per entry, written once."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch

from autocompress.errors import UserError
from autocompress.files import CACHE, cache_url, warn_once
from autocompress.remote import Objects, RemoteError, checked_url
from autocompress.remote.objects import SLOW_S
from autocompress.store.entries import Damaged, parsed_record

T = TypeVar("T")
PAUSE_S = 60.0
"""Seconds without access to storage after an error; the local cache is used meanwhile."""
ENTRY = "record"
"""Key in the metadata of a safetensors file under which an object has the record of its entry."""
log = logging.getLogger("autocompress")


@lru_cache
def _objects(url: str) -> Objects:
    return Objects(url)


def shared_tier() -> Tier | None:
    """The tier on the URL in ``AUTOCOMPRESS_CACHE``; None if that is a folder or not set.

    Raises:
        UserError: if the URL cannot be used.
    """
    url = cache_url()
    if url is None:
        return None
    try:
        return Tier(_objects(checked_url(url)))
    except ValueError as error:
        raise UserError(f"{CACHE} {error}") from None


class Tier:
    """Entries and files on shared storage. Errors of storage never end a search.

    Args:
        objects: the storage.
    """

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self._not_before = 0.0

    def has(self, key: str) -> bool:
        """Whether there is an entry; False if storage does not answer."""
        return bool(self._tried(lambda: self.objects.exists(_name(key)), "cannot be read"))

    def get(self, key: str) -> tuple[dict[str, torch.Tensor], Any] | None:
        """Tensors and record of an entry. A damaged one is removed, so that it is made again."""
        return self._tried(lambda: self._get(key), "cannot be read")

    def _get(self, key: str) -> tuple[dict[str, torch.Tensor], Any] | None:
        with tempfile.TemporaryDirectory(prefix="ac-entry-") as folder:
            file = Path(folder) / "entry.safetensors"
            if not self._tried(lambda: self.objects.fetch(_name(key), file), "cannot be read"):
                return None
            try:
                return read_object(file, key)
            except Damaged as error:
                log.warning("a damaged entry of %s is made again: %s (%s)", self.objects.url, key, error)
        self._tried(lambda: self.objects.remove(_name(key)), "cannot be written")
        return None

    def put(self, key: str, tensors: Mapping[str, torch.Tensor], record_text: str) -> None:
        """Stores an entry, unless there is one."""
        self._tried(lambda: self._put(key, tensors, record_text), "cannot be written")

    def _put(self, key: str, tensors: Mapping[str, torch.Tensor], record_text: str) -> None:
        with tempfile.TemporaryDirectory(prefix="ac-entry-") as folder:
            file = Path(folder) / "entry.safetensors"
            own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
            safetensors.torch.save_file(own, file, metadata={ENTRY: record_text})
            self.objects.put(_name(key), file)

    def fetch(self, name: str, file: Path) -> bool:
        """Copies a file of the cache to ``file``; False if it is missing or cannot be read."""
        return bool(self._tried(lambda: self.objects.fetch(name, file), "cannot be read"))

    def offer(self, name: str, file: Path) -> None:
        """Stores a file of the cache, unless there is one of this name."""
        self._tried(lambda: self.objects.put(name, file), "cannot be written")

    def _tried(self, call: Callable[[], T], what: str) -> T | None:
        if time.monotonic() < self._not_before:
            return None
        try:
            return call()
        except (OSError, safetensors.SafetensorError) as error:  # errors of storage, or of temporary files
            self._not_before = time.monotonic() + PAUSE_S
            warn_once(Path("the shared cache"), what, OSError(str(error)))
            return None


def fetch_shared(name: str, file: Path) -> bool:
    """Copies a file from the cache on a URL; returns whether there was one."""
    found = shared_tier()
    return found is not None and found.fetch(name, file)


def offer_shared(name: str, file: Path) -> None:
    """Stores a file in the cache on a URL, if there is such a cache."""
    if (found := shared_tier()) is not None:
        found.offer(name, file)


def read_object(file: Path, key: str) -> tuple[dict[str, torch.Tensor], Any]:
    """Tensors and record of a fetched entry.

    Raises:
        Damaged: if it is not the complete entry ``key``.
    """
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            text = (opened.metadata() or {}).get(ENTRY, "")
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a mapping)
    except safetensors.SafetensorError as error:
        raise Damaged(str(error)) from error
    return tensors, parsed_record(text.encode(), key, tensors)


def check_shared_cache() -> str:
    """Checks storage before any expensive work; returns a note if it is slow, else "".

    Raises:
        UserError: if the cache is on a URL that cannot be read and written.
    """
    if (tier := shared_tier()) is None:
        return ""
    try:
        seconds = tier.objects.check()
    except RemoteError as error:
        raise UserError(f"the cache on shared storage cannot be used: {error}", f"set {CACHE}") from None
    if seconds < SLOW_S:
        return ""
    return f"the shared cache {tier.objects.url} is slow: a small object takes {seconds:.1f} s"


def _name(key: str) -> str:
    return f"stages/{key}.safetensors"
