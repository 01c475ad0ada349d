"""Makes the timm model of a job so that it fits the data."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from autocompress.data import DataInfo
from autocompress.errors import UserError
from autocompress.job import Job
from autocompress.models.architecture import describe, reparameterise
from autocompress.models.checkpoints import Checkpoint, read_checkpoint
from autocompress.models.forward import check_forward, check_traceable
from autocompress.models.health import faulty_tensor
from autocompress.models.naming import HUB, Named, named
from autocompress.models.plain import made_plain, unusable_tensor
from autocompress.models.preprocessing import FROM_DATA, asked, check_counts, info_without_data
from autocompress.task import Task, TaskRef
from autocompress.task.checking import output_shape

_WEIGHTS = ("pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
"""Arguments of ``timm.create_model`` for which a job has keys of its own."""
log = logging.getLogger("autocompress")


def needs_training(job: Job, data_info: DataInfo) -> bool:
    """Whether the baseline must be trained: no weights, or a classifier for other classes."""
    if job.checkpoint is not None:
        return False
    if not data_info.task.is_classification:
        return True
    return not job.pretrained or named(job.model).cfg.get("num_classes") != data_info.num_classes


def create(job: Job, data_info: DataInfo | None = None) -> nn.Module:
    """Makes the baseline in eval mode, by timm's name.

    Classes, channels and image size follow the data. Without data, they follow job, checkpoint and
    timm's configuration (:func:`info_without_data`).

    A model with weights (``checkpoint``, ``pretrained``) is reparameterised where timm supports
    that. A model that is trained here is reparameterised after its training, because merged layers
    train badly.

    Raises:
        UserError: if there is no such model, its arguments are wrong, the checkpoint does not fit,
            weights are NaN or infinite, lazy or sparse, the output for two images is not one tensor
            of logits, or the model cannot be traced.
    """
    name = named(job.model)
    checkpoint = read_checkpoint(job.checkpoint) if job.checkpoint is not None else None
    check_counts(job, data_info)
    info = data_info or info_without_data(job, checkpoint, name)
    asked(job, info.channels)
    _check_classes(checkpoint, name, info)
    args = _arguments(job, name, info)
    model = describe(
        _make(job, args, info.task),
        name=name.architecture,
        args=args,
        input_size=info.input_size,
        mean=info.mean,
        std=info.std,
        num_classes=info.num_classes,
        class_names=info.class_names,
        crop_pct=info.crop_pct,
        crop_mode=info.crop_mode,
        interpolation=info.interpolation,
        exif=info.exif,
        task=info.task,
    )
    if checkpoint is not None:
        if any("reparam" in name for name in checkpoint.state):
            model = reparameterise(model)
        checkpoint.load_into(model)
    if fault := unusable_tensor(model):
        hint = "every tensor must be dense, with a shape and values, before the search begins"
        raise UserError(f"'{job.model}' cannot be compressed: {fault}", hint)
    if fault := faulty_tensor(made_plain(model).state_dict()):
        where = job.model if checkpoint is None else checkpoint.path
        raise UserError(f"{where}: {fault}", "the weights are damaged, or their training diverged: give other weights")
    check_forward(model, info.input_size, output_shape(info.task, info.num_classes), job.model)
    check_traceable(model, job.model)
    # A new classifier has random weights and is trained first, before branches are merged.
    if data_info is None or not needs_training(job, data_info):
        model = reparameterise(model)
    return model.eval()


def _arguments(job: Job, name: Named, info: DataInfo) -> dict[str, Any]:
    """The arguments for ``timm.create_model``.

    Raises:
        UserError: if ``job.model_args`` name weights.
    """
    for key in _WEIGHTS:
        if key in job.model_args:
            hint = "write 'pretrained' or 'checkpoint' in the job itself"
            raise job.source.error(f"model_args.{key}", "is not an argument of a network", hint)
    args = {**name.args}
    args |= {key: value for key, value in job.model_args.items() if key not in FROM_DATA}
    args |= {"num_classes": info.num_classes, "in_chans": info.channels}
    if name.cfg.get("fixed_input_size"):  # transformers have one input size
        args["img_size"] = list(info.size)
    return args


def _make(job: Job, args: dict[str, Any], task: TaskRef) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.seed)
        if type(task.task()).network is not Task.network:
            return _made_by_task(job, args, task)
        try:
            return task.task().network(job.model, dict(args), pretrained=job.pretrained)
        except Exception as error:  # constructors, hub, cache and network raise many types
            text = (str(error).strip().splitlines() or [""])[0]
            reason = f"{type(error).__name__} {text}".strip() if _is_short(error, text) else text
            wrong_arguments = isinstance(error, TypeError | AssertionError | ValueError)
            if wrong_arguments or not (job.pretrained or job.model.startswith(HUB)):
                log.debug("timm could not make the model", exc_info=True)
                given = f" with model_args {job.model_args}" if job.model_args else ""
                raise UserError(
                    f"timm cannot create '{job.model}'{given}: {reason}", "see model_args and the input size"
                ) from error
            raise UserError(
                f"the pretrained weights of '{job.model}' cannot be loaded: {reason}",
                "check the network, or give checkpoint: PATH",
            ) from error


def _made_by_task(job: Job, args: dict[str, Any], task: TaskRef) -> nn.Module:
    try:
        made = task.task().network(job.model, dict(args), pretrained=job.pretrained)
    except Exception as error:  # a member of the user may raise any type
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError(
            f"the task '{task.title}' cannot make its network of '{job.model}': {type(error).__name__}: {reason}",
            "correct the method 'network' of the task",
        ) from error
    if not isinstance(made, nn.Module):
        raise UserError(f"the task '{task.title}' cannot be used: 'network' must give a torch module", "return it")
    return made


def _is_short(error: Exception, text: str) -> bool:
    """Whether the text of ``error`` is clear only with its type: it is empty, or a key."""
    return isinstance(error, LookupError) or " " not in text


def _check_classes(checkpoint: Checkpoint | None, name: Named, info: DataInfo) -> None:
    stored = checkpoint.classes(name.classifier) if checkpoint else None
    if checkpoint is not None and stored is not None and stored != info.num_classes:
        raise UserError(
            f"{checkpoint.path}: '{name.classifier[0]}.weight' has {stored} classes, the data has {info.num_classes}",
            "give the data on which it was trained",
        )
