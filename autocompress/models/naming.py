"""What a model's name stands for, known before the model is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import timm

from autocompress.errors import UserError, did_you_mean

HUB = ("hf-hub:", "hf_hub:")
LOCAL = "local-dir:"


@dataclass(frozen=True)
class Named:
    """A name, understood.

    Attributes:
        architecture: timm's name of the network, without the source of its weights.
        cfg: timm's facts about the weights: input size, mean and std, first and last layer.
        args: arguments that a hub or folder stores for the network.
    """

    architecture: str
    cfg: dict[str, Any]
    args: dict[str, Any] = field(default_factory=dict)

    @property
    def stem(self) -> tuple[str, ...]:
        """Module names of the first layers."""
        return _names(self.cfg.get("first_conv"))

    @property
    def classifier(self) -> tuple[str, ...]:
        """Module names of the last layers."""
        return _names(self.cfg.get("classifier"))


@cache
def named(name: str) -> Named:
    """Understands ``name``: a timm model, ``hf-hub:USER/MODEL`` (asks the network) or ``local-dir:FOLDER``.

    Raises:
        UserError: if there is no such model.
    """
    if name.startswith((*HUB, LOCAL)):
        return _stored(name)
    if "/" in name:
        raise UserError(f"unknown model '{name}'", f"of a hub write hf-hub:{name}, in a folder local-dir:{name}")
    if not timm.is_model(name):
        raise UserError(f"unknown model '{name}'", did_you_mean(name, timm.list_models()))
    try:
        cfg = timm.get_pretrained_cfg(name)
    except (RuntimeError, KeyError) as error:
        tags = timm.list_pretrained(f"{name.split('.')[0]}*")
        raise UserError(f"'{name}' has no such weights", did_you_mean(name, tags)) from error
    return Named(name, cfg.to_dict() if cfg is not None else {})


def _stored(name: str) -> Named:
    source, _, place = name.partition(":")
    try:
        if name.startswith(LOCAL):
            from timm.models._hub import load_model_config_from_path

            cfg, architecture, args = load_model_config_from_path(Path(place).expanduser())
        else:
            from timm.models._hub import load_model_config_from_hf

            cfg, architecture, args = load_model_config_from_hf(place)
    except Exception as error:  # whatever hub, network and JSON may raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"the model '{place}' cannot be had from {source}: {reason}", "check its name") from error
    if not timm.is_model(architecture):
        raise UserError(f"'{name}' is a '{architecture}', which timm does not have")
    # What the file leaves out (first and last layer) holds for every model of the architecture.
    known = named(architecture).cfg
    return Named(architecture, {**known, **{k: v for k, v in cfg.items() if v is not None}}, dict(args or {}))


def _names(value: str | tuple[str, ...] | list[str] | None) -> tuple[str, ...]:
    return () if value is None else (value,) if isinstance(value, str) else tuple(value)
