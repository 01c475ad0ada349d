"""Decides which installed methods act in a job, with reasons against the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from autocompress.contract import DataSource, Device, Method, Pruner, Quantizer, Space
from autocompress.data import Splits
from autocompress.errors import InvalidRecipe, UserError, did_you_mean
from autocompress.job import Job
from autocompress.recipes.choosers import Replay
from autocompress.recipes.pruning import refusal_to_prune
from autocompress.recipes.recipe import params_of


def applicable(
    methods: Sequence[Method],
    model: nn.Module,
    job: Job,
    wanted: Sequence[str] | None = None,
    *,
    has_images: bool = True,
    devices: Sequence[Device] = (),
) -> tuple[list[Method], dict[str, list[str]]]:
    """The methods that act in ``job``, and the reasons against the others.

    A method with code that raises does not act, so that an error of a plugin does not end the
    search. Data sources act if the job has no training data: those that ``wanted`` names, or else
    all that apply.

    Args:
        methods: all installed methods, in the order of the manager.
        model: the baseline; its weights do not matter.
        job: job of the search.
        wanted: the only methods that may act; None for all that apply.
        has_images: the user gives images for training and calibration. A data source that acts
            gives images too.
        devices: the devices of the job. A method does not act if one of them has no cost for its
            layers.

    Raises:
        UserError: for a wanted method that is not installed, or cannot apply.
    """
    names = [method.name for method in methods]
    for name in wanted or ():
        if name not in names:
            raise UserError(f"unknown method '{name}'", did_you_mean(name, names))
    sources = [method for method in methods if isinstance(method, DataSource)]
    any_source = job.data.is_free and not any(source.name in (wanted or ()) for source in sources)
    fit: list[Method] = []
    refused: dict[str, list[str]] = {}
    # Data sources first, because quantizers need their images.
    for method in sorted(methods, key=lambda method: not isinstance(method, DataSource)):
        is_named = wanted is not None and method.name in wanted
        if wanted is not None and not is_named and not (any_source and method in sources):
            continue
        reasons = _reasons(method, model, job, has_images or any(method in sources for method in fit), devices)
        if not reasons:
            fit.append(method)
        elif is_named:
            raise UserError(f"the method '{method.name}' cannot apply to {job.model}: {reasons[0]}")
        else:
            refused[method.name] = reasons
    fit.sort(key=methods.index)
    return fit, refused


def _reasons(method: Method, model: nn.Module, job: Job, has_images: bool, devices: Sequence[Device]) -> list[str]:
    if isinstance(method, DataSource) and not job.data.is_free:
        return ["the job has training data; give data: {train: none, ...} to compress without it"]
    if isinstance(method, DataSource) and job.task.name not in method.tasks:
        return [f"it makes images for {' and '.join(method.tasks)} only, not for the task '{job.task.name}'"]
    if isinstance(method, Quantizer) and not has_images:
        return ["it needs images for calibration, and the job has no training data"]
    for kind in sorted({kind for spec in method.layers for kind in spec.operator_kinds}):
        if lacking := [device.name for device in devices if not device.counts(kind)]:
            return [f"its layers use operations of the kind '{kind}', for which '{lacking[0]}' has no figures"]
    if isinstance(method, Pruner) and (reason := refusal_to_prune(model)) is not None:
        return [reason]
    try:
        reasons = method.check(model, job)
    except Exception as error:
        return [f"its check raised {type(error).__name__}: {error}"]
    if reasons:
        return reasons
    try:
        params_of(method, Space(Replay({}), job.granularity), model)
    except InvalidRecipe as error:
        return [str(error)]
    except Exception as error:
        return [f"its search space raised {type(error).__name__}: {error}"]
    return []


def require_images(job: Job, splits: Splits | None, fit: Sequence[Method], refused: Mapping[str, list[str]]) -> None:
    """Refuses a job without a data source and without images to judge candidates.

    Args:
        job: job of the search.
        splits: the images of the user; None if the job names none.
        fit, refused: the result of :func:`applicable`.

    Raises:
        UserError: if the job has neither; the message gives the reasons against the data sources.
    """
    if splits is not None and len(splits.val):
        return
    reasons = [f"{name}: {why[0]}" for name, why in refused.items()]
    hint = "give data to train on"
    if others := [method.name for method in fit if not isinstance(method, DataSource)]:
        hint += f", or labelled images with data: {{val: ...}}, which is enough for {', '.join(others)}"
    raise UserError(
        f"no data source can make images from {job.model}" + (f" ({'; '.join(reasons)})" if reasons else ""), hint
    )
