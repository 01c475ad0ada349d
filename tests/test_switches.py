"""Parts of a search that can be switched off: ``search: {tables, proposals, repair}``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from autocompress.errors import UserError
from autocompress.job import limits_of, load_job, resolved
from autocompress.opened.job import OpenedJob
from autocompress.recipes.choosers import Policy


def job_of(**settings: Any) -> Any:
    return load_job(settings={"model": "resnet10t", "data": "digits", **settings})


def switched(opened: OpenedJob, **switches: bool) -> OpenedJob:
    """The opened job with some parts of the search switched off; its costs are not measured."""
    changed = {"search": opened.job.search.model_copy(update=switches), "objectives": ("accuracy", "macs")}
    job = opened.job.model_copy(update=changed)
    return replace(opened, job=job, limits=limits_of(job))


@pytest.mark.slow
def test_without_proposals_the_tables_are_only_used_by_the_sampler(opened: OpenedJob) -> None:
    made = switched(opened, proposals=False).proposals()
    assert made is not None
    assert not made.recipes
    assert made.rows
    assert made.widths(0.5, {})
    assert switched(opened, tables=False).proposals() is None
    whole = switched(opened).proposals()
    assert whole is not None
    assert len(whole.recipes) > 8


def test_without_repair_no_recipe_refits(opened: OpenedJob) -> None:
    pruned = Policy({"prune": "cheapest"})
    assert opened.compose(pruned).repair["fit"] == "auto"
    assert switched(opened, repair=False).compose(pruned).repair == {"fit": "none"}


def test_repair_cannot_be_switched_off_and_requested() -> None:
    with pytest.raises(UserError, match=r"search\.repair.*cannot be false.*repair\.fit"):
        limits_of(job_of(search={"repair": False}, space={"repair": {"fit": "sequential"}}))
    assert limits_of(resolved(job_of(search={"repair": False}))).values == {"repair.fit": "none"}
