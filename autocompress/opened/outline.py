"""The outline of a job: devices, data, network and methods, before any training."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from autocompress import data, models
from autocompress.contract import DataSource, Device, Manager, Method
from autocompress.data import Sealed, Splits, task_of
from autocompress.errors import UserError
from autocompress.files import check_cache
from autocompress.job import Job, Limits, limits_of
from autocompress.opened.applicable import applicable, require_images
from autocompress.opened.batches import check_batches, check_measured_batch
from autocompress.recipes.jobspace import JobSpace
from autocompress.store import check_shared_cache
from autocompress.task import TaskRef, check_task
from autocompress.task.checking import IMAGES, targets_fault

log = logging.getLogger("autocompress")


@dataclass(frozen=True)
class Outline:
    """Everything that is known of a job before training.

    Attributes:
        limits: parameters that the user fixed or narrowed.
        devices: the device for latency, then the device for energy, if it is another.
        installed: all methods of plugins.
        splits: the images of the user; None if the job names none.
        model: the network from timm, with pretrained weights if it has any.
        shape: a copy of it in eval mode, with the structure of the baseline.
        methods: the methods that apply to ``shape``, in the order of the manager.
        refused: the reasons against each of the other methods, by name.
        space: space of recipes for ``shape`` and ``methods``.
    """

    limits: Limits
    devices: Sequence[Device]
    installed: Sequence[Method]
    splits: Splits | None
    model: nn.Module
    shape: nn.Module
    methods: list[Method]
    refused: dict[str, list[str]]
    space: JobSpace

    @property
    def has_images(self) -> bool:
        """Whether the user gives images to train on."""
        return self.splits is not None and len(self.splits.train) > 0


def outline(job: Job, plugins: Manager, *, preview: bool = False) -> Outline:
    """Loads the data of ``job``, makes its network, and checks which methods apply.

    Args:
        job: job of the search.
        plugins: manager of the plugins, with their methods, devices and data sets.
        preview: data sets are only listed, and few images are read; see ``data.LoadOptions``.

    Raises:
        UserError: if a name in the job is unknown, a limit matches no parameter, nothing is left to
            search, or the cache folder cannot be written.
    """
    check_cache()
    if note := check_shared_cache():
        log.warning(note)
    limits, task = limits_of(job), task_of(job)
    task.task()  # an unknown task is an error before data are read
    device = plugins.device(job.device.name)
    if reasons := device.check(job.device):
        raise UserError(f"the device '{device.name}' cannot be used here: {reasons[0]}")
    devices = [device, *([] if job.energy_device is None else [plugins.device(job.energy_device)])]
    installed = plugins.methods()
    splits = _load(job, plugins, preview)
    knows_classes = splits is not None and splits.info.num_classes > 0
    model = models.create(job, splits.info if splits is not None and knows_classes else None)
    if splits is not None and not knows_classes:
        splits = splits.prepared(models.data_info(model))
    if splits is not None:
        _check_labels(task, splits)
        if not task.is_classification:
            _try_task(task, model, splits)
        check_batches(job, model, splits)
    # A wrong key in the space is an error before the baseline is trained, because the check needs
    # only the structure.
    shape = models.reparameterise(copy.deepcopy(model)).eval()
    check_measured_batch(job, device, shape)
    has_images = splits is not None and len(splits.train) > 0
    methods, refused = applicable(installed, shape, job, limits.methods, has_images=has_images, devices=devices)
    space = space_of(job, shape, methods, limits, splits, device)
    space.check_limits(installed)
    if not space.sources():
        require_images(job, splits, methods, refused)
    return Outline(limits, devices, installed, splits, model, shape, methods, refused, space)


def _check_labels(task: TaskRef, splits: Splits) -> None:
    """Refuses labels that the task cannot use.

    Raises:
        UserError: with what the task needs.
    """
    for split in (splits.train, splits.val):
        if len(split) and (fault := targets_fault(task, split.labels()[:IMAGES], splits.info.num_classes)):
            hint = "set task: multilabel" if task.is_classification else "give other data, or another task"
            raise UserError(f"the task '{task.title}' {fault}", hint)


def _try_task(task: TaskRef, model: nn.Module, splits: Splits) -> None:
    """Calls every member of a task once, on a few labelled images.

    Raises:
        UserError: naming the member that fails, or what the data lack.
    """
    split = next((one for one in (splits.val, splits.train) if len(one)), None)
    if split is None:
        raise UserError(f"the task '{task.title}' needs labelled images to judge by", "name them for 'val'")
    images, targets = next(iter(split.subset(IMAGES).loader(IMAGES)))
    check_task(task, model, images, targets, splits.info.num_classes)


def recovery_epochs(job: Job, methods: Sequence[Method], splits: Splits | None) -> float:
    """Maximum number of recovery epochs of a recipe; 0 if there are no training images."""
    has_source = any(isinstance(method, DataSource) for method in methods)
    return job.budget.epochs if has_source or (splits is not None and len(splits.train) > 0) else 0


def space_of(
    job: Job, model: nn.Module, methods: Sequence[Method], limits: Limits, splits: Splits | None, device: Device
) -> JobSpace:
    """The space of recipes of ``job``.

    Args:
        job: job of the search.
        model: the baseline, or a network with the same structure.
        methods: the methods that act.
        limits: parameters that the user fixed or narrowed.
        splits: the images of the user; None if the job names none.
        device: measures latency.
    """
    epochs = recovery_epochs(job, methods, splits)
    labelled = splits is None or not splits.unlabelled
    return JobSpace(model, methods, limits, job.granularity, epochs, device.channel_multiple, labelled)


def _load(job: Job, plugins: Manager, preview: bool) -> Splits | None:
    """The images of the user, None if the job names none.

    Test images are sealed in a job that judges without labels.
    """
    if job.data.is_free and job.data.val is None and job.data.test is None:
        return None
    has_weights = job.pretrained or job.checkpoint is not None
    asked = models.preprocessing(job)
    splits = data.load(
        job.data,
        plugins.datasets(),
        **asked,
        has_weights=has_weights,
        preview=preview,
        trials=job.workers,
        augment=job.augment,
    )
    is_sealed = job.data.is_free or (splits.by_agreement and len(splits.test))
    return replace(splits, test=Sealed(splits.test)) if is_sealed else splits
