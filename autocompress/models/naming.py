"""Resolves the name of a model before the model is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import timm

from autocompress.compat.timm import config_of_folder, config_of_hub
from autocompress.errors import UserError, did_you_mean
from autocompress.models.settings import all_checked

HUB = ("hf-hub:", "hf_hub:")
LOCAL = "local-dir:"
_SETTINGS = {
    **{key: key for key in ("input_size", "mean", "std", "crop_pct", "crop_mode", "interpolation")},
    "test_input_size": "input_size",
    "test_crop_pct": "crop_pct",
}
"""Fields of a configuration for the preparation of images, each with its key in ``SETTINGS``."""


@dataclass(frozen=True)
class Named:
    """A resolved name of a model.

    Attributes:
        architecture: timm's name of the network, without the source of its weights.
        cfg: timm's configuration of the weights: input size, mean and std, first and last layer.
        args: arguments of the network that a hub or folder stores.
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
    """Resolves ``name``: of timm, ``hf-hub:USER/MODEL`` (downloads) or ``local-dir:FOLDER``.

    Raises:
        UserError: if there is no such model.
    """
    if name.startswith((*HUB, LOCAL)):
        return _stored(name)
    if "/" in name:
        raise UserError(
            f"unknown model '{name}'", f"for a model of the hub write hf-hub:{name}, for a folder local-dir:{name}"
        )
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
            cfg, architecture, args = config_of_folder(Path(place).expanduser())
        else:
            cfg, architecture, args = config_of_hub(place)
    except Exception as error:  # hub, network and JSON raise many types
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"the model '{place}' cannot be loaded from {source}: {reason}", "check its name") from error
    if not timm.is_model(architecture):
        raise UserError(f"'{name}' is a '{architecture}', which timm does not have")
    # First and last layer default to those of the architecture. The preparation of images belongs
    # to the weights, so it defaults to timm's defaults, as in timm.
    known = {key: value for key, value in named(architecture).cfg.items() if key not in _SETTINGS}
    given = {key: value for key, value in cfg.items() if value is not None}
    _check(name, given)
    return Named(architecture, {**known, **given}, dict(args or {}))


def _check(name: str, cfg: dict[str, Any]) -> None:
    """Refuses a configuration, maybe from an untrusted source, with invalid fields.

    Raises:
        UserError: naming the first invalid field.
    """

    for key, setting in _SETTINGS.items():
        value = cfg.get(key)

        def error(_setting: str, text: str, hint: str, key: str = key) -> UserError:
            return UserError(f"the configuration of '{name}': '{key}' {text}", hint)

        channels = len(value) if isinstance(value, list | tuple) else 3
        if setting in (found := all_checked({setting: value}, channels, error)):
            cfg[key] = found[setting]
    for key in ("first_conv", "classifier"):
        if not isinstance(names := cfg.get(key, ""), str | list | tuple) or not all(isinstance(n, str) for n in names):
            raise UserError(f"the configuration of '{name}': '{key}' must name layers, not {names!r}")
    if isinstance(count := cfg.get("num_classes", 0), bool) or not isinstance(count, int):
        raise UserError(f"the configuration of '{name}': 'num_classes' must be a whole number, not {count!r}")


def _names(value: str | tuple[str, ...] | list[str] | None) -> tuple[str, ...]:
    return () if value is None else (value,) if isinstance(value, str) else tuple(value)
