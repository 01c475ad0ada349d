"""The options of all ONNX Runtime sessions of this package."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

from autocompress.runtime.exactness import exactness

if TYPE_CHECKING:
    import onnxruntime


def runtime_version() -> str:
    """Name and version of the runtime, for records of measurements."""
    import onnxruntime  # imported here: it takes a tenth of a second, and listing methods does not need it

    return f"onnxruntime {onnxruntime.__version__}"


@cache
def session_config() -> Mapping[str, str]:
    """The session configuration entries, with the result of :func:`exactness`."""
    return {
        **exactness(),
        # Threads that spin after a run would slow the other session of an interleaved measurement.
        "session.force_spinning_stop": "1",
    }


def session_options(threads: int, config: Mapping[str, str] | None = None) -> onnxruntime.SessionOptions:
    """Options of a session: sequential execution, all graph optimizations.

    Args:
        threads: threads within an operator.
        config: session configuration entries; :func:`session_config` by default.
    """
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    settings.log_severity_level = 3  # only errors, because warnings are about optimizations of the runtime
    for name, value in (session_config() if config is None else config).items():
        settings.add_session_config_entry(name, value)
    return settings
