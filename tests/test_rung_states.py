"""The state table of recipes, tested as a state machine.

A search has a disk, a driver that may be killed between any two steps, and workers that may be
lost.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from autocompress.searching.promotion.states import (
    ASKED,
    LAST_RUNG,
    MOST_ATTEMPTS,
    Kept,
    RungTable,
    Standing,
    State,
    standing_of,
)

OUTCOMES = st.sampled_from(["better", "better", "better", "broke", "final"])


class Search(RuleBasedStateMachine):
    """A disk, and a driver with a table in memory.

    A worker writes its row before the driver is told. A promotion is written before a worker gets
    it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.disk: dict[int, Kept] = {}
        self.told: Counter[int] = Counter()
        self.best: dict[int, int] = {}
        self.lost: Counter[tuple[int, int]] = Counter()
        self.busy: set[int] = set()
        self.unheard: set[int] = set()

    @initialize()
    def begin(self) -> None:
        self.table = RungTable()

    # --- what happens -----------------------------------------------------------------------------

    @rule()
    def ask(self) -> None:
        number = len(self.disk)
        self.disk[number] = Kept()
        self.table.asked(number)

    @precondition(lambda self: self.unheld())
    @rule(data=st.data())
    def begin_work(self, data: Any) -> None:
        self.busy.add(data.draw(st.sampled_from(sorted(self.unheld()))))

    @precondition(lambda self: self.busy - self.unheard)
    @rule(data=st.data(), outcome=OUTCOMES)
    def write_row(self, data: Any, outcome: str) -> None:
        """A worker has finished: its row is on the disk, and the driver is not told yet."""
        self.write(data.draw(st.sampled_from(sorted(self.busy - self.unheard))), outcome)

    @precondition(lambda self: self.unheld())
    @rule(data=st.data(), outcome=OUTCOMES)
    def work_undisturbed(self, data: Any, outcome: str) -> None:
        number = data.draw(st.sampled_from(sorted(self.unheld())))
        self.write(number, outcome)
        self.hear_of(number)

    def write(self, number: int, outcome: str) -> None:
        before, tried = self.disk[number], self.table[number].tried
        rung = before.rung if outcome == "broke" else tried
        is_final = outcome != "better" or tried == LAST_RUNG
        if not before.is_told:
            self.told[number] += 1
        self.disk[number] = replace(before, rung=rung, is_told=True, reached=tried, is_final=is_final)
        self.unheard.add(number)

    @precondition(lambda self: self.unheard)
    @rule(data=st.data())
    def hear(self, data: Any) -> None:
        self.hear_of(data.draw(st.sampled_from(sorted(self.unheard))))

    def hear_of(self, number: int) -> None:
        standing, kept = self.table[number], self.disk[number]
        self.table.put(number, standing.ended(kept.rung) if kept.is_final else standing.kept())
        self.unheard.discard(number)
        self.busy.discard(number)

    @precondition(lambda self: self.busy - self.unheard)
    @rule(data=st.data())
    def lose_a_worker(self, data: Any) -> None:
        number = data.draw(st.sampled_from(sorted(self.busy - self.unheard)))
        after = self.table[number].lost()
        self.lost[number, self.table[number].tried] += 1
        self.busy.discard(number)
        if after.state is State.ENDED:  # the row of its failure is written first
            before = self.disk[number]
            self.told[number] += not before.is_told
            self.disk[number] = replace(before, is_told=True, reached=after.reached, is_final=True)
        self.table.put(number, after)

    @precondition(lambda self: any(self.table.ready(rung) for rung in range(LAST_RUNG)))
    @rule(data=st.data(), is_killed=st.booleans())
    def promote(self, data: Any, is_killed: bool) -> None:
        ready = [number for rung in range(LAST_RUNG) for number in self.table.ready(rung)]
        number = data.draw(st.sampled_from(ready))
        after = self.table[number].promoted()
        self.disk[number] = replace(self.disk[number], promoted=after.tried)
        if is_killed:
            self.kill()
        else:
            self.table.put(number, after)

    @rule()
    def kill(self) -> None:
        """The driver and its workers end. Another driver begins with the files on the disk."""
        self.busy.clear()
        self.unheard.clear()
        self.lost.clear()
        self.table = RungTable()
        for number, kept in self.disk.items():
            self.table.put(number, standing_of(kept))

    # --- what always holds ------------------------------------------------------------------------

    def unheld(self) -> set[int]:
        return {number for number in self.disk if self.table[number].is_open} - self.busy

    @invariant()
    def disk_and_memory_agree(self) -> None:
        for number, kept in self.disk.items():
            if number not in self.unheard:
                assert self.table[number].resumed() == standing_of(kept)

    @invariant()
    def each_recipe_is_told_once(self) -> None:
        for number, kept in self.disk.items():
            assert self.told[number] == int(kept.is_told)
            if number not in self.unheard:
                assert self.table[number].is_told == kept.is_told

    @invariant()
    def a_model_is_never_lost(self) -> None:
        for number, kept in self.disk.items():
            if number in self.best:
                assert kept.rung is not None
                assert kept.rung >= self.best[number]
            if kept.rung is not None:
                self.best[number] = kept.rung
                assert kept.rung <= LAST_RUNG

    @invariant()
    def nothing_is_tried_too_often(self) -> None:
        assert all(count <= MOST_ATTEMPTS for count in self.lost.values())

    @invariant()
    def fewer_are_promoted_than_were_there(self) -> None:
        for rung in range(LAST_RUNG):
            assert self.table.promotions(rung) <= self.table.reached(rung)
            assert set(self.table.ready(rung)) == {
                n for n in self.disk if (self.table[n].state, self.table[n].rung) == (State.KEPT, rung)
            }
        for rung in range(LAST_RUNG + 1):
            own = [self.table[n] for n in self.disk if self.table[n].rung is not None]
            assert self.table.reached(rung) == sum(one.reached is not None and one.reached >= rung for one in own)
        assert set(self.table.waiting()) == {n for n in self.disk if self.table[n].state is State.PROMOTED}


TestSearch = Search.TestCase
TestSearch.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_recipe_that_is_promoted_to_the_last_rung() -> None:
    standing = ASKED
    for rung in range(LAST_RUNG):
        standing = standing.kept()
        assert standing == Standing(State.KEPT, rung, rung)
        standing = standing.promoted()
        assert standing.tried == rung + 1
    assert standing.ended(LAST_RUNG) == Standing(State.ENDED, LAST_RUNG, LAST_RUNG)


def test_a_training_that_fails_leaves_the_model_of_the_rung_below() -> None:
    assert ASKED.kept().promoted().ended(0) == Standing(State.ENDED, 0, 1)
    assert ASKED.ended(None) == Standing(State.ENDED, None, 0)


@pytest.mark.parametrize(
    "event",
    [
        lambda: ASKED.promoted(),
        lambda: ASKED.ended(1),
        lambda: ASKED.kept().kept(),
        lambda: ASKED.kept().lost(),
        lambda: ASKED.kept().promoted().promoted(),
        lambda: ASKED.kept().promoted().ended(None),
        lambda: ASKED.ended(0).promoted(),
        lambda: Standing(State.PROMOTED, 1, 1).kept(),
    ],
)
def test_impossible_events_are_errors(event: Any) -> None:
    with pytest.raises(ValueError, match=r"cannot|no rung|no worker|not being tried"):
        event()


def test_a_recipe_is_asked_once() -> None:
    table = RungTable()
    table.asked(3)
    assert 3 in table
    with pytest.raises(ValueError, match="asked before"):
        table.asked(3)
