"""The store: entries are read back, damaged ones count as missing, and its size is limited."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from autocompress.contract import Manager
from autocompress.errors import UserError
from autocompress.files import CACHED, cache_folder
from autocompress.job import load_job
from autocompress.opened.outline import outline
from autocompress.store import RECORD, TENSORS, Store, save_tensors
from autocompress.store import store as store_module


def test_an_entry_is_read_back(tmp_path: Path) -> None:
    store = Store(tmp_path)
    tensors = {"weight": torch.randn(3, 4), "steps": torch.tensor(7)}
    store.put("key", tensors, {"steps": [1, {"a": None}]})
    found = store.get("key")
    assert found is not None
    assert torch.equal(found[0]["weight"], tensors["weight"])
    assert found[1] == {"steps": [1, {"a": None}]}
    assert (store.hits, store.misses) == (1, 0)


def test_tied_weights_can_be_stored(tmp_path: Path) -> None:
    shared = torch.randn(5)
    store = Store(tmp_path)
    store.put("key", {"a": shared, "b": shared}, {})
    found = store.get("key")
    assert found is not None
    assert torch.equal(found[0]["a"], found[0]["b"])


def test_a_missing_entry_is_a_miss(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.get("nothing") is None
    assert store.misses == 1


def _truncate(entry: Path) -> None:
    whole = (entry / TENSORS).read_bytes()
    (entry / TENSORS).write_bytes(whole[:-4])


def _replace_by_file(entry: Path) -> None:
    shutil.rmtree(entry)
    entry.write_text("not a folder")


def _make_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


DAMAGE: dict[str, Callable[[Path], object]] = {
    "tensors are torn": lambda entry: (entry / TENSORS).write_bytes(b"torn"),
    "tensors are cut short": _truncate,
    "tensors are empty": lambda entry: (entry / TENSORS).write_bytes(b""),
    "tensors are missing": lambda entry: (entry / TENSORS).unlink(),
    "tensors are a folder": lambda entry: _make_folder(entry / TENSORS),
    "tensors are of another entry": lambda entry: save_tensors({"b": torch.ones(2)}, entry / TENSORS),
    "record is torn": lambda entry: (entry / RECORD).write_text("{"),
    "record is empty": lambda entry: (entry / RECORD).write_text(""),
    "record is missing": lambda entry: (entry / RECORD).unlink(),
    "record is a folder": lambda entry: _make_folder(entry / RECORD),
    "record is no text": lambda entry: (entry / RECORD).write_bytes(b"\xff\x00"),
    "record is a list": lambda entry: (entry / RECORD).write_text("[1]"),
    "record is null": lambda entry: (entry / RECORD).write_text("null"),
    "record has another shape": lambda entry: (entry / RECORD).write_text('{"steps": []}'),
    "record was changed": lambda entry: (entry / RECORD).write_text(
        (entry / RECORD).read_text().replace('"made"', '"maid"')
    ),
    "entry is a file": _replace_by_file,
    "entry is an empty folder": lambda entry: (shutil.rmtree(entry), entry.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_made_again_once(tmp_path: Path, damage: str) -> None:
    """As callers do it: look, read, else make and put."""
    made = 0

    def wanted() -> tuple[dict[str, torch.Tensor], Any]:
        nonlocal made
        store = Store(tmp_path)
        if store.has("key") and (found := store.get("key")) is not None:
            return found
        made += 1
        store.put("key", {"a": torch.ones(2)}, {"is": "made"})
        return wanted()

    wanted()
    DAMAGE[damage](tmp_path / "key")
    tensors, record = wanted()
    assert torch.equal(tensors["a"], torch.ones(2))
    assert record == {"is": "made"}
    assert made == 2
    assert [path.name for path in tmp_path.iterdir()] == ["key"], "the damaged entry is removed"


def test_two_processes_that_repair_one_entry_keep_one(tmp_path: Path) -> None:
    """The slower process must not remove the entry of the faster one."""
    slow, fast = Store(tmp_path), Store(tmp_path)
    slow.put("key", {"a": torch.ones(2)}, {})
    damaged = store_module._identity(tmp_path / "key")
    (tmp_path / "key" / RECORD).write_text("{")
    assert fast.get("key") is None
    fast.put("key", {"a": torch.ones(2)}, {})
    slow._discard(tmp_path / "key", damaged, "as it read it before")
    assert fast.get("key") is not None
    slow.put("key", {"a": torch.ones(2)}, {})
    assert fast.get("key") is not None


def test_an_entry_that_is_removed_while_it_is_read_is_a_miss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path)
    store.put("key", {"a": torch.ones(2)}, {})
    load = safetensors.torch.load_file

    def removed(file: Path) -> dict[str, torch.Tensor]:
        store_module._remove(tmp_path / "key")
        return load(file)

    monkeypatch.setattr(safetensors.torch, "load_file", removed)
    assert store.get("key") is None
    assert not caplog.records, "the entry is not damaged"


def test_keys_of_a_record_may_be_numbers(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put("key", {}, {"widths": {10: 1, 9: 2}, "pair": (1, 2)})
    found = store.get("key")
    assert found is not None
    assert found[1] == {"widths": {"10": 1, "9": 2}, "pair": [1, 2]}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can act as other users")
def test_users_share_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    for folder in [tmp_path, *tmp_path.parents][:-2]:
        folder.chmod(0o755)
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o1777)
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(cache))
    mine = Store()
    with mine.making("key"):
        mine.put("key", {"a": torch.ones(2)}, {})
    os.seteuid(65534)
    try:
        theirs = Store()
        assert theirs.get("key") is not None
        with theirs.making("another"):
            theirs.put("another", {"a": torch.ones(2)}, {})
        assert theirs.has("another")
        assert cache_folder("baselines").stat().st_mode & 0o1777 == 0o1777
    finally:
        os.seteuid(0)
    assert mine.get("another") is not None
    assert not caplog.records


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can act as other users")
@pytest.mark.parametrize("name", CACHED)
def test_a_cache_folder_of_another_user_is_refused_before_the_job_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for folder in [tmp_path, *tmp_path.parents][:-2]:
        folder.chmod(0o755)
    cache = tmp_path / "cache"
    (cache / name).mkdir(parents=True)
    cache.chmod(0o777)
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(cache))
    job = load_job(model="resnet10t", data="digits")
    os.seteuid(65534)
    try:
        for preview in (False, True):
            with pytest.raises(UserError, match=f"the cache folder .*/{name} cannot be written: Permission") as raised:
                outline(job, Manager(), preview=preview)
            assert raised.value.hint == "set AUTOCOMPRESS_CACHE"
    finally:
        os.seteuid(0)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can act as other users")
def test_unreadable_and_unwritable_entries_are_no_errors(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for folder in [tmp_path, *tmp_path.parents][:-2]:
        folder.chmod(0o755)
    store = Store(tmp_path)
    store.put("key", {"a": torch.ones(2)}, {})
    (tmp_path / "key" / TENSORS).chmod(0)
    os.seteuid(65534)
    try:
        for _ in range(2):
            assert store.get("key") is None
            with store.making("new"):
                store.put("new", {"a": torch.ones(2)}, {})
    finally:
        os.seteuid(0)
    assert store.has("key"), "an entry that other users can read is not damaged"
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == len(set(told)) == 3, "each error is logged once"
    assert all("Permission denied" in text for text in told)


def test_the_first_entry_with_a_key_is_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put("key", {"a": torch.ones(1)}, {"first": True})
    store.put("key", {"a": torch.zeros(1)}, {"first": False})
    found = store.get("key")
    assert found is not None
    assert found[1] == {"first": True}
    assert not list(tmp_path.glob(".*")), "no temporary folder may be left"


def test_the_least_recently_used_entry_is_removed_first(tmp_path: Path) -> None:
    store = Store(tmp_path, most_gigabytes=1e-4)  # 100 kB
    for name in ("old", "used", "new"):
        store.put(name, {"a": torch.zeros(12_000)}, {})  # 48 kB each
        long_ago = time.time() - 3600
        os.utime(tmp_path / name, (long_ago, long_ago))
    store.get("used")
    store.put("last", {"a": torch.zeros(12_000)}, {})
    assert not store.has("old")
    assert store.has("used")
    assert store.has("last")


def _age(path: Path, seconds: float = 7200) -> None:
    for one in (*path.rglob("*"), path):
        os.utime(one, (time.time() - seconds, time.time() - seconds))


HOLD = """
import sys
from pathlib import Path
from autocompress.store.pins import Pins
pins = Pins(Path(sys.argv[1]))
pins.add("needed")
print("pinned", flush=True); sys.stdin.read()
"""


def test_entries_that_a_running_process_needs_are_not_removed(tmp_path: Path) -> None:
    store = Store(tmp_path, most_gigabytes=1e-4)
    for name in ("needed", "spare"):
        store.put(name, {"a": torch.zeros(12_000)}, {})  # 48 kB each
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], text=True, **pipes)
    assert process.stdout is not None
    assert process.stdout.readline() == "pinned\n"
    for name in ("needed", "spare"):
        _age(tmp_path / name)
    store.put("last", {"a": torch.zeros(12_000)}, {})
    assert store.has("needed")
    assert not store.has("spare"), "other entries are removed to keep the limit"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    _age(tmp_path / "needed")
    store.put("more", {"a": torch.zeros(12_000)}, {})
    assert not store.has("needed"), "pins of ended processes do not count"
    assert not list((tmp_path / ".pins").iterdir())


def test_entries_pinned_by_an_object_are_kept_while_it_lives(tmp_path: Path) -> None:
    store = Store(tmp_path, most_gigabytes=1e-4, pinning=True)
    store.put("pinned", {"a": torch.zeros(12_000)}, {})
    store.pinning = False
    for name in ("one", "two", "three"):
        store.put(name, {"a": torch.zeros(12_000)}, {})
        _age(tmp_path / "pinned")
        _age(tmp_path / name)
    assert store.has("pinned")
    assert not store.has("one")
    del store
    Store(tmp_path, most_gigabytes=1e-4).put("four", {"a": torch.zeros(12_000)}, {})
    assert not (tmp_path / "pinned").exists()


def test_only_old_leftovers_of_other_processes_are_removed(tmp_path: Path) -> None:
    store = Store(tmp_path, most_gigabytes=1e-9)
    for name in (".key.0123abcd", ".key.old00000"):
        (tmp_path / name).mkdir()
        (tmp_path / name / TENSORS).write_bytes(b"0" * 100)
    _age(tmp_path / ".key.0123abcd", 600)  # a slow disk
    _age(tmp_path / ".key.old00000")
    with store.making("key"):
        (tmp_path / ".making" / "dead").touch()
        _age(tmp_path / ".making")
        store.put("key", {"a": torch.ones(1)}, {})
        assert sorted(path.name for path in (tmp_path / ".making").iterdir()) == ["key"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".key.0123abcd", ".making", "key"]
    assert not list((tmp_path / ".making").iterdir())
