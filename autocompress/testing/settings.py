"""Settings of torch that a plugin must not change, because they act on the whole process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

_SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "torch's gradients": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch's default type": (torch.get_default_dtype, torch.set_default_dtype),
    "torch's threads": (torch.get_num_threads, torch.set_num_threads),
    "torch's deterministic algorithms": (
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    "torch's precision of float32 products": (
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
}
"""How each setting is read and written, by its name in a message."""


def settings() -> dict[str, Any]:
    """The settings now."""
    return {name: read() for name, (read, _) in _SETTINGS.items()}


def restore(before: Mapping[str, Any]) -> list[str]:
    """Sets all settings back to those of :func:`settings`.

    Returns:
        The names of the settings that were different.
    """
    now = settings()
    changed = [name for name, value in before.items() if now[name] != value]
    for name in changed:
        _SETTINGS[name][1](before[name])
    return changed
