"""The content-keyed store: what goes in comes out, damage counts as absent, and the limit is kept."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress.compression.store import RECORD, TENSORS, Store, pack, unpack
from autocompress.files import digest


def test_an_entry_comes_back_as_it_went_in(tmp_path: Path) -> None:
    store = Store(tmp_path)
    tensors = {"weight": torch.randn(3, 4), "steps": torch.tensor(7)}
    store.put("key", tensors, {"steps": [1, {"a": None}]})
    found = store.get("key")
    assert found is not None
    assert torch.equal(found[0]["weight"], tensors["weight"])
    assert found[1] == {"steps": [1, {"a": None}]}
    assert (store.hits, store.misses) == (1, 0)


def test_tied_weights_can_be_kept(tmp_path: Path) -> None:
    shared = torch.randn(5)
    store = Store(tmp_path)
    store.put("key", {"a": shared, "b": shared}, {})
    found = store.get("key")
    assert found is not None
    assert torch.equal(found[0]["a"], found[0]["b"])


def test_an_absent_or_damaged_entry_is_a_miss(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.get("nothing") is None
    store.put("key", {"a": torch.ones(2)}, {})
    (tmp_path / "key" / TENSORS).write_bytes(b"torn")
    assert store.get("key") is None
    (tmp_path / "key" / RECORD).write_text("{")
    assert store.get("key") is None
    assert store.misses == 3


def test_the_first_entry_under_a_key_stays(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put("key", {"a": torch.ones(1)}, {"first": True})
    store.put("key", {"a": torch.zeros(1)}, {"first": False})
    found = store.get("key")
    assert found is not None
    assert found[1] == {"first": True}
    assert not list(tmp_path.glob(".*")), "no temporary folder may be left"


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
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


state = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4) | st.just("tensor"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(state)
@settings(max_examples=60, deadline=None)
def test_packing_is_reversible(value: object) -> None:
    def with_tensors(part: object) -> object:
        if part == "tensor":
            return torch.arange(3)
        if isinstance(part, dict):
            return {key: with_tensors(inner) for key, inner in part.items()}
        if isinstance(part, list):
            return [with_tensors(inner) for inner in part]
        return part

    def without(part: object) -> object:
        if isinstance(part, torch.Tensor):
            assert torch.equal(part, torch.arange(3))
            return "tensor"
        if isinstance(part, dict):
            return {key: without(inner) for key, inner in part.items()}
        if isinstance(part, list):
            return [without(inner) for inner in part]
        return part

    tensors, record = pack(with_tensors(value))
    assert without(unpack(tensors, record)) == value


def test_a_digest_depends_on_content_only() -> None:
    assert digest({"a": 1, "b": [2]}, "x") == digest({"b": [2], "a": 1}, "x")
    assert digest("ab", "c") != digest("a", "bc")
    assert digest({"a": 1}) != digest({"a": 1.5})
    assert digest({"a": (1, 2)}) == digest({"a": [1, 2]})
    assert digest(0.0) == digest(-0.0)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["ab", "c"], ["a", "bc"]),
        (["a"], ["a", None]),
        ([], [None]),
        ([[1, 2]], [1, 2]),
        (["1"], [1]),
        ([b"1"], [1]),
        ([b'"a"'], ["a"]),
        ([b"x\x00", b"y"], [b"x", b"\x00y"]),
        ([b"x\x00y"], [b"x", b"y"]),
        ([b"", b"a"], [b"a", b""]),
        ([True], [1]),
        (["None"], [None]),
    ],
)
def test_different_values_have_different_digests(one: list[Any], other: list[Any]) -> None:
    assert digest(*one) != digest(*other)


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (torch.zeros(2000), "Tensor"),
        ({"state": [1, {"weights": torch.zeros(3)}]}, r"state\[1\].weights"),
        ({"scores": np.zeros(2000)}, "ndarray"),
        ({"rate": float("nan")}, "nan at 'rate'"),
        ([1.0, float("inf")], "inf"),
        (np.float32("nan"), "nan"),
        ({"names": {"a", "b"}}, "set"),
        ({1: "a"}, "mapping key 1"),
        ({"home": Path("x")}, "Path"),
        ({"raw": b"x"}, "bytes"),
        (torch.float32, "dtype"),
        (object(), "object"),
        (1j, "complex"),
    ],
)
def test_what_is_not_json_is_refused_by_name(value: Any, where: str) -> None:
    """A tensor's text is shortened, and an object's holds its address: both would give wrong keys."""
    with pytest.raises(TypeError, match=where):
        digest("key", value)


def test_numbers_of_numpy_are_numbers() -> None:
    theirs = {"a": np.int64(3), "b": np.float64(0.5), "c": np.bool_(True)}
    assert digest(theirs) == digest({"a": 3, "b": 0.5, "c": True})
    assert digest(np.float32(0.1)) == digest(float(np.float32(0.1))) != digest(0.1)
