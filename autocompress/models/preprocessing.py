"""Requirements of the model on images: timm's ``resolve_data_config`` and the keys of the job."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from timm.data import resolve_data_config

from autocompress.data import DataInfo, task_of
from autocompress.data.wanted import spread
from autocompress.errors import UserError
from autocompress.job import Job
from autocompress.models.checkpoints import Checkpoint, read_checkpoint
from autocompress.models.naming import Named, named
from autocompress.models.settings import SETTINGS, Unfit, all_checked, checked, those_that_fit, whole_number

FROM_DATA = ("num_classes", "in_chans", *SETTINGS)
"""Keys of ``job.model_args`` about the images. All other keys are arguments of the network."""
_OF_TIMM = "crop_pct"
"""A key that only timm's training script stores; its checkpoints record the preprocessing."""


def preprocessing(job: Job) -> dict[str, Any]:
    """The requirements of the model on its data, as keyword arguments of ``data.load``.

    The keys are the fields of ``data.wanted.Wanted``, ``seed`` and ``task``.

    For pretrained weights, ``timm.data.resolve_data_config`` gives size, crop_pct, crop_mode,
    interpolation, mean and std. At the ``test_input_size`` of the weights, timm's ``test_crop_pct``
    is used. Arguments that timm's training script stored in a checkpoint override these, and
    ``job.model_args`` overrides all. A model that is trained here has only the requirements of
    ``job.model_args``; the data decide the rest.

    Raises:
        UserError: if the model or the checkpoint cannot be found, or ``job.model_args`` has an
            invalid value.
    """
    name = named(job.model)
    checkpoint = None if job.checkpoint is None else read_checkpoint(job.checkpoint)
    channels = _channels(job, checkpoint, name)
    own = asked(job, channels or default_size(name)[0])
    wanted: dict[str, Any] = {
        "input_size": _size(job, own),
        "default_size": default_size(name)[1:],
        "channels": channels,
        "seed": job.seed,
        "task": task_of(job),
        **{key: own.get(key) for key in ("mean", "std", "crop_pct", "crop_mode", "interpolation")},
    }
    if not job.pretrained and checkpoint is None:
        return wanted
    stored = {} if checkpoint is None else those_that_fit(checkpoint.args, channels or default_size(name)[0])
    config = _resolved(name, stored | own, _size(job, own))
    wanted |= {key: config[key] for key in ("mean", "std", "crop_mode", "interpolation")}
    if "crop_pct" not in own:
        wanted |= {"crop_pct": stored.get("crop_pct"), "default_crop_pct": config["crop_pct"]}
    wanted["default_size"] = _size_of(stored) or default_size(name)[1:]
    classes = name.cfg.get("num_classes")
    if checkpoint is not None:
        classes = checkpoint.classes(name.classifier) if _OF_TIMM in checkpoint.args else None
    trained = name.args.get("in_chans") or default_size(name)[0]
    return wanted | {"trained_classes": classes, "trained_channels": trained}


def info_without_data(job: Job, checkpoint: Checkpoint | None, name: Named) -> DataInfo:
    """DataInfo for a job without data, from the job, the checkpoint and timm's configuration.

    Raises:
        UserError: if ``job.model_args`` has an invalid value.
    """
    classes = (checkpoint.classes(name.classifier) if checkpoint else None) or job.model_args.get("num_classes")
    classes = int(classes or name.cfg.get("num_classes") or 1000)  # type: ignore[arg-type]
    channels = _channels(job, checkpoint, name) or default_size(name)[0]
    own = asked(job, channels)
    stored = {} if checkpoint is None else those_that_fit(checkpoint.args, channels)
    size = _size(job, own) or default_size(name)[1:]
    config = _resolved(name, stored | own, size)
    names = tuple(str(number) for number in range(classes))
    return DataInfo(
        classes,
        channels,
        size,
        spread(config["mean"], channels),
        spread(config["std"], channels),
        names,
        crop_pct=config["crop_pct"],
        crop_mode=config["crop_mode"],
        interpolation=config["interpolation"],
        exif=job.data.exif,
    )


def asked(job: Job, channels: int) -> dict[str, Any]:
    """The keys of ``job.model_args`` about images with ``channels`` channels, checked.

    Raises:
        UserError: naming the first key with an invalid value.
    """

    def error(key: str, text: str, hint: str) -> UserError:
        return job.source.error(f"model_args.{key}", text, hint)

    return all_checked(job.model_args, channels, error)


def check_counts(job: Job, info: DataInfo | None) -> None:
    """Refuses ``num_classes`` and ``in_chans`` that are not counts, or differ from the data.

    Raises:
        UserError: naming the key.
    """
    for key, least in (("num_classes", 2), ("in_chans", 1)):
        if (given := job.model_args.get(key)) is None:
            continue
        try:
            count = whole_number(given, least)
        except Unfit as unfit:
            raise job.source.error(f"model_args.{key}", f"{unfit}, not {given!r}") from None
        if info is not None and key == "num_classes" and count != info.num_classes:
            text = f"is {count}, but the data have {info.num_classes} classes"
            raise job.source.error("model_args.num_classes", text, "leave it out: the data decide it")


def default_size(name: Named) -> tuple[int, int, int]:
    """(channels, height, width) of the images for which the weights are configured."""
    channels, height, width = name.cfg.get("input_size") or (3, 224, 224)
    return channels, height, width


def _channels(job: Job, checkpoint: Checkpoint | None, name: Named) -> int | None:
    """The number of channels from the job or the checkpoint; None where the data decide."""
    check_counts(job, None)
    if (given := job.model_args.get("in_chans")) is not None:
        return int(given)  # type: ignore[arg-type]
    if (given := job.model_args.get("input_size")) is not None:
        with suppress(Unfit):  # :func:`asked` reports it, with the other keys
            return int(checked("input_size", given, 1)[0])
    return None if checkpoint is None else checkpoint.channels(name.stem)


def _size(job: Job, own: dict[str, Any]) -> tuple[int, int] | None:
    """(height, width) from the job; the size of the device section comes first."""
    side = job.device.input_size
    return _size_of(own) if side is None else (side, side)


def _size_of(settings: dict[str, Any]) -> tuple[int, int] | None:
    if "input_size" in settings:
        return settings["input_size"][1], settings["input_size"][2]
    return settings.get("img_size")


def _resolved(name: Named, settings: dict[str, Any], size: tuple[int, int] | None) -> dict[str, Any]:
    """timm's configuration of the weights, overridden by ``settings``."""
    cfg = name.cfg or {"input_size": None}  # timm refuses an empty configuration
    test_size = tuple(cfg.get("test_input_size") or ())[1:]
    at_test_size = size is not None and size == test_size and size != default_size(name)[1:]
    config = resolve_data_config({}, pretrained_cfg=cfg, use_test_size=at_test_size)
    return {key: settings.get(key, value) for key, value in config.items()}
