"""Options of ONNX Runtime, for every session that checks, scores or measures a file."""

from autocompress.runtime.exactness import EXACT, EXACT_WHEN, exactness
from autocompress.runtime.extremes import Layer, Runner, run_layers
from autocompress.runtime.options import runtime_version, session_config, session_options

__all__ = [
    "EXACT",
    "EXACT_WHEN",
    "Layer",
    "Runner",
    "exactness",
    "run_layers",
    "runtime_version",
    "session_config",
    "session_options",
]
