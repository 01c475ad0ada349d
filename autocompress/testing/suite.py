"""The whole suite for one method of any kind."""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import nn

from autocompress.contract import DataSource, Method, Params, Pruner, Quantizer, Transform
from autocompress.job import Job
from autocompress.testing.example import example_job, example_model
from autocompress.testing.families import check_families
from autocompress.testing.gpu import check_gpu
from autocompress.testing.pruners import check_pruner
from autocompress.testing.quantizers import check_quantizer
from autocompress.testing.rules import Report
from autocompress.testing.sources import check_source
from autocompress.testing.spaces import brief_recipe, check_identity, check_refusals, check_space
from autocompress.testing.transforms import check_transform

KINDS: tuple[tuple[type, Callable[..., None]], ...] = (
    (Transform, check_transform),
    (Pruner, check_pruner),
    (Quantizer, check_quantizer),
    (DataSource, check_source),
)


def check_method(
    method: Method, model: nn.Module | None = None, job: Job | None = None, params: Params | None = None
) -> None:
    """Runs every check on ``method``.

    Args:
        method: a transform, a pruner, a quantizer or a data source.
        model: from ``autocompress.models``. It is not changed. By default a small ResNet; defaults
            of transforms and pruners are then tried on two other families too.
        job: for ``check``; by default a job that names the model.
        params: one point of its space; the defaults by default, and for data sources those with few
            images and iterations.

    Raises:
        ContractViolation: if a rule is broken; the message lists all broken rules, each with a
            hint.
    """
    report, untried = Report(), copy.deepcopy(method)
    is_example, model = model is None, example_model() if model is None else model
    report.check(check_identity, method)
    report.check(check_refusals, method, model, job if job is not None else example_job())
    report.check(check_space, method, model)
    if params is None and isinstance(method, DataSource):
        params = report.check(brief_recipe, method, model)
    for kind, check in KINDS:
        if isinstance(method, kind):
            report.check(check, method, model, params)
            report.check(check_gpu, method, model, params)
            break
    else:
        report.rules.append("a method must be a Transform, a Pruner, a Quantizer or a DataSource")
    if is_example:
        report.check(check_families, untried, report.rules)
    report.end()
