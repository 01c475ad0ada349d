"""An entry of the store on the disk: two files that vouch for each other."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from autocompress.files import digest

TENSORS, RECORD = "tensors.safetensors", "record.json"
_DAMAGE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EIO})
"""Errors of reading that come from what lies there, and not from who reads it or when."""


class Damaged(Exception):
    """An entry that is there but cannot be used; the text says why."""


def record_text(key: str, tensors: Iterable[str], record: Any) -> str:
    """The text of a record's file: record, digest, key of the entry, names of tensors."""
    record = json.loads(json.dumps(record))  # as it will be read: keys are texts
    return json.dumps({"key": key, "tensors": sorted(tensors), "digest": digest(record), "record": record})


def read_entry(entry: Path, key: str) -> tuple[dict[str, torch.Tensor], Any]:
    """Tensors and record of the entry ``key``.

    Raises:
        Damaged: if it is there, but not whole.
        OSError: if it is not there, or cannot be read now.
    """
    try:
        text = (entry / RECORD).read_bytes()
        with (entry / TENSORS).open("rb"):  # where it cannot be read, the next line does not say so by type
            tensors = safetensors.torch.load_file(entry / TENSORS)
    except OSError as error:
        if error.errno in _DAMAGE and os.path.lexists(entry):
            raise Damaged(str(error)) from error
        raise
    except safetensors.SafetensorError as error:
        raise Damaged(f"{TENSORS}: {error}") from error
    return tensors, _record(text, key, tensors)


def _record(text: bytes, key: str, tensors: Iterable[str]) -> Any:
    try:
        told = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{RECORD}: {error}") from error
    if not isinstance(told, dict) or set(told) != {"key", "tensors", "digest", "record"}:
        raise Damaged(f"{RECORD} is no record of an entry")
    if told["key"] != key or told["tensors"] != sorted(tensors) or told["digest"] != digest(told["record"]):
        raise Damaged(f"{RECORD} is not the record of these tensors")
    return told["record"]
