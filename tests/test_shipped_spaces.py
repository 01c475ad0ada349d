"""All shipped jobs and spaces are valid for the installed methods."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from autocompress import models
from autocompress.contract import DataSource, manager
from autocompress.data import DataInfo
from autocompress.job import Job, limits_of, load_job
from autocompress.opened.applicable import applicable
from autocompress.recipes.choosers import Policy
from autocompress.recipes.jobspace import JobSpace

FOLDER = Path(__file__).parent.parent / "search_spaces"
FILES = sorted(path.name for path in FOLDER.glob("*.yaml"))
INFO = DataInfo(10, 1, (32, 32), (0.3,), (0.3,), tuple("0123456789"))


def job_of(name: str) -> Job:
    """The shipped job with a small model; a space is put into a job."""
    if "model" in yaml.safe_load((FOLDER / name).read_text()):
        return load_job(FOLDER / name, model="test_resnet", data="digits")
    return load_job(model="test_resnet", data="digits", space=str(FOLDER / name))


@pytest.mark.parametrize("name", FILES)
def test_no_limit_is_refused(name: str) -> None:
    job = job_of(name)
    limits, installed = limits_of(job), manager().methods()
    model = models.create(job, INFO).eval()
    sources = [method.name for method in installed if isinstance(method, DataSource)]
    fit, _ = applicable(installed, model, job, limits.methods, has_images=True)
    if name == "data-free.yaml":  # in a job with images, data sources do not apply
        fit = [method for method in installed if method.name in {*(m.name for m in fit), *sources}]
    space = JobSpace(model, fit, limits, job.granularity, job.budget.epochs)
    space.check_limits(installed)
    assert space.compose(Policy({})).values
    assert space.parameters()
