"""How ONNX Runtime is asked to run a file, wherever we run one: to check it, to score it, to measure it."""

from __future__ import annotations

import onnxruntime

EXACT = {"session.x64quantprecision": "1"}
"""x86-64 processors without VNNI add two products of uint8 and int8 in 16 bits, where they overflow: a trained int8
ResNet then agreed with itself on 72 % of the images. This asks for exact kernels, which take some 1.4 times as long
there; on other processors it changes nothing. Whoever deploys a file needs it too, so files say it."""

CONFIG = {
    **EXACT,
    # Threads that spin after a run would take processor time from the other session of an interleaved measurement.
    "session.force_spinning_stop": "1",
}


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """``threads`` within an operator, operators one after the other, all graph optimisations, and ``CONFIG``."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    settings.log_severity_level = 3  # errors; its warnings are about how it optimises
    for name, value in CONFIG.items():
        settings.add_session_config_entry(name, value)
    return settings
