"""Rules for tasks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

from autocompress import data, models
from autocompress.contract import Task
from autocompress.data import DatasetProvider, task_of
from autocompress.errors import UserError
from autocompress.job import load_job
from autocompress.modulefiles import path_of
from autocompress.task import TaskRef
from autocompress.task.checking import IMAGES, targets_fault
from autocompress.task.checking import check_task as call_members
from autocompress.task.ref import check_class
from autocompress.testing.rules import ContractViolation, NotChecked, Report, require


def check_task(
    task: type[Task],
    dataset: DatasetProvider | None = None,
    options: Mapping[str, Any] | None = None,
    model: str = "test_resnet",
) -> None:
    """Makes the network of a task, and calls each member on 64 images, without training.

    Args:
        task: the class.
        dataset: a data set with labels that the task can use; the built-in ``digits`` by default.
        options: keyword arguments of the class.
        model: name of the backbone.

    Raises:
        ContractViolation: if a rule is broken; the message lists all broken rules. Also if the
            class needs more options, or its targets are not those of ``digits``.
    """
    spec = "digits" if dataset is None else dataset.name
    file = path_of(task.__module__)
    name = f"{task.__module__ if file is None else file}:{task.__qualname__}"
    settings = {"model": model, "data": spec, "task": {"name": name, "options": dict(options or {})}}
    report = Report()
    try:
        job = load_job(settings=settings)
        ref = task_of(job)
        _check_options(check_class(ref), job.task.options)
        ref.task()
        providers = None if dataset is None else [dataset]
        splits = data.load(job.data, providers, preview=True, **models.preprocessing(job))
        images, targets = next(iter(splits.val.subset(IMAGES).loader(IMAGES)))
        if dataset is None and (fault := targets_fault(ref, targets, splits.info.num_classes)):
            raise NotChecked(f"the targets of 'digits' do not fit: it {fault}; put a data set for it into the file")
        network = models.create(job, splits.info)
        call_members(ref, network, images, targets, splits.info.num_classes)
    except UserError as error:
        raise ContractViolation(str(error)) from None
    with torch.no_grad():
        outputs = network(images).float()
    report.check(_check_kept, report, ref, outputs, targets, splits.info.num_classes)
    report.check(_check_mean, ref, outputs, targets)
    report.check(_check_gradients, ref, outputs)
    report.check(_check_images_alone, ref, outputs, targets)
    report.end()


def _check_options(task: type[Task], options: Mapping[str, Any]) -> None:
    """Refuses a class whose constructor has arguments without a default that ``options`` lacks."""
    lacking = [
        f"'{name}'"
        for name, one in inspect.signature(task).parameters.items()
        if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD) and name not in options
    ]
    if lacking:
        raise NotChecked(
            f"its constructor needs {' and '.join(lacking)}; a test can give options to "
            f"autocompress.testing.check_task({task.__name__}, options=...)"
        )


def _check_kept(report: Report, ref: TaskRef, outputs: torch.Tensor, targets: torch.Tensor, classes: int) -> None:
    """The engine passes the same outputs to several members, so none may change them."""
    task, other = ref.task(), outputs.flip(0)
    members: dict[str, tuple[Callable[..., Any], tuple[torch.Tensor, ...]]] = {
        "loss": (task.loss, (outputs, targets)),
        "marks": (task.marks, (outputs, targets)),
        "divergences": (task.divergences, (outputs, other)),
        "prediction": (task.prediction, (outputs,)),
        "agreement": (task.agreement, (outputs, other)),
        "check_targets": (lambda given: task.check_targets(given, classes), (targets,)),
    }
    for member, (function, arguments) in members.items():
        given = [argument.clone() for argument in arguments]
        function(*given)
        pairs = zip(given, arguments, strict=True)
        same = all(one.equal(before) or one.allclose(before, 0.0, 0.0, equal_nan=True) for one, before in pairs)
        report.check(require, same, f"'{member}' must not change the tensors that it is given: clone them first")


def _check_mean(ref: TaskRef, outputs: torch.Tensor, targets: torch.Tensor) -> None:
    """Batches differ in size, so losses of batches must be comparable."""
    task = ref.task()
    with torch.no_grad():
        once = task.loss(outputs, targets)
        twice = task.loss(torch.cat([outputs, outputs]), torch.cat([targets, targets]))
    require(
        torch.allclose(once, twice, rtol=1e-3, atol=1e-5),
        f"'loss' must be a mean over the images: it is {float(once):.4g} for a batch, and {float(twice):.4g} for the "
        "same batch twice, so learning rates would depend on the size of a batch",
    )


def _check_gradients(ref: TaskRef, outputs: torch.Tensor) -> None:
    """Distillation and pruning take gradients of these members."""
    task, student = ref.task(), outputs.flip(0).clone().requires_grad_()
    losses = {
        "divergences": task.divergences(outputs, student).sum(),
        "distillation": task.distillation(student, task.answers(outputs, 4.0), 4.0),
        "sampled_loss": task.sampled_loss(student, torch.Generator().manual_seed(0)),
    }
    for member, loss in losses.items():
        require(loss.requires_grad, f"'{member}' must have a gradient to the outputs of the student")
        (gradient,) = torch.autograd.grad(loss, student)
        require(bool(gradient.isfinite().all()), f"the gradient of '{member}' must be finite")


def _check_images_alone(ref: TaskRef, outputs: torch.Tensor, targets: torch.Tensor) -> None:
    """The engine computes these members batch by batch, in batches of any size."""
    task, half = ref.task(), len(outputs) // 2
    parts = [slice(half), slice(half, None)]
    other = outputs.flip(0)
    for member, whole, apart in (
        ("marks", task.marks(outputs, targets), [task.marks(outputs[one], targets[one]) for one in parts]),
        (
            "divergences",
            task.divergences(outputs, other),
            [task.divergences(outputs[one], other[one]) for one in parts],
        ),
    ):
        same = torch.allclose(whole.float(), torch.cat(apart).float(), rtol=1e-3, atol=1e-4)
        require(same, f"'{member}' of an image must not depend on the other images of the batch")


def tasks_in(plugin: object) -> list[type[Task]]:
    """The tasks that a module defines, without bases that only its other tasks use."""
    if not inspect.ismodule(plugin):
        return []
    package = f"{plugin.__name__}."
    found = [
        value
        for name, value in vars(plugin).items()
        if isinstance(value, type)
        and issubclass(value, Task)
        and f"{value.__module__}.".startswith(package)
        and not name.startswith("_")
    ]
    return [one for one in found if not (inspect.isabstract(one) and any(one in other.__bases__ for other in found))]
