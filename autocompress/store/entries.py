"""An entry of the store on disk: two files, each with a check of the other."""

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
"""Errors of reading that depend only on the content of the file."""


class Damaged(Exception):
    """An entry that exists but cannot be used; the message is the reason."""


def record_text(key: str, tensors: Iterable[str], record: Any) -> str:
    """The text of the file of a record: record, digest, key of the entry, names of tensors."""
    record = json.loads(json.dumps(record))  # with keys as text, as a reader gets it
    return json.dumps({"key": key, "tensors": sorted(tensors), "digest": digest(record), "record": record})


def read_entry(entry: Path, key: str) -> tuple[dict[str, torch.Tensor], Any]:
    """Tensors and record of the entry ``key``.

    Raises:
        Damaged: if it exists, but is incomplete.
        OSError: if it does not exist, or cannot be read now.
    """
    try:
        text = (entry / RECORD).read_bytes()
        # An unreadable file raises OSError here; load_file would raise another type.
        with (entry / TENSORS).open("rb"):
            tensors = safetensors.torch.load_file(entry / TENSORS)
    except OSError as error:
        if error.errno in _DAMAGE and os.path.lexists(entry):
            raise Damaged(str(error)) from error
        raise
    except safetensors.SafetensorError as error:
        raise Damaged(f"{TENSORS}: {error}") from error
    return tensors, parsed_record(text, key, tensors)


def parsed_record(text: bytes, key: str, tensors: Iterable[str]) -> Any:
    """The record in the text of :func:`record_text`.

    Raises:
        Damaged: if the text is not the record of the entry ``key`` with these tensors.
    """
    try:
        told = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{RECORD}: {error}") from error
    if not isinstance(told, dict) or set(told) != {"key", "tensors", "digest", "record"}:
        raise Damaged(f"{RECORD} is not a record of an entry")
    if told["key"] != key or told["tensors"] != sorted(tensors) or told["digest"] != digest(told["record"]):
        raise Damaged(f"{RECORD} is not the record of these tensors")
    return told["record"]
