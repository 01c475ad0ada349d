"""The cache on a URL: entries are objects that are written once, behind a local cache."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest
import torch
from shared_storage import KINDS, storage

from autocompress.cluster.handing import handed_out
from autocompress.errors import UserError
from autocompress.files import cache_folder
from autocompress.remote import Objects, RemoteError, checked_url
from autocompress.store import Store, check_shared_cache, fetch_shared, offer_shared, shared_tier, tier

TENSORS = {"w": torch.arange(6.0).reshape(2, 3), "half": torch.ones(2, dtype=torch.float16)}
RECORD = {"seconds": 1.5, "names": ["a", "b"]}


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with storage(request.param, tmp_path, monkeypatch) as found:
        monkeypatch.setenv("AUTOCOMPRESS_CACHE", found)
        yield found


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Store]:
    """A new machine at each call, with its own local cache."""

    def another(name: str) -> Store:
        monkeypatch.setenv("AUTOCOMPRESS_CACHE_LOCAL", str(tmp_path / name))
        return Store()

    return another


def objects(url: str) -> list[str]:
    files, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    return sorted(path.removeprefix(root).lstrip("/") for path in files.find(root))


def is_entry(found: tuple[dict[str, torch.Tensor], object] | None) -> bool:
    assert found is not None
    tensors, record = found
    return record == RECORD and tensors.keys() == TENSORS.keys() and all(tensors[k].equal(TENSORS[k]) for k in TENSORS)


def test_an_entry_of_one_machine_is_found_by_another(url: str, machine: Callable[[str], Store]) -> None:
    one, other = machine("one"), machine("other")
    one.put("key", TENSORS, RECORD)
    assert objects(url) == ["stages/key.safetensors"]
    assert other.has("key")
    assert is_entry(other.get("key"))
    assert (other.hits, other.misses) == (1, 0)
    # from now on, it is on the local disk
    shared_tier().objects.remove("stages/key.safetensors")
    assert is_entry(Store().get("key"))
    assert other.get("missing") is None


def test_an_object_is_written_once_and_a_damaged_one_is_made_again(url: str, machine: Callable[[str], Store]) -> None:
    remote = Objects(url)
    one, other, third = machine("one"), machine("other"), machine("third")
    assert remote.put_bytes("stages/key.safetensors", b"half of a f")
    assert one.get("key") is None
    assert objects(url) == []
    one.put("key", TENSORS, RECORD)
    other.put("key", TENSORS, {"seconds": 9.0})
    assert is_entry(third.get("key")), "the first one stays"
    assert not remote.put_bytes("stages/key.safetensors", b"other")
    # An entry under another name is not accepted.
    assert remote.put_bytes("stages/other.safetensors", remote.read("stages/key.safetensors") or b"")
    assert third.get("other") is None


def test_of_several_writers_one_succeeds(url: str) -> None:
    remote, won = Objects(url), []
    writers = [
        threading.Thread(target=lambda data=bytes([n]): won.append((remote.put_bytes("lease", data), data)))
        for n in range(8)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [data for is_first, data in won if is_first] == [remote.read("lease")]


def test_storage_that_answers_gives_no_note(
    url: str, machine: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tier, "SLOW_S", 120.0)  # a busy machine is no slow storage
    machine("one")
    assert check_shared_cache() == ""
    assert objects(url) == []


# --- what goes wrong ------------------------------------------------------------------------------


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Storage that refuses writes, because its folder is a file."""
    (place := tmp_path / "place").write_text("")
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", f"file://{place}/cache")
    monkeypatch.setenv("AUTOCOMPRESS_CACHE_LOCAL", str(tmp_path / "local"))
    return place


def test_storage_that_refuses_gives_one_sentence_before_a_search(broken: Path) -> None:
    with pytest.raises(UserError) as error:
        check_shared_cache()
    assert str(error.value).startswith("the cache on shared storage cannot be used: .probe-")
    assert f"cannot be written to file://{broken}/cache: NotADirectoryError" in str(error.value)
    assert "\n" not in str(error.value)


def test_storage_that_fails_during_a_search_gives_one_warning(
    broken: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store()
    store.put("key", TENSORS, RECORD)
    store.put("other", TENSORS, RECORD)
    assert caplog.text.count("the shared cache cannot be written") == 1
    assert is_entry(store.get("key")), "the local cache still works"
    assert store.get("missing") is None
    # It is tried again after some time.
    broken.unlink()
    monkeypatch.setattr(tier, "PAUSE_S", 0.0)
    assert store.tier is not None
    store.tier._not_before = 0.0
    store.put("third", TENSORS, RECORD)
    assert (broken / "cache" / "stages" / "third.safetensors").exists()


def test_a_full_disk_for_temporary_files_gives_one_warning(
    tmp_path: Path, machine: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", f"file://{tmp_path}/storage")
    store = machine("one")
    monkeypatch.setattr("autocompress.files._warned", set())
    with monkeypatch.context() as patched:
        patched.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
        store.put("key", TENSORS, RECORD)
        assert store.get("another") is None
    assert is_entry(store.get("key"))
    assert "the shared cache cannot be" in caplog.text


def test_entries_that_are_only_on_the_url_are_not_handed_out(
    tmp_path: Path, machine: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", f"file://{tmp_path}/storage")
    machine("one").put("key", TENSORS, RECORD)
    machine("other")
    assert handed_out(tmp_path / "baseline.onnx", ["key"]).entries == {}


def test_unresponsive_storage_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote, goes_on = Objects(f"file://{tmp_path}", longest=0.05), threading.Event()
    monkeypatch.setattr(remote._files, "cat_file", lambda *_, **__: goes_on.wait(20))
    with pytest.raises(RemoteError, match=r"name cannot be read from file://.*: no answer in 0.05 s"):
        remote.read("name")
    goes_on.set()


def test_other_files_on_storage_are_not_listed(tmp_path: Path) -> None:
    remote = Objects(f"file://{tmp_path}/prefix")
    remote.put_bytes("artifacts/0/model.onnx", b"")
    (tmp_path / "prefix" / "artifacts" / "my notes.txt").touch()
    assert remote.names() == remote.names("artifacts") == ["artifacts/0/model.onnx"]


@pytest.mark.parametrize("name", ["../other", "a/../../b", "/etc/passwd", "a//b", "", "a\nb", ".."])
def test_names_cannot_leave_the_prefix(tmp_path: Path, name: str) -> None:
    remote = Objects(f"file://{tmp_path}/prefix")
    for call in (remote.read, remote.exists, remote.remove, lambda one: remote.put_bytes(one, b"")):
        with pytest.raises(ValueError, match="not the name of an object"):
            call(name)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("s3://key:secret@bucket/x", "holds a password"),
        ("s3://bucket/../other", "cannot be"),
        ("s3://bucket/a b", "cannot be"),
    ],
)
def test_urls_that_are_refused(given: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=reason) as error:
        checked_url(given)
    assert "secret" not in str(error.value)
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", given)
    with pytest.raises(UserError, match=f"AUTOCOMPRESS_CACHE {reason}"):
        shared_tier()


def test_a_scheme_without_a_package_gives_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", "nosuch://bucket")
    with pytest.raises(
        UserError, match=r"nosuch://bucket cannot be opened: .*nosuch.* \(install autocompress\[cluster\]"
    ):
        shared_tier()


def test_credentials_are_not_in_messages() -> None:
    assert "AKIAABCDEFGHIJKL" not in str(RemoteError("denied for AKIAABCDEFGHIJKL"))
    assert "word" not in str(RemoteError("https://user:word@host failed"))


def test_a_cache_in_a_folder_has_no_tier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / "cache"))
    assert Store().tier is None
    assert cache_folder() == tmp_path / "cache"


def test_a_baseline_of_one_machine_is_not_trained_again_on_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", f"file://{tmp_path}/shared")
    (file := tmp_path / "one.safetensors").write_bytes(b"weights")
    offer_shared("baselines/key.safetensors", file)
    assert fetch_shared("baselines/key.safetensors", tmp_path / "two" / "file.safetensors")
    assert (tmp_path / "two" / "file.safetensors").read_bytes() == b"weights"
    assert not fetch_shared("baselines/other.safetensors", tmp_path / "three")
