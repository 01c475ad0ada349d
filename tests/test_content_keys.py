"""Packed values, and the digests that are content keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress.files import digest
from autocompress.store import pack, unpack

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


def test_a_digest_depends_only_on_content() -> None:
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
def test_values_that_are_no_json_are_refused_by_name(value: Any, where: str) -> None:
    """The repr of a tensor is shortened, that of an object contains an address.

    Both would be wrong keys.
    """
    with pytest.raises(TypeError, match=where):
        digest("key", value)


def test_numbers_of_numpy_count_as_numbers() -> None:
    theirs = {"a": np.int64(3), "b": np.float64(0.5), "c": np.bool_(True)}
    assert digest(theirs) == digest({"a": 3, "b": 0.5, "c": True})
    assert digest(np.float32(0.1)) == digest(float(np.float32(0.1))) != digest(0.1)
