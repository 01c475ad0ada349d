"""Reading the user's weights: safetensors, plain state dicts, and timm's own training checkpoints."""

from __future__ import annotations

import argparse
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from autocompress.errors import UserError

_NESTED = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Where training scripts keep weights; averaged ones first, as timm prefers them."""
_WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes left by DistributedDataParallel and torch.compile."""


@dataclass(frozen=True)
class Checkpoint:
    """Weights from a file, and the arguments that a timm training run stored beside them."""

    path: Path
    state: dict[str, torch.Tensor]
    args: dict[str, Any] = field(default_factory=dict)

    def classes(self, classifier: tuple[str, ...]) -> int | None:
        """How many classes the weights of ``classifier`` have; None where it is not there."""
        weight = self._first(classifier)
        return None if weight is None else weight.shape[0]

    def channels(self, stem: tuple[str, ...]) -> int | None:
        """How many image channels the weights of ``stem`` read; None where it is not there."""
        weight = self._first(stem)
        return None if weight is None or weight.ndim != 4 else weight.shape[1]

    def _first(self, names: tuple[str, ...]) -> torch.Tensor | None:
        return next((self.state[f"{name}.weight"] for name in names if f"{name}.weight" in self.state), None)

    def load_into(self, model: nn.Module) -> None:
        """Copies the weights into ``model``.

        Raises:
            UserError: naming the first tensor whose shape differs, that is missing or that has no place.
        """
        own = model.state_dict()
        for name, tensor in own.items():
            if name in self.state and self.state[name].shape != tensor.shape:
                raise UserError(
                    f"{self.path}: '{name}' has shape {tuple(self.state[name].shape)}, the model wants "
                    f"{tuple(tensor.shape)}",
                    "give the model, model_args and data that it was trained with",
                )
        # Counters of batch norm came later than some checkpoints; they do not touch the result.
        missing = [name for name in own if name not in self.state and not name.endswith("num_batches_tracked")]
        if missing:
            raise UserError(f"{self.path} has no tensor '{missing[0]}'", "is it a checkpoint of this model?")
        unused = [name for name in self.state if name not in own]
        if unused:
            raise UserError(
                f"{self.path}: the model has no place for '{unused[0]}'", "is it a checkpoint of this model?"
            )
        model.load_state_dict(self.state, strict=False)


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads ``path``: safetensors, or a file of torch.save with tensors and plain values only.

    Raises:
        UserError: if the file is missing, broken, holds anything but data, or no weights.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}")
    content = _safetensors(path) if path.suffix == ".safetensors" else _torch(path)
    args: dict[str, Any] = {}
    if isinstance(content, dict):
        stored = content.get("args")
        args = vars(stored) if isinstance(stored, argparse.Namespace) else dict(stored or {})
        nested = next((content[key] for key in _NESTED if isinstance(content.get(key), dict)), None)
        content = content if nested is None else nested
    state = {}
    if isinstance(content, dict):
        state = {_unwrapped(str(k)): v for k, v in content.items() if isinstance(v, torch.Tensor)}
    if not state:
        raise UserError(f"{path} holds no weights", "a state dict, or a checkpoint of timm's train.py, is understood")
    return Checkpoint(path, state, args)


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read as safetensors: {error}") from error


def _torch(path: Path) -> Any:
    try:
        # weights_only: a checkpoint from the net may not run code here. timm stores its arguments as a Namespace.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is no file of torch.save, or holds more than tensors and plain values, so it is not opened",
            "save the model's state_dict alone, best as safetensors",
        ) from error
    except (OSError, RuntimeError, EOFError, KeyError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {(str(error) or type(error).__name__).splitlines()[0]}") from error


def _unwrapped(name: str) -> str:
    while name.startswith(_WRAPPERS):
        name = name.split(".", 1)[1]
    return name
