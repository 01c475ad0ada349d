"""``autocompress plugins``: the installed plugins, and the methods that apply to a model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from torch import nn

from autocompress import models
from autocompress.contract import DataSource, Device, Manager, Method, Parameter, Space, manager
from autocompress.job import DataConfig, Job, load_job
from autocompress.job.unknownkeys import STAGES
from autocompress.opened.applicable import applicable
from autocompress.recipes.parameters import every_parameter
from autocompress.recipes.recipe import compose
from autocompress.synthesis.statistics import norm_layers

if TYPE_CHECKING:
    from autocompress.contract.space import Chooser

EXAMPLE_MODEL, EXAMPLE_SIZE = "resnet10t", 32
"""The model and the image size in pixels for listing parameters, if the user names no model.

Ranges may depend on them. Small images need little time.
"""


def show(model_name: str | None, granularity: str, console: Console, plugins: Manager | None = None) -> None:
    """Prints methods with their parameters, all other parts of plugins, and broken plugins.

    Args:
        model_name: timm name; None lists the parameters for an example model, without saying which
            methods apply.
        granularity: "model", "stage" or "block".

    Raises:
        UserError: for an unknown model or granularity.
    """
    plugins = plugins or manager()
    torch.set_num_threads(1)  # small networks are not faster with more threads, which wait for each other
    # The data set is not loaded: the model keeps its own input size and classes.
    settings: dict[str, Any] = {"model": model_name or EXAMPLE_MODEL, "data": "digits", "granularity": granularity}
    if not model_name:
        settings["input_size"] = EXAMPLE_SIZE
    job = load_job(settings=settings, flags=True)
    model = models.reparameterise(models.create(job, None)).eval()
    methods = plugins.methods()
    fit, refused = applicable(methods, model, job)
    # Data sources only act in a job without training data, and need a trained model. So they are
    # checked again with both.
    sources = [method for method in methods if isinstance(method, DataSource)]
    names = [source.name for source in sources]
    without_data = job.model_copy(update={"data": DataConfig()})
    fit_sources, refused_sources = applicable(sources, _as_if_trained(model), without_data)
    fit = [*fit_sources, *fit]
    refused = {**{name: why for name, why in refused.items() if name not in names}, **refused_sources}
    spaces = {method.name: _space_of(method, model, job) for method in fit}
    lines = [f"methods, with their parameters on {job.model}:"]
    for method in methods:
        lines += _method_lines(method)
        if method.name in refused:
            lines.append(f"    does not apply to {job.model}: {'; '.join(refused[method.name])}")
            continue
        if model_name:
            where = " where a job has no training data" if method.name in names else ""
            lines.append(f"    applies to {job.model}{where}")
        lines += _space_lines(spaces[method.name])
    sound = [method for method in fit if not isinstance(spaces[method.name], Exception)]
    lines += ["", "the engine's own parameters:", *_parameter_lines(_own_parameters(sound, model, job))]
    lines += ["", "devices:"]
    lines += [line for device in plugins.devices() for line in _device_lines(device)]
    lines += ["", "data sets:", *(f"  {provider.name}" for provider in plugins.datasets())]
    lines += ["", "samplers:", *(f"  {sampler.name}" for sampler in plugins.samplers())]
    if commands := plugins.commands():
        lines += ["", "commands of plugins:", *(f"  {command.name}" for command in commands)]
    if plugins.broken:
        lines += ["", "broken plugins, skipped:"]
        lines += [f"  {broken.name}: {broken.reason}" for broken in plugins.broken]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _own_parameters(methods: Sequence[Method], model: nn.Module, job: Job) -> dict[str, Parameter]:
    """The engine's own parameters for ``methods``.

    Two spaces are joined: one with the data sources, and one without them.
    """
    names = {method.name for method in methods}
    found: dict[str, Parameter] = {}
    for acting in (methods, [method for method in methods if not isinstance(method, DataSource)]):
        found |= _explore(partial(compose, model=model, methods=acting, epochs=job.budget.epochs), job, but=names)
    return dict(sorted(found.items(), key=lambda item: STAGES.index(item[0].partition(".")[0])))


def _as_if_trained(model: nn.Module) -> nn.Module:
    """A copy with statistics in its batch norms, as data sources need; its weights are random."""
    trained = copy.deepcopy(model)
    for norm in norm_layers(trained).values():
        if isinstance(norm.running_mean, torch.Tensor):
            norm.running_mean.fill_(0.1)
    return trained


def _device_lines(device: Device) -> list[str]:
    first = f"  {device.name}: measures {', '.join(sorted(device.measures))}"
    return [first, f"    {text}"] if (text := device.describe()) else [first]


def _method_lines(method: Method) -> list[str]:
    stage = getattr(method, "stage", None)
    first = f"  {method.name} {method.version}: {method.kind}" + (f", stage {stage}" if stage else "")
    return [first, f"    {method.reference}"]


def _space_of(method: Method, model: nn.Module, job: Job) -> dict[str, Parameter] | Exception:
    """The method's parameters, or the error that its space raised."""
    try:
        return _explore(lambda space: method.search_space(space.scope(method.name), model), job)
    except Exception as error:
        return error


def _space_lines(found: dict[str, Parameter] | Exception) -> list[str]:
    if isinstance(found, Exception):
        return [f"    its search space raised {type(found).__name__}: {found}"]
    return ["  " + line for line in _parameter_lines(found)]


def _explore(ask: Callable[[Space], object], job: Job, but: Collection[str] = ()) -> dict[str, Parameter]:
    """Every parameter that ``ask`` asks for, conditional ones too.

    Parameters of the methods in ``but`` are left out and keep their defaults, which saves time.
    """

    def run(chooser: Chooser) -> Space:
        space = Space(chooser, job.granularity)
        ask(space)
        space.asked = {name: p for name, p in space.asked.items() if name.partition(".")[0] not in but}
        return space

    return every_parameter(run)


def _parameter_lines(parameters: dict[str, Parameter]) -> list[str]:
    # Tied parameters are one line, for example prune.keep of all couplings of a group.
    parameters = {parameter.tie or name: parameter for name, parameter in parameters.items()}
    return [f"  {name}: {p.describe()}, by default {p.default}" for name, p in parameters.items()]
