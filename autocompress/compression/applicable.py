"""Which of the installed methods act in a job, and why the others do not."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from autocompress.compression.recipe import Replay
from autocompress.contract import DataSource, Method, Quantizer, Space
from autocompress.errors import UserError, did_you_mean
from autocompress.job import Job


def applicable(
    methods: Sequence[Method],
    model: nn.Module,
    job: Job,
    wanted: Sequence[str] | None = None,
    *,
    has_images: bool = True,
) -> tuple[list[Method], dict[str, list[str]]]:
    """Splits ``methods`` into those that act in ``job`` and the reasons of those that cannot.

    A method whose own code raises is among the latter: a plugin's fault must not end the search.

    Args:
        methods: all that are installed, in the manager's order.
        model: the baseline; random weights will do.
        job: of the search.
        wanted: the only methods that may act; None for all that can.
        has_images: there are images to train and calibrate on.

    Raises:
        UserError: for a wanted method that is not installed, or cannot apply.
    """
    names = [method.name for method in methods]
    for name in wanted or ():
        if name not in names:
            raise UserError(f"unknown method '{name}'", did_you_mean(name, names))
    fit: list[Method] = []
    refused: dict[str, list[str]] = {}
    for method in methods:
        if wanted is not None and method.name not in wanted:
            continue
        reasons = _reasons(method, model, job, has_images)
        if not reasons:
            fit.append(method)
        elif wanted is not None:
            raise UserError(f"the method '{method.name}' cannot apply to {job.model}: {reasons[0]}")
        else:
            refused[method.name] = reasons
    return fit, refused


def _reasons(method: Method, model: nn.Module, job: Job, has_images: bool) -> list[str]:
    if isinstance(method, DataSource):
        return ["data sources other than the user's own images are not part of the search yet"]
    if isinstance(method, Quantizer) and not has_images:
        return ["its ranges need images to calibrate on, and the job has no training data"]
    try:
        reasons = method.check(model, job)
    except Exception as error:
        return [f"its check raised {type(error).__name__}: {error}"]
    if reasons:
        return reasons
    try:
        method.search_space(Space(Replay({}), job.granularity).scope(method.name), model)
    except Exception as error:
        return [f"its search space raised {type(error).__name__}: {error}"]
    return []
