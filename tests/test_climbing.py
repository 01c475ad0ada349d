"""Promotions.

Which recipes are trained further, the results in their rows, and workers that are lost.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from climbing_toy import BASELINE, open_climbing_toy
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_search import offer_toy_device, toy_job

from autocompress.job import Job
from autocompress.objectives.fronts import Contenders
from autocompress.report import view
from autocompress.results import SearchResult, frame
from autocompress.searching.dispatch import Allowance, Dispatcher
from autocompress.searching.ledger import Ledger
from autocompress.searching.modelfiles import KeptModels
from autocompress.searching.promotion.choosing import ETA, FIRST_PASS, TIMES_SCORING, UNKNOWN_TIMES, Climbing, Promotion
from autocompress.searching.promotion.gain import Climber, Gains
from autocompress.searching.promotion.rows import begun, climbed
from autocompress.searching.promotion.states import Standing, State
from autocompress.searching.promotion.summary import climbing_summary
from autocompress.searching.spool import Spool
from autocompress.searching.study import Asked, Study


def row_of(number: int, drop: float, latency: float, **other: Any) -> dict[str, Any]:
    """The row of a recipe on rung 0 that can be promoted."""
    costs = {"latency_ratio": latency, "latency_ms": latency, "size_bytes": 1000, "seconds": 1.0}
    row = {"trial": number, "status": "complete", "reason": "", "rung": 0, "recipe": {}, "label": "", **costs}
    row |= {"accuracy": 90.0 - drop, "accuracy_drop": drop, "family": "obs", "divergence": drop / 40}
    return begun({**row, "artifact": f"artifacts/{number}", **other})


def after(row: dict[str, Any], gain: float, rung: int = 1) -> dict[str, Any]:
    """The row of the same recipe on the next rung."""
    accuracy = row["accuracy"] + gain
    artifact = f"artifacts/{row['trial']}-rung{rung}"
    new = {**row, "accuracy": accuracy, "accuracy_drop": 90.0 - accuracy, "seconds": 5.0, "artifact": artifact}
    return climbed(row, new, rung)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return toy_job(tmp_path_factory.mktemp("climbing"))


LONG = {"trial": 99, "status": "failed", "reason": "hung", "seconds": 1e6, "rung": 0, "recipe": {}, "label": ""}
"""A recipe that took so long that there is time for every training."""


def climbing_of(job: Job, rows: list[dict[str, Any]], promoted: dict[int, int] | None = None) -> Climbing:
    return Climbing(job, BASELINE, rows, promoted or {})


def deep(count: int) -> list[dict[str, Any]]:
    """``count`` recipes, each faster and less accurate than the one before."""
    return [row_of(number, 1.0 + 0.4 * number, 0.5 * 0.9**number) for number in range(count)]


# --- what training will gain ----------------------------------------------------------------------


def test_the_prior_gain_is_the_measured_one() -> None:
    gains = Gains()
    assert gains.predict(Climber(2.35, 0.056, "obs", 1)).mean == pytest.approx(0.7, abs=0.3)
    assert gains.predict(Climber(0.25, 0.005, "obs", 1)).mean < 0.1
    assert gains.predict(Climber(-0.5, 0.005, "obs", 1)).upper == 0
    assert gains.predict(Climber(8.0, 0.3, "obs", 1)).mean > 2


@given(
    seen=st.lists(st.tuples(st.floats(0, 10), st.floats(1e-4, 1), st.floats(-2, 9), st.sampled_from("ab")), max_size=9),
    drop=st.floats(-1, 20),
    divergence=st.none() | st.floats(0, 3),
)
def test_no_gain_exceeds_the_loss(
    seen: list[tuple[float, float, float, str]], drop: float, divergence: float | None
) -> None:
    known = [(Climber(lost, kl, family, 1), gain) for lost, kl, gain, family in seen]
    found = Gains(known).predict(Climber(drop, divergence, "a", 1))
    assert 0 <= found.mean <= found.upper <= max(drop, 0)


def test_promoted_recipes_correct_the_gain_of_their_family() -> None:
    of = lambda family: Climber(5.0, 0.1, family, 1)  # noqa: E731
    before = Gains().predict(of("ghost"))
    gains = Gains([(of("ghost"), 4.5)] * 6 + [(of("obs"), 0.2)] * 6)
    assert gains.predict(of("ghost")).mean > before.mean > gains.predict(of("obs")).mean
    assert gains.predict(of("ghost")).upper - gains.predict(of("ghost")).mean < before.upper - before.mean


# --- who climbs -----------------------------------------------------------------------------------


def test_one_in_four_and_one_of_each_family_are_promoted(job: Job) -> None:
    climbing = climbing_of(job, [*deep(8), row_of(8, 4.5, 0.3, family="ghost"), LONG])
    found: list[Promotion] = []
    while (promotion := climbing.next(is_last=True, seconds=None)) is not None:
        found.append(promotion)
        climbing.promote(promotion)
    assert len(found) == 9 // ETA + 1
    assert {one.rung for one in found} == {1}
    assert 8 in [one.number for one in found], "the only one of its family"


def test_recipes_without_gain_or_with_too_high_costs_are_not_promoted(tmp_path: Path) -> None:
    job = toy_job(tmp_path, constraints={"latency": "0.4x", "accuracy_drop": 2.0})
    mild, slow = row_of(0, 0.1, 0.3), row_of(1, 4.0, 0.9)
    lost, fits = row_of(2, 40.0, 0.01), row_of(3, 3.0, 0.2)
    climbing = climbing_of(job, [mild, slow, lost, fits, LONG])
    assert climbing.next(is_last=True, seconds=None) == Promotion(3, 1)


def test_a_recipe_whose_training_will_meet_the_accuracy_is_preferred(tmp_path: Path) -> None:
    job = toy_job(tmp_path, constraints={"accuracy_drop": 0.5})
    rows = [row_of(0, 9.5, 0.1), row_of(1, 1.0, 0.2), row_of(2, 8.0, 0.12), row_of(3, 9.0, 0.11)]
    climbing = climbing_of(job, [*rows, LONG])
    assert climbing.next(is_last=True, seconds=None) == Promotion(1, 1)


def test_the_time_for_scoring_predicts_that_of_the_first_training(job: Job) -> None:
    rows = [{**row, "stages": {"accuracy": 0.1}} for row in deep(8)]  # a second for each
    climbing = Climbing(job, BASELINE, rows, {}, {1: 5.0})
    assert climbing.expected_seconds(1) == pytest.approx(1 + TIMES_SCORING * 0.1 * 5)
    assert climbing_of(job, rows).expected_seconds(1) == pytest.approx(UNKNOWN_TIMES)


def test_promotions_take_their_share_of_the_time_and_no_more(job: Job) -> None:
    climbing = climbing_of(job, deep(8))  # a second for each; the first training is expected to take ten
    assert climbing.next(is_last=False, seconds=None) is None
    assert climbing.next(is_last=True, seconds=None) is None
    climbing = climbing_of(job, deep(12))
    assert climbing.next(is_last=False, seconds=None) is None
    assert climbing.next(is_last=True, seconds=9.0) is None, "it would not finish in time"
    assert climbing.next(is_last=True, seconds=11.0) is not None
    assert climbing_of(job, deep(24)).next(is_last=False, seconds=None) is not None


def test_the_highest_rung_comes_first(job: Job) -> None:
    rows = deep(16)
    climbing = climbing_of(job, [*rows, LONG])
    for _ in range(4):
        promotion = climbing.next(is_last=True, seconds=None)
        assert promotion is not None
        climbing.promote(promotion)
        climbing.add(after(climbing.row(promotion.number), 0.5))
    found = climbing.next(is_last=True, seconds=None)
    assert found is not None
    assert found.rung == 2
    climbing.promote(found)
    climbing.add(after(climbing.row(found.number), 0.4, rung=2))
    assert climbing.table[found.number].rung == 2
    assert climbing.next(is_last=True, seconds=None) is None


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_after_any_events_rungs_stay_within_their_size_and_a_resume_agrees(job: Job, data: st.DataObject) -> None:
    numbers = st.tuples(st.floats(0, 12), st.floats(0.02, 1.2), st.sampled_from(["obs", "ghost"]))
    drawn = data.draw(st.lists(numbers, min_size=1, max_size=24))
    rows = {n: row_of(n, drop, ratio, family=family) for n, (drop, ratio, family) in enumerate(drawn)}
    climbing = climbing_of(job, [LONG])
    promoted: dict[int, int] = {}
    for row in list(rows.values()):
        climbing.add(row)
        promotion = climbing.next(is_last=True, seconds=None)
        if promotion is None:
            continue
        promoted[promotion.number] = promotion.rung
        climbing.promote(promotion)
        assert climbing_of(job, list(rows.values()), promoted).table.waiting() == climbing.table.waiting()
        gain = data.draw(st.floats(-1, 2))
        rows[promotion.number] = after(rows[promotion.number], gain, promotion.rung)
        climbing.add(rows[promotion.number])
    for rung in (0, 1):
        families = 2 if rung == 0 else 0
        assert climbing.table.promotions(rung) <= climbing.table.reached(rung) // ETA + families
    again = climbing_of(job, list(rows.values()), promoted)
    assert all(again.table[n].resumed() == climbing.table[n].resumed() for n in rows)


# --- rows -----------------------------------------------------------------------------------------


def test_the_row_of_a_rung_counts_only_if_it_gains() -> None:
    below = row_of(3, 4.0, 0.3)
    better = after(below, 1.5)
    assert (better["rung"], better["accuracy"], better["accuracy_rung0"]) == (1, 87.5, 86.0)
    assert better["rungs"] == {"0": 86.0, "1": 87.5}
    assert better["seconds"] == 6.0
    worse = after(better, -0.2, rung=2)
    assert (worse["rung"], worse["accuracy"], worse["artifact"]) == (1, 87.5, "artifacts/3-rung1")
    assert worse["rungs"] == {"0": 86.0, "1": 87.5, "2": 87.3}
    assert worse["reason"] == "rung 2 gave no gain (it has 87.3 %, and 87.5 % before it); the model of rung 1 stays"
    broke = climbed(below, {"status": "failed", "reason": "train: the loss is nan", "seconds": 2.0}, 1)
    assert broke["status"] == "complete"
    assert (broke["rung"], broke["is_final"]) == (0, True)
    assert "rung 1 gave no gain (train: the loss is nan); the model of rung 0 stays" in broke["reason"]


def test_tables_and_files_use_the_row_of_the_higher_rung(job: Job, tmp_path: Path) -> None:
    rows = [row_of(0, 1.0, 0.5), row_of(1, 4.0, 0.3)]
    for row in [*rows, after(rows[1], 1.0)]:
        (tmp_path / row["artifact"]).mkdir(parents=True)
        (tmp_path / row["artifact"] / "model.onnx").write_text("x")
    ledger, kept = Ledger(tmp_path, rows), KeptModels(tmp_path, job, BASELINE, rows)
    higher = after(rows[1], 1.0)
    ledger.add(higher)
    kept.add(higher)
    assert [row["accuracy"] for row in ledger.rows] == [89.0, 87.0]
    assert [row["accuracy"] for row in kept.front] == [89.0, 87.0]
    assert not (tmp_path / "artifacts/1/model.onnx").exists()
    assert (tmp_path / "artifacts/1-rung1/model.onnx").exists()
    contenders = Contenders(job.objectives, BASELINE, rows)
    contenders.discard(1)
    assert [row["trial"] for row in contenders.rows] == [0]


# --- workers that are lost ------------------------------------------------------------------------


class Driver:
    """A dispatcher after its first pass, with one recipe that waits for its promotion."""

    def __init__(self, folder: Path) -> None:
        offer_toy_device()
        job = toy_job(folder, sampler="random")
        job.folder.mkdir()
        self.study = Study(job.folder, job, BASELINE)
        self.study.enqueue_proposals([])
        self.opened = open_climbing_toy(job)
        self.climbing = climbing_of(job, [LONG, *({**LONG, "trial": 90 + n, "seconds": 1.0} for n in range(3))])
        self.rows: list[dict[str, Any]] = []
        allowance = Allowance(2, None, trial_seconds=60.0)
        note = lambda _: None  # noqa: E731
        self.spool = Spool(folder / "toy")
        self.dispatcher = Dispatcher(
            self.study, self.opened.compose, allowance, self.spool, self.rows.append, note, None, self.climbing
        )
        self.number = self.hand_out("first").number
        self.finish("first", row_of(self.number, 4.0, 0.3))

    def hand_out(self, worker: str) -> Asked:
        asked = self.dispatcher.hand_out(worker)
        assert asked is not None
        return asked

    def finish(self, worker: str, row: dict[str, Any]) -> None:
        self.dispatcher.finished(worker, row)
        self.dispatcher.tell(row)


def test_a_rung_with_a_lost_worker_is_tried_again_and_then_given_up(tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    for attempt in range(3):
        asked = driver.hand_out(f"worker {attempt}")
        assert (asked.number, asked.rung) == (driver.number, 1)
        driver.dispatcher.lost(f"worker {attempt}", "the actor died")
    row = driver.study.row(driver.number)
    assert row is not None
    assert (row["status"], row["rung"], row["accuracy"]) == ("complete", 0, 86.0)
    assert "rung 1 gave no gain (the worker was lost" in row["reason"]
    assert driver.rows[-1] == row
    assert driver.climbing.table[driver.number] == Standing(State.ENDED, 0, 1)
    assert driver.hand_out("other").rung == 0


def test_a_worker_that_dies_after_its_row_of_a_rung_loses_nothing(tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    asked = driver.hand_out("worker")
    assert asked.below is not None
    driver.spool.write(asked.number, asked.attempt, after(asked.below, 2.0))
    driver.dispatcher.lost("worker", "the actor died")
    assert (driver.rows[-1]["rung"], driver.rows[-1]["accuracy"]) == (1, 88.0)


def test_a_training_that_hangs_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver, now = Driver(tmp_path), [time.time()]
    monkeypatch.setattr(time, "time", lambda: now[0])
    driver.hand_out("worker")
    now[0] += 60.0
    driver.dispatcher.lost("worker", "the actor died")
    assert "time-out: it took longer than 1 minutes" in driver.rows[-1]["reason"]
    assert driver.rows[-1]["status"] == "complete"


def test_nothing_is_promoted_before_the_first_proposals_were_tried(tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    driver.study.enqueue({"toy.width": 0.25, "toy.bits": 32, "toy.lr": 0.1})
    asked = driver.hand_out("worker")
    assert (asked.rung, asked.values["toy.width"]) == (0, 0.25)
    assert driver.hand_out("other").rung == 1, "recipes are promoted even if all trials are spent"
    assert driver.dispatcher.work_left == 2


def test_recipes_are_promoted_beside_further_proposals(tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    for number in range(20, 20 + FIRST_PASS):
        driver.climbing.add(row_of(number, 0.0, 0.5))
    driver.study.enqueue({"toy.width": 0.25, "toy.bits": 32, "toy.lr": 0.1})
    assert driver.hand_out("worker").rung == 1
    assert driver.hand_out("other").rung == 0


def test_the_gains_of_rungs_are_in_the_summary_and_the_report() -> None:
    rows = [after(row, gain) for row, gain in zip(deep(4), (1.0, 0.5, -0.5, 2.0), strict=True)]
    found = climbing_summary([*rows, row_of(9, 1.0, 0.5), LONG])
    assert set(found) == {"1"}
    assert found["1"] == {"trained": 4, "gained": 3, "points": 0.875, "spearman": pytest.approx(0.4, abs=0.61)}
    assert climbing_summary(rows[:2])["1"]["spearman"] is None
    assert climbing_summary([]) == {}
    shown = SearchResult(Path(), {}, frame([]), frame([]), {"rungs": {"1": {**found["1"], "spearman": 0.8}}})
    assert view.rungs(shown) == [
        "Rung 1: 4 recipes trained, 3 gained accuracy; mean gain 0.88 points; "
        "rank correlation (Spearman) of accuracy on rung 0 and on rung 1: 0.80."
    ]
