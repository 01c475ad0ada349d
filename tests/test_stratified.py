"""Stratified draws: each class keeps its share of the images."""

from __future__ import annotations

import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress.data import stratified


@settings(max_examples=40, deadline=None)
@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=120),
    share=st.floats(0, 1),
    seed=st.integers(0, 10),
)
def test_stratified_draw_keeps_each_class_in_proportion(labels: list[int], share: float, seed: int) -> None:
    values = torch.tensor(labels)
    n = round(share * len(labels))
    drawn, rest = stratified(values, n, seed)
    assert len(drawn) == n
    assert sorted([*drawn.tolist(), *rest.tolist()]) == list(range(len(labels)))
    assert torch.equal(drawn, stratified(values, n, seed)[0])
    for label in set(labels):
        expected = n * labels.count(label) / len(labels)
        assert abs(int((values[drawn] == label).sum()) - expected) <= 3


def ranked_by_class(labels: torch.Tensor, n: int, seed: int) -> list[int]:
    """The definition of a stratified draw, class by class.

    Ranks within a class, as fractions of its size.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).tolist()
    rank: dict[int, float] = {}
    for label in labels.unique().tolist():
        mine = [position for position in order if int(labels[position]) == label]
        rank |= {position: (number + 0.5) / len(mine) for number, position in enumerate(mine)}
    return sorted(sorted(order, key=lambda position: rank[position])[:n])


@settings(max_examples=60, deadline=None)
@given(labels=st.lists(st.integers(-3, 6), max_size=80), share=st.floats(0, 1), seed=st.integers(0, 5))
def test_a_stratified_draw_follows_its_definition(labels: list[int], share: float, seed: int) -> None:
    values = torch.tensor(labels, dtype=torch.int64)
    n = round(share * len(labels))
    assert stratified(values, n, seed)[0].tolist() == ranked_by_class(values, n, seed)


@pytest.mark.slow
def test_a_stratified_draw_of_many_classes_takes_as_long_as_a_sort() -> None:
    labels = torch.arange(1_000_000) % 1000
    began = time.process_time()
    torch.sort(labels, stable=True)
    sort = time.process_time() - began
    began = time.process_time()
    drawn, _ = stratified(labels, 100_000, seed=0)
    assert time.process_time() - began < 60 * sort + 1  # a loop over the classes would need a thousand passes
    assert torch.bincount(labels[drawn]).tolist() == [100] * 1000
