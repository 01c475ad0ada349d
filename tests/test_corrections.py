"""Tables that are corrected by finished trials, and new proposals from them."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from small_networks import TWO_BLOCKS
from toy_search import open_toy, toy_job

from autocompress.errors import TrialFailed
from autocompress.job import Constraints, load_job
from autocompress.opened.job import OpenedJob
from autocompress.proposals import Correction, Factor, Part, Problem, propose, with_measured
from autocompress.proposals.jobtables import Tables
from autocompress.proposals.lossless import is_beaten, lossless
from autocompress.proposals.proposer import Proposed, Proposer
from autocompress.proposals.reproposing import Reproposer
from autocompress.proposals.shares import KEEP
from autocompress.recipes.choosers import Replay
from autocompress.searching.corrections import EVERY, Corrections
from autocompress.searching.study import Study

BASELINE = {"accuracy": 90.0, "size_bytes": 1000, "macs": 100, "energy_uj": 8.0}


def problem() -> Problem:
    parts = tuple(Part(name, "structure", (1.0, 0.5, 0.25)) for name in ("a", "b"))
    costs = [Factor((part.key,), np.array([4.0, 2.0, 1.0])) for part in parts]
    losses = {part.key: np.array([0.0, 0.1, 0.4]) for part in parts}
    return Problem(parts, losses, {"latency": costs}, {"latency": 2.0})


def test_measurements_correct_a_cost_and_its_error() -> None:
    given = problem()
    selections = [(0, 0), (1, 0), (1, 1), (2, 1), (2, 2)]
    truth = [0.3 + 0.07 * given.cost("latency", own) for own in selections]
    found, error = with_measured(given, "latency", selections * 8, truth * 8)
    assert [found.cost("latency", own) for own in selections] == pytest.approx(truth, rel=0.02)
    assert error < 0.03
    noisy = [value * (1.2 if place % 2 else 0.8) for place, value in enumerate(truth * 8)]
    assert with_measured(given, "latency", selections * 8, noisy)[1] == pytest.approx(0.2, abs=0.03)


def test_one_measurement_corrects_the_scale_only() -> None:
    found, _ = with_measured(problem(), "latency", [(1, 1)], [12.0])
    assert found.cost("latency", (1, 1)) == pytest.approx(12.0)
    assert found.cost("latency", (0, 0)) == pytest.approx(20.0)


@pytest.mark.parametrize("measured", [[], [float("nan")], [0.0]])
def test_without_measurements_nothing_changes(measured: list[float]) -> None:
    given = problem()
    found, error = with_measured(given, "latency", [(0, 0)] * len(measured), measured)
    assert found is given
    assert np.isnan(error)


def test_a_corrected_divergence_is_recovered() -> None:
    correction = Correction.fit([0.01, 0.05, 0.2], [0.01, 0.08, 0.5])
    assert correction(correction.predicted(0.25)) == pytest.approx(0.25, rel=1e-3)
    assert Correction().predicted(0.25) == pytest.approx(0.25)


def test_a_search_proposes_again_after_some_rows_then_the_sampler_draws(tmp_path: Path) -> None:
    job = toy_job(tmp_path)
    job.folder.mkdir()
    opened = open_toy(job)
    study = Study(job.folder, job, BASELINE)
    values = {"toy.width": 0.25, "toy.bits": 8, "toy.lr": 0.1, "toy.fault": "none"}
    asked: list[int] = []

    def again(rows: Any, baseline: Any) -> Proposed:
        assert baseline is BASELINE
        asked.append(len(rows))
        return Proposed([("proposal, corrected", values)], lambda budget, tilts: {}, [], [])

    first = Proposed([], lambda budget, tilts: {}, [], [], again=again)
    corrections = Corrections(study, first, BASELINE, [])
    study.before_ask = corrections.before_ask
    for number in range(EVERY):
        assert not asked, number
        corrections.add({"trial": number})
    labels = [one.label for _ in range(2) if (one := study.ask(opened.compose)) is not None]
    assert asked == [EVERY]
    assert labels == ["proposal, corrected", ""]


def test_an_error_in_the_tables_does_not_end_a_search(tmp_path: Path) -> None:
    def again(rows: Any, baseline: Any) -> Proposed:
        raise ValueError("a table that is broken")

    job = toy_job(tmp_path)
    job.folder.mkdir()
    first = Proposed([], lambda budget, tilts: {}, [], [], again=again)
    corrections = Corrections(Study(job.folder, job, BASELINE), first, BASELINE, [{}] * EVERY)
    corrections.before_ask(False)
    corrections.before_ask(False)


def test_proposals_that_cost_more_than_a_lossless_trial_are_dropped(tmp_path: Path) -> None:
    """A trial at 0.4 of the latency without a loss makes two of three proposals useless.

    They are predicted at 0.75, 0.5 and 0.25.
    """
    job = toy_job(tmp_path)
    job.folder.mkdir()
    opened = open_toy(job)
    study = Study(job.folder, job, BASELINE)
    values = {"toy.bits": 8, "toy.lr": 0.1, "toy.fault": "none"}
    waiting = [(f"at {width}", {"toy.width": width, **values}) for width in (0.75, 0.5, 0.25)]
    asked: list[int] = []

    def again(rows: Any, baseline: Any) -> Proposed:
        asked.append(len(rows))
        return Proposed([("lower", {"toy.width": 0.35, **values})], lambda budget, tilts: {}, [], [])

    def ratios(recipe: Any) -> dict[str, float]:
        return {"latency": recipe["toy.width"]}

    first = Proposed(waiting, lambda budget, tilts: {}, [], [], again=again, ratios=ratios, error=0.05)
    corrections = Corrections(study, first, BASELINE, [])
    study.enqueue_proposals(waiting)
    study.before_ask = corrections.before_ask
    corrections.add(row_of(0, {}, 0.4) | {"accuracy_drop": 0.5})
    corrections.add(row_of(1, {}, 0.4) | {"accuracy_drop": 0.0, "status": "infeasible"})
    corrections.before_ask(study.is_waiting)
    assert study.is_waiting
    corrections.add(row_of(2, {}, 0.4) | {"accuracy_drop": 0.0})
    labels = [one.label for _ in range(3) if (one := study.ask(opened.compose)) is not None]
    assert labels == ["at 0.25", "lower", ""]
    assert asked == [3], "they are replaced at once, not after eight rows"


def test_which_proposals_are_dominated() -> None:
    rows = [row_of(n, {}, ratio) | {"accuracy_drop": drop} for n, (ratio, drop) in enumerate([(0.5, 0.0), (0.2, 1.0)])]
    best = lossless([*rows, row_of(2, {}, 0.6) | {"accuracy_drop": -1.0}], ["latency"], BASELINE)
    assert best == [{"latency": 0.5}]
    assert is_beaten({"latency": 0.56}, best, margin=0.1)
    assert not is_beaten({"latency": 0.54}, best, margin=0.1)
    assert not is_beaten({}, best, margin=0.1)
    assert lossless(rows, ["latency", "size"], BASELINE) == [], "its size is not known"
    assert lossless(rows, [], BASELINE) == []


def test_budgets_are_below_the_largest_useful_one() -> None:
    costs = [one.allocation.costs["latency"] for one in propose(problem(), ["latency"], most={"latency": 6.0})]
    assert costs
    assert max(costs) <= 6.0
    assert max(one.allocation.costs["latency"] for one in propose(problem(), ["latency"])) == 10.0


# --- of a real network ----------------------------------------------------------------------------


def row_of(number: int, values: dict[str, Any], ratio: float) -> dict[str, Any]:
    costs = {"latency_ratio": ratio, "size_bytes": None, "macs": None, "energy_uj": None, "divergence": None}
    return {"trial": number, "status": "complete", "recipe": values, "latency": {"baseline_ms": 2.0}, **costs}


def kept(values: dict[str, Any]) -> list[float]:
    return [value for name, value in sorted(values.items()) if name.startswith(KEEP)]


def predicted(proposer: Proposer) -> Tables:
    """The tables with latencies proportional to multiply-adds.

    Measured latencies of this small network are noisy: on a busy machine wider layers may look
    faster than narrower ones.
    """
    tables = proposer.maker.tables()
    assert tables is not None
    problem, costs = tables.problem, tables.problem.costs
    fixed = {**problem.fixed, "latency": 0.0}
    problem = replace(problem, costs={**costs, "latency": costs["macs"]}, fixed=fixed)
    wholes = {**tables.wholes, "latency": tables.wholes["macs"]}
    return replace(tables, problem=problem, wholes=wholes, errors={**tables.errors, "latency": 0.05})


@pytest.mark.slow
def test_new_proposals_use_the_measured_costs(opened: OpenedJob) -> None:
    """The first trials are slower than predicted, so new proposals remove more channels."""
    job = opened.job.model_copy(update={"constraints": Constraints.model_validate({"latency": "0.95x"})})
    proposer = Proposer(replace(opened, job=job).table_maker())
    tables = predicted(proposer)
    reproposer = Reproposer(proposer, tables)
    assert reproposer.again([], BASELINE) is None
    untrained = [(label, dict(values)) for label, values in proposer.recipes(tables) if not values["recover.epochs"]]
    tried = [(float(label.split()[2]), values) for label, values in untrained if float(label.split()[2]) > 0.8]
    assert tried
    rows = [row_of(n, values, 1.2 * ratio) for n, (ratio, values) in enumerate(tried)]
    made = reproposer.again(rows, BASELINE)
    assert made is not None
    assert made.recipes
    for label, values in made.recipes:
        assert "corrected" in label
        assert kept(values) not in [kept(row["recipe"]) for row in rows]
        assert sum(kept(values)) < max(sum(kept(row["recipe"])) for row in rows)


@pytest.mark.slow
def test_proposals_are_also_tried_in_float_if_int8_gains_little(opened: OpenedJob) -> None:
    job = opened.job.model_copy(update={"constraints": Constraints.model_validate({"latency": "0.5x"})})
    proposer = Proposer(replace(opened, job=job).table_maker())
    tables = predicted(proposer)
    full = tables.problem.cost("latency", tables.problem.neutral())

    def in_float(gain: float) -> list[dict[str, Any]]:
        known = replace(tables, wholes={**tables.wholes, "latency": full / gain}, errors={"latency": 0.05})
        found = proposer.recipes(known)
        assert ", in float" not in found[0][0]
        return [values for label, values in found if ", in float" in label]

    assert not in_float(0.4)
    made = in_float(0.9)
    assert len(made) > 4
    for values in made:
        recipe = opened.compose(Replay(values))
        assert not recipe.bits
        assert recipe.prune is not None


@pytest.mark.slow
@pytest.mark.parametrize("objectives", [("accuracy", "size"), ("accuracy", "macs"), ("accuracy", "latency", "size")])
def test_proposals_for_other_objectives(opened: OpenedJob, objectives: tuple[str, ...]) -> None:
    proposer = Proposer(replace(opened, job=opened.job.model_copy(update={"objectives": objectives})).table_maker())
    tables = predicted(proposer)
    recipes = proposer.recipes(tables)
    assert len(recipes) > 8
    cost = objectives[1]
    assert all(f"of the {cost}" in label or "training" in label for label, _ in recipes)
    assert tables.widths(0.5, {})


@pytest.mark.slow
def test_if_probes_fail_costs_are_multiply_adds(opened: OpenedJob, monkeypatch: pytest.MonkeyPatch) -> None:
    from autocompress.proposals import costmaker

    monkeypatch.setattr(costmaker, "PROBES_VERSION", "a test's own, so that no probe is kept")

    def fails(*_: Any, **__: Any) -> None:
        raise TrialFailed("no such operator")

    monkeypatch.setattr(OpenedJob, "export", fails)
    made = opened.proposals()
    assert made is not None
    assert len(made.recipes) > 8
    assert any("proportional to multiply-adds" in note for note in made.notes)


def divergences(made: Proposed | None) -> dict[tuple[str, Any], Any]:
    """The table of divergences."""
    assert made is not None
    return {(row["name"], row["choice"]): row["divergence"] for row in made.rows}


@pytest.fixture(scope="module")
def narrow(cache: Path) -> OpenedJob:
    """A job with few couplings, whose baseline is not trained."""
    del cache
    network = {"model": "test_resnet", "model_args": TWO_BLOCKS, "data": "digits", "baseline": {"epochs": 0}}
    return OpenedJob.open(load_job(settings={**network, "methods": ["obs", "quantize"], "name": "narrow"}))


@pytest.fixture(scope="module")
def table_of_one(narrow: OpenedJob) -> dict[tuple[str, Any], Any]:
    """The table as one process makes it, none of it from the store."""
    from autocompress.proposals import costmaker, tablemaker

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(costmaker, "PROBES_VERSION", "a version for one process")
        patch.setattr(tablemaker, "VERSION", "a version for one process")
        return divergences(narrow.proposals())


@pytest.mark.slow
@pytest.mark.parametrize("dies", [False, True])
def test_two_processes_make_the_table_of_one(
    narrow: OpenedJob, table_of_one: dict[tuple[str, Any], Any], dies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autocompress import forking
    from autocompress.proposals import costmaker, helping, tablemaker

    monkeypatch.setattr(costmaker, "PROBES_VERSION", f"a third version of a test's own, {dies}")
    monkeypatch.setattr(tablemaker, "VERSION", f"a version of a test's own, {dies}")
    monkeypatch.setattr(forking, "may_fork", lambda: True)
    job = replace(narrow)
    if dies:
        monkeypatch.setattr(helping, "MachineLock", lambda: os._exit(1))  # only the forked process calls it
    job.begin_proposals()
    assert divergences(job.proposals()) == table_of_one


@pytest.mark.slow
def test_waiting_for_measurements_of_trials_takes_no_time_from_tables(
    opened: OpenedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier, slow measurements left most couplings without a cell, so they were not pruned."""
    from autocompress.proposals import tablemaker

    waited = 0.0

    def pause() -> None:
        nonlocal waited
        waited += 1000.0

    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + waited)
    monkeypatch.setattr(tablemaker, "time", clock)
    monkeypatch.setattr(tablemaker, "VERSION", "a version of a test's own, waiting")
    monkeypatch.setattr(tablemaker, "table_seconds", lambda job: 600.0)
    made = replace(opened).proposals(pause=pause)
    assert made is not None
    assert waited > 600
    assert {row["name"] for row in made.rows} == {row["name"] for row in made.rows if row["measured"]}


@pytest.mark.slow
def test_a_table_that_was_cut_short_is_not_kept(opened: OpenedJob, monkeypatch: pytest.MonkeyPatch) -> None:
    from autocompress.proposals import tablemaker

    monkeypatch.setattr(tablemaker, "VERSION", "a version of a test's own, cut short")

    def measured(seconds: float) -> tuple[set[str], Proposed]:
        monkeypatch.setattr(tablemaker, "table_seconds", lambda job: seconds)
        made = replace(opened).proposals()
        assert made is not None
        return {row["name"] for row in made.rows if row["measured"]}, made

    few, short = measured(0.001)
    assert len(few) == 2, "the first two cells are always measured"
    couplings = {row["name"] for row in short.rows}
    assert f"no time to measure {len(couplings) - 2} of {len(couplings)} couplings" in "".join(short.notes)
    many, whole = measured(600.0)
    assert many == couplings
    assert "no time to measure" not in "".join(whole.notes)
    assert measured(0.001)[0] == couplings, "a whole table is kept"
