"""ONNX Runtime sessions with the same settings for every file, and a small cache of them."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from autocompress.errors import TrialFailed
from autocompress.runtime import session_options

if TYPE_CHECKING:
    import onnxruntime

PROCESSOR = "CPUExecutionProvider"
Level = Literal["all", "extended", "basic", "none"]
LEVELS: Mapping[Level, str] = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "none": "ORT_DISABLE_ALL",
}
"""ONNX Runtime's names of the levels."""
KEPT = 3
"""Number of cached sessions: of the baseline, of the candidate, and one more."""

_kept: OrderedDict[tuple[Any, ...], onnxruntime.InferenceSession] = OrderedDict()
_inherited: list[onnxruntime.InferenceSession] = []
"""Sessions of the parent, kept in a forked process.

Their threads do not exist there, and a session that is destroyed waits for its threads.
"""


def _inherit() -> None:
    """Sets the sessions of the parent aside; called in a forked process."""
    _inherited.extend(_kept.values())
    _kept.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_inherit)


def providers() -> list[str]:
    """The execution providers of the installed ONNX Runtime."""
    import onnxruntime  # late: as in runtime/options.py

    return list(onnxruntime.get_available_providers())


def session(file: Path, threads: int) -> onnxruntime.InferenceSession:
    """A session of ``file`` on the CPU with ``threads`` threads and all optimisations.

    It is cached until the file changes.

    Raises:
        TrialFailed: if the file cannot be loaded.
    """
    try:
        state = file.stat()
    except OSError as error:
        raise TrialFailed(f"the model file '{file}' cannot be read: {error.strerror}") from error
    key = (str(file.resolve()), state.st_mtime_ns, state.st_size, threads)
    if key not in _kept:
        _kept[key] = load(file, threads)
    _kept.move_to_end(key)
    while len(_kept) > KEPT:
        _kept.popitem(last=False)
    return _kept[key]


def load(
    file: Path, threads: int, *, level: Level = "all", provider: tuple[str, Mapping[str, str]] = (PROCESSOR, {})
) -> onnxruntime.InferenceSession:
    """A new session of ``file``, which is not kept.

    Args:
        file: ONNX.
        threads: number of threads within an operator.
        level: level of the graph optimisations.
        provider: name and options of the execution provider; the CPU provider is its fallback.

    Raises:
        TrialFailed: if the file cannot be loaded.
    """
    import onnxruntime  # late: as in runtime/options.py

    try:
        options = session_options(threads)
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, LEVELS[level])
        name, own = provider
        behind = [] if name == PROCESSOR else [PROCESSOR]
        return onnxruntime.InferenceSession(str(file), options, providers=[(name, dict(own)), *behind])
    except Exception as error:  # the runtime's own exceptions have no common base
        reason = str(error).strip().splitlines()[0]
        raise TrialFailed(f"ONNX Runtime {onnxruntime.__version__} cannot load '{file}': {reason}") from error


def input_shape(loaded: onnxruntime.InferenceSession, batch: int, input_size: tuple[int, int, int]) -> tuple[int, ...]:
    """The input shape of the file; open dimensions are taken from ``(batch, *input_size)``."""
    declared = loaded.get_inputs()[0].shape
    return tuple(
        size if isinstance(size, int) else wanted for size, wanted in zip(declared, (batch, *input_size), strict=True)
    )


def run(loaded: onnxruntime.InferenceSession, images: np.ndarray) -> np.ndarray:
    """The first output for one batch."""
    output: np.ndarray = loaded.run(None, {loaded.get_inputs()[0].name: images})[0]
    return output
