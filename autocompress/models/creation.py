"""From the job to a timm model that fits the data."""

from __future__ import annotations

import math
from typing import Any

import timm
import torch
from torch import nn

from autocompress.data import DataInfo
from autocompress.errors import UserError
from autocompress.job import Job
from autocompress.models.architecture import describe, reparameterise
from autocompress.models.checkpoints import Checkpoint, read_checkpoint
from autocompress.models.naming import HUB, Named, named

_FROM_DATA = ("num_classes", "in_chans", "img_size", "mean", "std")
"""What ``job.model_args`` may say where the data leave it open: weights tell neither the size of their images nor how
these were normalised."""


def preprocessing(job: Job) -> dict[str, Any]:
    """What the model asks of its data, as keyword arguments of ``data.load``: input_size, default_size, channels, mean
    and std, each None where the data decides, and the job's seed.

    Raises:
        UserError: if the model or the checkpoint cannot be found, or ``job.model_args`` normalise wrongly.
    """
    name, args = named(job.model), dict[str, Any](job.model_args)
    cfg = dict(name.cfg)
    size = job.device.input_size or args.get("img_size")
    channels = args.get("in_chans")
    if job.checkpoint is not None:
        checkpoint = read_checkpoint(job.checkpoint)
        channels = channels or checkpoint.channels(name.stem)
        cfg |= {key: value for key in ("mean", "std") if (value := checkpoint.args.get(key))}
    cfg |= _normalisation(job, channels or _default_size(name)[0])
    has_weights = job.pretrained or job.checkpoint is not None
    return {
        "input_size": tuple(size) if isinstance(size, list) else size,
        "default_size": tuple(_default_size(name)[1:]),
        "channels": channels,
        "mean": cfg.get("mean") if has_weights else None,
        "std": cfg.get("std") if has_weights else None,
        "seed": job.seed,
    }


def needs_training(job: Job, data_info: DataInfo) -> bool:
    """Whether the baseline has to be trained here: it has no weights yet, or those of another task's classifier."""
    if job.checkpoint is not None:
        return False
    return not job.pretrained or named(job.model).cfg.get("num_classes") != data_info.num_classes


def create(job: Job, data_info: DataInfo | None = None) -> nn.Module:
    """Makes the baseline, in eval mode: timm by name; classes, channels and image size follow the data, else the
    checkpoint, ``job.model_args`` and timm's defaults, in this order.

    With weights (``checkpoint``, ``pretrained``) it is already reparameterised where timm can; a model that is
    trained here first is reparameterised after that, because the merged layers train badly.

    Raises:
        UserError: if there is no such model, its arguments are wrong, or the checkpoint does not fit.
    """
    name = named(job.model)
    checkpoint = read_checkpoint(job.checkpoint) if job.checkpoint is not None else None
    info = data_info or _info_without_data(job, checkpoint, name)
    _check_classes(checkpoint, name, info)
    args = {**name.args}
    args |= {key: value for key, value in job.model_args.items() if key not in _FROM_DATA}
    args |= {"num_classes": info.num_classes, "in_chans": info.channels}
    if name.cfg.get("fixed_input_size"):  # transformers are built for one size
        args["img_size"] = list(info.size)
    model = describe(
        _make(job, args),
        name=name.architecture,
        args=args,
        input_size=info.input_size,
        mean=info.mean,
        std=info.std,
        num_classes=info.num_classes,
        class_names=info.class_names,
    )
    if checkpoint is not None:
        if any("reparam" in name for name in checkpoint.state):
            model = reparameterise(model)
        checkpoint.load_into(model)
    # A classifier for other classes starts at random and is trained first, with the branches still apart.
    if data_info is None or not needs_training(job, data_info):
        model = reparameterise(model)
    return model.eval()


def _make(job: Job, args: dict[str, Any]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.seed)
        try:
            return timm.create_model(job.model, pretrained=job.pretrained, **args)
        except (TypeError, AssertionError, ValueError) as error:
            raise UserError(f"'{job.model}' cannot be made so: {error}", "see model_args and the input size") from error
        except Exception as error:
            if not (job.pretrained or job.model.startswith(HUB)):
                raise
            # Whatever hub, cache and network may raise.
            raise UserError(
                f"the pretrained weights of '{job.model}' cannot be had: {(str(error).splitlines() or [''])[0]}",
                "check the network, or give checkpoint: PATH",
            ) from error


def _info_without_data(job: Job, checkpoint: Checkpoint | None, name: Named) -> DataInfo:
    """What the data would have said, from the checkpoint, the job and timm's defaults."""
    args, cfg = dict[str, Any](job.model_args), name.cfg
    default = _default_size(name)
    classes = (checkpoint.classes(name.classifier) if checkpoint else None) or args.get("num_classes")
    classes = int(classes or cfg.get("num_classes") or 1000)
    channels = (checkpoint.channels(name.stem) if checkpoint else None) or args.get("in_chans")
    channels = int(channels or default[0])
    size = job.device.input_size or args.get("img_size") or default[1:]
    height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    stored = {} if checkpoint is None else checkpoint.args
    own = _normalisation(job, channels)
    mean, std = (own.get(k) or tuple(stored.get(k) or cfg.get(k) or (0.5,) * channels) for k in ("mean", "std"))
    mean, std = (v if len(v) == channels else (sum(v) / len(v),) * channels for v in (mean, std))
    return DataInfo(classes, channels, (height, width), mean, std, tuple(str(number) for number in range(classes)))


def _default_size(name: Named) -> tuple[int, int, int]:
    return tuple(name.cfg.get("input_size") or (3, 224, 224))


def _normalisation(job: Job, channels: int) -> dict[str, tuple[float, ...]]:
    """The mean and std that ``job.model_args`` give, each of ``channels`` numbers or of one that holds for all.

    Raises:
        UserError: for another length, what is no finite number, or a std that is not above 0.
    """
    found = {}
    for key, above in (("mean", -math.inf), ("std", 0.0)):
        if (given := job.model_args.get(key)) is None:
            continue
        values = given if isinstance(given, list) else [given]
        numbers = tuple(float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool))
        if (
            len(numbers) < len(values)
            or len(numbers) not in (1, channels)
            or not all(above < number < math.inf for number in numbers)
        ):
            what = "finite numbers above 0" if key == "std" else "finite numbers"
            hint = "give one for all channels" if channels == 1 else f"give one for all channels, or {channels}"
            raise job.source.error(f"model_args.{key}", f"must be {what}, not {given!r}", hint)
        found[key] = numbers
    return found


def _check_classes(checkpoint: Checkpoint | None, name: Named, info: DataInfo) -> None:
    stored = checkpoint.classes(name.classifier) if checkpoint else None
    if checkpoint is not None and stored is not None and stored != info.num_classes:
        raise UserError(
            f"{checkpoint.path}: '{name.classifier[0]}.weight' has {stored} classes, the data has {info.num_classes}",
            "give the data that it was trained on",
        )
