"""A failure costs one trial, on real Ray.

An exception, NaN, memory, a killed worker, a hanging worker.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn
from toy_search import FAULTS, OpenedToy, offer_toy_device, toy_job
from toy_search import open_toy as open_plain

from autocompress.contract import Context, Params, Plan, Space, Stage, Transform, Value
from autocompress.contract.space import Chooser
from autocompress.errors import CannotWork
from autocompress.job import Job
from autocompress.searching import run
from autocompress.searching.settings import Settings
from autocompress.searching.spool import Spool
from autocompress.searching.study import Study
from autocompress.searching.trainable import Worker

EXPECTED = {
    "space": "compose: KeyError: 'a fault in a search space'",
    "raise": "train: ValueError: a plugin's fault",
    "nan": "train: the loss is not a number",
    "memory": "train: out of memory: asked for 1 TB",
    "die": "the worker was lost: it was killed, ran out of memory or crashed (3 times)",
}


class FaultyToy(OpenedToy):
    """Begins with a recipe for each failure, then one that works."""

    def starting_points(self, sensitivity: object = ()) -> list[tuple[str, dict[str, Value]]]:
        del sensitivity
        whole: dict[str, Value] = {"toy.width": 0.5, "toy.bits": 8, "toy.lr": 0.1}
        return [(fault, {**whole, "toy.fault": fault}) for fault in (*EXPECTED, "none")]


def open_faulty(job: Job, progress: object = None) -> FaultyToy:
    del progress
    plain = open_plain(job)
    return FaultyToy(job, plain.folder)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_every_failure_is_one_row_and_the_search_continues(tmp_path: Path) -> None:
    offer_toy_device()
    job = toy_job(tmp_path, space={"toy": {"fault": FAULTS}}, budget={"trials": len(EXPECTED) + 1})
    found = run.search(job, opener=open_faulty)
    assert len(found.trials) == len(EXPECTED) + 1
    reasons = {row["recipe"]["toy.fault"]: row["reason"] for _, row in found.trials.iterrows()}
    assert reasons == {**EXPECTED, "none": ""}
    assert found.summary["trials"]["failed"] == len(EXPECTED)
    assert list(found.models["trial"]) == [len(EXPECTED)]
    assert "Traceback" in (found.folder / "log.txt").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_worker_that_hangs_is_ended_and_replaced(tmp_path: Path) -> None:
    """All trials hang. On a busy machine, a trial that does not might exceed so short a limit."""
    offer_toy_device()
    job = toy_job(tmp_path, space={"toy": {"fault": "hang"}}, budget={"trials": 2, "trial_minutes": 0.05})
    found = run.search(job, opener=open_plain)
    assert found.trials["reason"].tolist() == ["time-out: it took longer than 0.05 minutes"] * 2
    assert found.summary["ended"] == "all trials are spent"


def test_a_space_that_always_raises_ends_the_search_with_one_row(tmp_path: Path) -> None:
    def broken(chooser: Chooser) -> None:
        Space(chooser).categorical("width", [1, 2], default=1)
        raise RuntimeError("no\nspace")

    job = toy_job(tmp_path)
    job.folder.mkdir()
    study = Study(job.folder, job, {"accuracy": 90.0})
    widths = []
    while (asked := study.ask(broken)) is not None:
        widths.append(asked.values["width"])
    assert sorted(widths) == [1, 2]
    assert [row["status"] for row in study.rows()] == ["failed"] * 2
    assert {row["reason"] for row in study.rows()} == {"compose: RuntimeError: no space"}


def test_a_worker_that_cannot_open_the_job_says_why(tmp_path: Path) -> None:
    def closed(job: Job, progress: object = None) -> OpenedToy:
        raise RuntimeError(f"no room for {job.name} {progress}")

    offer_toy_device()
    job = toy_job(tmp_path)
    opened = open_plain(job)
    study = Study(job.folder, job, {"accuracy": 90.0})
    asked = study.ask(opened.compose)
    assert asked is not None
    (job.folder / "ray").mkdir()
    settings = Settings(job, job.folder, {"accuracy": 90.0}, threads=1, cwd=Path.cwd(), methods={}, opener=closed)
    with pytest.raises(CannotWork, match="the worker could not open the job: RuntimeError: no room for toy None"):
        Worker(settings, Spool(job.folder)).run(asked)
    assert not list(Spool(job.folder).waiting()), "another worker tries it"


class Named(Transform):
    """A method with the required members only."""

    version, stage, reference = "2", Stage.SUBSTITUTE, "none"

    def __init__(self, name: str) -> None:
        self.name = name  # type: ignore[misc]

    def search_space(self, space: Space, model: object) -> Params:
        return {}

    def apply(self, model: nn.Module, params: Params, context: Context) -> tuple[nn.Module, Plan]:
        return model, {}

    def rebuild(self, model: nn.Module, plan: Plan) -> nn.Module:
        return model


def test_a_worker_with_other_methods_than_the_driver_names_the_difference(tmp_path: Path) -> None:
    offer_toy_device()
    job = toy_job(tmp_path)
    opened = open_plain(job)
    study = Study(job.folder, job, {"accuracy": 90.0})
    (job.folder / "ray").mkdir()
    opened_jobs = [
        replace(opened, methods=(Named("ghost"),), refused={"scop": ["it could not prepare: RuntimeError: no memory"]}),
        replace(opened, methods=(Named("ghost"), Named("scop"))),
        replace(opened, methods=(Named("ghost"), Named("own"))),
        replace(opened, methods=(Named("scop"), Named("ghost"))),
    ]
    versions = [{"ghost": "2", "scop": "2"}, {"ghost": "2", "scop": "1"}, {"ghost": "2"}, {"ghost": "2", "scop": "2"}]
    reasons = []
    for own, methods in zip(opened_jobs, versions, strict=True):
        asked = study.ask(opened.compose)
        assert asked is not None
        settings = Settings(
            job, job.folder, {"accuracy": 90.0}, 1, Path.cwd(), methods, opener=lambda job, own=own: own
        )
        try:
            reasons.append(Worker(settings, Spool(job.folder)).run(asked)["reason"])
        except CannotWork as error:
            reasons.append(str(error))
    start = "the worker could not open the job: "
    assert reasons[:3] == [
        f"{start}the driver has the method 'scop', this worker has not: it could not prepare: RuntimeError: no memory",
        f"{start}the driver has version 1 of the method 'scop', this worker version 2",
        f"{start}this worker has the method 'own', the driver has not",
    ]
    assert not reasons[3].startswith(start)
