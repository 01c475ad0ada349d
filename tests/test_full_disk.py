"""A disk without room costs nothing that is finished, and is told in one sentence."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from little_room import no_file_larger_than

from autocompress.compression.store import Store


def test_what_the_store_has_no_room_for_is_not_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(tmp_path)
    with caplog.at_level(logging.WARNING, logger="autocompress"), no_file_larger_than(4096):
        for name in ("one", "two"):
            with store.making(name):
                store.put(name, {"a": torch.zeros(10_000)}, {})
    assert [record.getMessage().split(": ")[-1] for record in caplog.records] == ["there is no room left"]
    assert not store.has("one")
    assert [path.name for path in tmp_path.iterdir()] == [".making"], "no half entry is left"
    store.put("one", {"a": torch.zeros(10_000)}, {})
    assert store.has("one"), "once there is room, entries are kept again"
