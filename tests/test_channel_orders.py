"""Orders of channels: ranks, prefixes, keep sets, and checks of what pruners return."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress.contract import Coupling
from autocompress.contract.coupling import Part, counts

# --- orders ---------------------------------------------------------------------------------------


@st.composite
def couplings(draw: st.DrawFn) -> Coupling:
    """Couplings with blocks of up to three sizes, whose channels are scattered."""
    sizes = [
        size for size, number in draw(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 4)), min_size=1, max_size=3))
        for _ in range(number)
    ]  # fmt: skip
    channels = draw(st.permutations(range(sum(sizes))))
    blocks, start = [], 0
    for size in sizes:
        blocks.append(tuple(channels[start : start + size]))
        start += size
    index = tuple((channel,) for channel in range(len(channels)))
    return Coupling("a", len(channels), (Part("a", "out", index, len(channels)),), blocks=tuple(blocks))


def scores_of(coupling: Coupling, draw: Any) -> list[float]:
    """Scores with few different values, so that there are ties."""
    return draw(
        st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0, 1e-30]), min_size=coupling.channels, max_size=coupling.channels)
    )


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_ranked_order_takes_the_lowest_of_each_block_in_turn(data: st.DataObject) -> None:
    """Of equal scores, the last one comes first."""
    coupling = data.draw(couplings())
    scores = scores_of(coupling, data.draw)
    order = coupling.ranked(scores)
    coupling.check_order(order)
    for block in coupling.blocks:
        own = [channel for channel in order if channel in block]
        assert own == sorted(block, key=lambda channel: (scores[channel], -channel)), (
            "of equal scores, the last is removed first"
        )


@settings(max_examples=60, deadline=None)
@given(data=st.data(), rate=st.floats(0, 0.99), other=st.floats(0, 0.99), multiple=st.sampled_from([1, 2, 4, 8]))
def test_keep_sets_are_nested_and_respect_blocks(data: st.DataObject, rate: float, other: float, multiple: int) -> None:
    coupling = data.draw(couplings())
    scores = scores_of(coupling, data.draw)
    order = coupling.ranked(scores)
    few, many = (coupling.left_by(order, coupling.kept(share, multiple)) for share in sorted((rate, other))[::-1])
    assert set(few) <= set(many), "a narrower network keeps a subset of the channels of a wider one"
    assert few == sorted(few)
    coupling.check_keep(few)
    coupling.check_keep(many)
    for block, count in zip(coupling.blocks, coupling.kept(max(rate, other), multiple), strict=True):
        best = sorted(block, key=lambda channel: (-scores[channel], channel))[:count]
        assert set(best) == set(few) & set(block), "the highest scores are kept, and of equal scores the first"


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_prefixes_take_equal_shares_of_blocks(data: st.DataObject) -> None:
    """In every prefix, blocks of equal size have lost equally many channels, up to one."""
    coupling = data.draw(couplings())
    order = coupling.interleaved(coupling.blocks)
    assert sorted(order) == list(range(coupling.channels))
    for end in range(coupling.channels + 1):
        gone = set(order[:end])
        for size in {len(block) for block in coupling.blocks}:
            lost = [len(gone & set(block)) for block in coupling.blocks if len(block) == size]
            assert max(lost) - min(lost) <= 1


def coupling_of(*blocks: tuple[int, ...]) -> Coupling:
    channels = sum(len(block) for block in blocks)
    index = tuple((channel,) for channel in range(channels))
    return Coupling("conv", channels, (Part("conv", "out", index, channels),), blocks=blocks)


@pytest.mark.parametrize(
    ("order", "told"),
    [
        ([0, 1, 2], "permutation of 0..3"),
        ([0, 1, 2, 2], "permutation"),
        ([0, 1, 2, 4], "permutation"),
        ([0, 1, 2, 3], "in turns"),
        ([0, 2, 3, 1], None),
        ([2, 0, 1, 3], None),
    ],
)
def test_orders_are_checked(order: list[int], told: str | None) -> None:
    coupling = coupling_of((0, 1), (2, 3))
    if told is None:
        coupling.check_order(order)
    else:
        with pytest.raises(ValueError, match=f"conv: .*{told}"):
            coupling.check_order(order)


def test_invalid_scores_are_refused() -> None:
    coupling = coupling_of((0, 1, 2))
    for scores in ([1.0, 2.0], [1.0, math.nan, 2.0], [1.0, math.inf, 2.0]):
        with pytest.raises(ValueError, match="3 finite scores"):
            coupling.ranked(scores)


@pytest.mark.parametrize(("width", "rate", "dropped"), [(64, 0.45, 28), (16, 0.45, 7), (100, 0.29, 29), (8, 0.99, 7)])
def test_a_rate_removes_the_floor(width: int, rate: float, dropped: int) -> None:
    """SCOP removes floor(rate * M) channels, but never all."""
    assert counts(width, rate) == width - dropped
    assert coupling_of(tuple(range(width))).kept(rate) == [width - dropped]
