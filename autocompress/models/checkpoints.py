"""Reads the user's weights: safetensors, plain state dicts, common training checkpoints."""

from __future__ import annotations

import argparse
import errno
import pickle
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from autocompress.errors import UserError

AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
WRAPPERS = (
    *(*AVERAGED, "state_dict", "model_state_dict", "model", "net", "network", "params", "weights"),
    *("module", "state", "student", "teacher"),
)
"""Keys under which training scripts store weights, averaged weights first, as in timm.

In a checkpoint of distillation, the student is the trained model.
"""
_DEEPEST = 3
"""Maximum number of wrappers that may be nested (``{"model": {"state_dict": ...}}``)."""
_PREFIXES = ("module.", "_orig_mod.")
"""Prefixes from DistributedDataParallel and torch.compile, on some or all tensors."""
_COMMON_PREFIXES = ("model.", "net.", "network.")
"""Prefixes from Lightning modules and others, on all tensors."""
_COUNTERS = ("n_averaged",)
"""The counter that torch.optim.swa_utils.AveragedModel adds to the weights."""


@dataclass(frozen=True)
class Checkpoint:
    """Weights from a file, and other values that a training run stored in it.

    Attributes:
        path: path of the file.
        state: tensors by name.
        args: arguments of the training run, of unknown types.
        architecture: name of the network, where the file has it.
    """

    path: Path
    state: dict[str, torch.Tensor]
    args: dict[str, Any] = field(default_factory=dict)
    architecture: str = ""

    def classes(self, classifier: tuple[str, ...]) -> int | None:
        """Number of classes in the weights of ``classifier``; None where these are missing."""
        weight = self._first(classifier)
        return None if weight is None or not weight.ndim else weight.shape[0]

    def channels(self, stem: tuple[str, ...]) -> int | None:
        """Number of image channels in the weights of ``stem``; None where these are missing."""
        weight = self._first(stem)
        return None if weight is None or weight.ndim != 4 else weight.shape[1]

    def _first(self, names: tuple[str, ...]) -> torch.Tensor | None:
        return next((self.state[f"{name}.weight"] for name in names if f"{name}.weight" in self.state), None)

    def load_into(self, model: nn.Module) -> None:
        """Copies the weights into ``model``.

        Raises:
            UserError: if a tensor is missing, is unknown to the model, or has another shape; names
                the first one.
        """
        own = model.state_dict()
        if not any(name in own for name in self.state):
            raise UserError(
                f"{self.path}: none of its {len(self.state)} tensors is a tensor of the model, the first is "
                f"'{next(iter(self.state))}'",
                self._hint("is it a checkpoint of this model?"),
            )
        for name, tensor in own.items():
            if name in self.state and self.state[name].shape != tensor.shape:
                raise UserError(
                    f"{self.path}: '{name}' has shape {tuple(self.state[name].shape)}, the model needs "
                    f"{tuple(tensor.shape)}",
                    self._hint("give the model, model_args and data that it was trained with"),
                )
        # Old checkpoints lack the counters of batch norm, which do not affect the output.
        missing = [name for name in own if name not in self.state and not name.endswith("num_batches_tracked")]
        if missing:
            raise UserError(
                f"{self.path} has no tensor '{missing[0]}'{_more(missing)}",
                self._hint("is it a checkpoint of this model?"),
            )
        unused = [name for name in self.state if name not in own]
        if unused:
            raise UserError(
                f"{self.path}: the model has no tensor '{unused[0]}'{_more(unused)}",
                self._hint("is it a checkpoint of this model?"),
            )
        model.load_state_dict(self.state, strict=False)

    def _hint(self, otherwise: str) -> str:
        return f"the file says that it is a '{self.architecture}'" if self.architecture else otherwise


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads ``path``: safetensors, or a file of torch.save with tensors and plain values only.

    Weights may be under the keys of ``WRAPPERS``; a wrapper without a tensor is ignored. The types
    of all other fields are checked before use.

    Raises:
        UserError: if the file is missing or broken, holds objects other than data, holds no
            weights, or holds tensors without values.
    """
    if path.is_dir():
        raise UserError(
            f"the checkpoint {path} is a folder",
            f"give the file in it, or, for a folder that timm saved, model: local-dir:{path}",
        )
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}")
    content = _safetensors(path) if _is_safetensors(path) else _torch(path)
    state = _state(content) if isinstance(content, Mapping) else {}
    if not state:
        raise UserError(
            f"{path} holds no weights", f"give a state dict, alone or under one of the keys {', '.join(WRAPPERS)}"
        )
    if empty := [name for name, tensor in state.items() if tensor.is_meta]:
        raise UserError(
            f"{path}: '{empty[0]}'{_more(empty)} has no values: it was saved on torch's device 'meta'",
            "save the checkpoint again once its weights are loaded",
        )
    assert isinstance(content, Mapping)
    stored = content.get("args")
    args = vars(stored) if isinstance(stored, argparse.Namespace) else stored
    args = {str(key): value for key, value in args.items()} if isinstance(args, Mapping) else {}
    name = next((value for value in (content.get("arch"), args.get("model")) if isinstance(value, str)), "")
    return Checkpoint(path, _without_common_prefix(state), args, name[:80])


def _state(content: Mapping[Any, Any], depth: int = 0) -> dict[str, torch.Tensor]:
    """The tensors of the first wrapper with enough of them; ``content`` itself comes last.

    Enough means at least half as many as the largest set. So an average that was never filled (no
    tensors, or only a counter) is ignored.
    """
    inner = [content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)] if depth < _DEEPEST else []
    own = {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}
    found = [*(_state(inside, depth + 1) for inside in inner), own]
    most = max(map(len, found))
    state = next(tensors for tensors in found if 2 * len(tensors) >= most)
    return {_unwrapped(name): _dense(tensor) for name, tensor in state.items() if name not in _COUNTERS}


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    """Sparse and quantized tensors as plain ones."""
    tensor = tensor.dequantize() if tensor.is_quantized else tensor
    return tensor if tensor.layout is torch.strided else tensor.to_dense()


def _is_safetensors(path: Path) -> bool:
    """Whether the content is that of a safetensors file; suffixes are unreliable.

    Such a file begins with the length of its header (8 bytes) and the header, which is JSON.
    """
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    looks_so = len(start) == 9 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= path.stat().st_size
    return looks_so or (path.suffix == ".safetensors" and not start.startswith((b"PK", b"\x80")))


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read as safetensors: {error}") from error


def _torch(path: Path) -> Any:
    try:
        # weights_only, so that a downloaded checkpoint cannot run code. timm stores its arguments
        # as a Namespace.
        with (
            path.open("rb") as file,
            warnings.catch_warnings(action="ignore"),  # errors are sufficient
            torch.serialization.safe_globals([argparse.Namespace]),
        ):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is not a file of torch.save with only tensors and plain values, so it is not opened",
            "save only the state_dict of the model, best as safetensors",
        ) from error
    except Exception as error:  # a damaged or hostile file may raise any type
        if _is_meaningless(error):
            raise UserError(f"{path} is not a checkpoint that torch or safetensors can read") from error
        raise UserError(f"{path} cannot be read: {str(error).strip().splitlines()[0]}") from error


def _is_meaningless(error: Exception) -> bool:
    """Whether the text of ``error`` does not help users, such as "pop from empty list"."""
    inner = (LookupError, EOFError, TypeError, ValueError, AttributeError, AssertionError, struct.error)
    is_cut_off = (
        isinstance(error, OSError) and error.errno == errno.EINVAL
    )  # torch seeks to before the start of the file
    return is_cut_off or isinstance(error, inner) or not str(error).strip()


def _unwrapped(name: str) -> str:
    while name.startswith(_PREFIXES):
        name = name.split(".", 1)[1]
    return name


def _without_common_prefix(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    for prefix in _COMMON_PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {_unwrapped(name[len(prefix) :]): tensor for name, tensor in state.items()}
    return state
