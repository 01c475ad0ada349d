"""Describes a model as JSON, and makes the same model from the description."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from timm.utils.model import reparameterize_model
from torch import nn

from autocompress.data import DataInfo
from autocompress.models.plain import made_plain
from autocompress.task import CLASSIFICATION, TaskRef

_HINTS = ("fuse", "reparameterize", "switch_to_deploy")
"""Methods of timm's layers that merge their branches."""
_WHOLE: dict[str, Any] = {"crop_pct": 1.0, "crop_mode": "center", "interpolation": "bilinear"}
"""Preprocessing for descriptions by earlier versions, which do not record it."""
_REMEMBERED = ("pretrained_cfg", "class_names", "reads_exif", "architecture_args", "reparameterised", "task_ref")


def describe(
    model: nn.Module,
    *,
    name: str,
    args: dict[str, Any],
    input_size: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    num_classes: int,
    class_names: Sequence[str],
    crop_pct: float = 1.0,
    crop_mode: str = "center",
    interpolation: str = "bilinear",
    exif: bool = False,
    task: TaskRef = CLASSIFICATION,
) -> nn.Module:
    """Stores on ``model`` its ``pretrained_cfg``, its class names, and how it was made."""
    truth = {
        "architecture": name,
        "num_classes": num_classes,
        "input_size": tuple(input_size),
        "mean": tuple(mean),
        "std": tuple(std),
        "crop_pct": crop_pct,
        "crop_mode": crop_mode,
        "interpolation": interpolation,
    }
    cfg = {**dict(getattr(model, "pretrained_cfg", None) or {}), **truth}
    facts = {
        "pretrained_cfg": cfg,
        "default_cfg": cfg,
        "class_names": list(class_names),
        "reads_exif": exif,  # not in pretrained_cfg, whose keys are timm's
        "architecture_args": dict(args),
        "reparameterised": False,
        "task_ref": task,
    }
    for attribute, value in facts.items():
        setattr(model, attribute, value)
    return model


def stamp(target: nn.Module, source: nn.Module) -> nn.Module:
    """Copies the description (:func:`describe`) of ``source`` to ``target``; returns ``target``."""
    for attribute in _REMEMBERED:
        if hasattr(source, attribute):
            setattr(target, attribute, getattr(source, attribute))
    return target


def architecture(model: nn.Module) -> dict[str, Any]:
    """The description, as JSON, of a ``model`` that :func:`create` made.

    The keys are name, args, input_size, mean, std, crop_pct, crop_mode, interpolation, exif,
    num_classes, class_names and reparameterized, and task where it is not classification: its name,
    options and content key. The structure is that of the baseline. Plans
    record what transforms changed.
    """
    cfg: Any = model.pretrained_cfg
    return {
        "name": cfg["architecture"],
        "args": dict(model.architecture_args),  # type: ignore[arg-type]
        "input_size": list(cfg["input_size"]),
        "mean": list(cfg["mean"]),
        "std": list(cfg["std"]),
        **{key: cfg.get(key, value) for key, value in _WHOLE.items()},
        "exif": bool(model.reads_exif),
        "num_classes": cfg["num_classes"],
        "class_names": list(model.class_names),  # type: ignore[arg-type]
        "reparameterized": bool(model.reparameterised),
        **_told(task_ref(model)),
    }


def task_ref(model: nn.Module) -> TaskRef:
    """The task of a ``model`` that :func:`create` made."""
    found = getattr(model, "task_ref", CLASSIFICATION)
    return found if isinstance(found, TaskRef) else CLASSIFICATION


def _told(task: TaskRef) -> dict[str, Any]:
    if task.is_classification:
        return {}
    return {"task": {"name": task.name, "options": task.options, "key": task.key}}


def _task(description: Mapping[str, Any]) -> TaskRef:
    told = description.get("task")
    return CLASSIFICATION if told is None else TaskRef(told["name"], told["options"])


def data_info(model: nn.Module) -> DataInfo:
    """Properties of the images of ``model``: size, preprocessing and classes."""
    known = architecture(model)
    channels, height, width = (int(value) for value in known["input_size"])
    classes = int(known["num_classes"])
    return DataInfo(
        num_classes=classes,
        channels=channels,
        size=(height, width),
        mean=tuple(known["mean"]),
        std=tuple(known["std"]),
        class_names=tuple(known["class_names"]) or tuple(str(number) for number in range(classes)),
        crop_pct=known["crop_pct"],
        crop_mode=known["crop_mode"],
        interpolation=known["interpolation"],
        exif=known["exif"],
        task=task_ref(model),
    )


def from_architecture(description: dict[str, Any]) -> nn.Module:
    """Makes the model of an :func:`architecture`, with random weights, in eval mode, offline."""
    task = _task(description)
    model = made_plain(task.task().network(description["name"], dict(description["args"]), pretrained=False))
    describe(
        model,
        name=description["name"],
        args=description["args"],
        input_size=description["input_size"],
        mean=description["mean"],
        std=description["std"],
        num_classes=description["num_classes"],
        class_names=description["class_names"],
        **{key: description.get(key, value) for key, value in _WHOLE.items()},
        exif=description.get("exif", False),
        task=task,
    )
    if description["reparameterized"]:
        model = reparameterise(model)
    return model.eval()


def input_size(model: nn.Module) -> tuple[int, int, int]:
    """(channels, height, width) of one image of ``model``."""
    cfg: Any = model.pretrained_cfg
    channels, height, width = cfg["input_size"]
    return int(channels), int(height), int(width)


def reparameterise(model: nn.Module) -> nn.Module:
    """Merges the training-time branches of RepVGG, MobileOne, FastViT and others, in place.

    Without merging, candidates would be compared with a baseline that is too slow. Other models
    are not changed. Outputs in eval mode are equal; merged layers have no batch norm. A model that
    was changed is in eval mode, because torch folds norms only there.
    """
    mergeable = any(hasattr(module, hint) for module in model.modules() for hint in _HINTS)
    if mergeable and not getattr(model, "reparameterised", False):
        model = stamp(reparameterize_model(model.eval(), inplace=True), model)
        setattr(model, "reparameterised", True)  # noqa: B010 - to mypy, attributes of modules are tensors
    return model
