"""Checkpoints of trainings. After a kill, a training loses at most its last minute.

A checkpoint is one safetensors file with JSON in its header, replaced as a whole.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch

from autocompress.files import atomic, cache_folder, kept_if_possible
from autocompress.store import pack, unpack

if TYPE_CHECKING:
    from autocompress.training.loop import Training

EVERY_S = 60.0
"""Seconds between two checkpoints. A shorter training leaves none."""
STALE_S = 30 * 86_400.0
"""Age at which a checkpoint is removed, in seconds."""
_PAIRS, _RECORD = "$pairs", "record"
log = logging.getLogger("autocompress")


@dataclass
class Checkpoint:
    """The checkpoint file of one training.

    Attributes:
        file: file of the checkpoint.
        every_s: seconds between two writes.
        clock: returns seconds.
    """

    file: Path
    every_s: float = EVERY_S
    clock: Callable[[], float] = time.monotonic
    _last: float = field(init=False)

    def __post_init__(self) -> None:
        self._last = self.clock()

    @classmethod
    def of(cls, key: str) -> Checkpoint:
        """The checkpoint of the training whose result has the content key ``key``."""
        folder = cache_folder("checkpoints")
        _drop_stale(folder)
        return cls(folder / f"{key}.safetensors", EVERY_S)

    def restore(self, training: Training) -> bool:
        """Continues ``training`` from this checkpoint; False if there is no usable one."""
        try:
            with safetensors.safe_open(self.file, framework="pt") as opened:
                record = json.loads(opened.metadata()[_RECORD])
            state = _keys_back(unpack(safetensors.torch.load_file(self.file), record))
            training.load_checkpoint(state)
        except FileNotFoundError:
            return False
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
            log.warning("the checkpoint %s cannot be used (%s); the training begins again", self.file, error)
            return False
        log.info("a training continues from step %d of %d", training.step, training.total_steps)
        return True

    def offer(self, training: Training) -> None:
        """Writes the state of ``training`` between two steps, if enough time has passed."""
        if self.clock() - self._last < self.every_s:
            return
        tensors, record = pack(_keys_as_pairs(training.checkpoint()))
        own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        with kept_if_possible(self.file.parent), atomic(self.file) as temporary:
            safetensors.torch.save_file(own, temporary, {_RECORD: json.dumps(record)})
        self._last = self.clock()

    def drop(self) -> None:
        """Removes the file; to be called when the result of the training is stored."""
        with kept_if_possible(self.file.parent):
            self.file.unlink(missing_ok=True)


def _drop_stale(folder: Path) -> None:
    with kept_if_possible(folder):
        for file in folder.glob("*.safetensors"):
            if time.time() - file.stat().st_mtime > STALE_S:
                file.unlink(missing_ok=True)


def _keys_as_pairs(value: Any) -> Any:
    """``value``, with a list of pairs for each dict whose keys are numbers: JSON keys are text."""
    if isinstance(value, dict):
        own = {key: _keys_as_pairs(one) for key, one in value.items()}
        return own if all(isinstance(key, str) for key in own) else {_PAIRS: [list(pair) for pair in own.items()]}
    if isinstance(value, list | tuple):
        return [_keys_as_pairs(one) for one in value]
    return value


def _keys_back(value: Any) -> Any:
    """The reverse of :func:`_keys_as_pairs`; tuples come back as lists."""
    if isinstance(value, dict):
        if set(value) == {_PAIRS}:
            return {key: _keys_back(one) for key, one in value[_PAIRS]}
        return {key: _keys_back(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_keys_back(one) for one in value]
    return value
