"""Configurations of models on a hub or in a folder. timm is imported on the first call."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def config_of_folder(folder: Path) -> tuple[dict[str, Any], str, dict[str, Any] | None]:
    """Pretrained config, architecture and arguments of the model in ``folder``.

    Private: ``timm.models._hub``.
    """
    from timm.models._hub import load_model_config_from_path

    cfg, architecture, arguments = load_model_config_from_path(folder)
    return cfg, architecture, arguments


def config_of_hub(place: str) -> tuple[dict[str, Any], str, dict[str, Any] | None]:
    """The same for a model on the Hugging Face hub. Private: ``timm.models._hub``."""
    from timm.models._hub import load_model_config_from_hf

    cfg, architecture, arguments = load_model_config_from_hf(place)
    return cfg, architecture, arguments
