"""Checks whether integer kernels of ONNX Runtime are exact on this processor."""

from __future__ import annotations

import logging

import numpy as np

from autocompress.runtime.extremes import Runner, extreme_layers, run_layers

log = logging.getLogger("autocompress")

OPTION = "session.x64quantprecision"
EXACT = {OPTION: "1"}
"""Makes int8 results exact on x86-64 processors without VNNI.

Their kernels add two products of uint8 and int8 in 16 bits, which overflows. Two runs of a trained
int8 ResNet then agreed on 72 % of the images. On processors with VNNI the option changes no result
and costs time (1.2 to 1.9 times the latency of an int8 ResNet-18).
"""

PLAIN = {OPTION: "0"}
"""The default of the runtime, for processors with exact integer kernels."""

EXACT_WHEN = (
    "Needed on x86-64 processors without VNNI (AVX-512 VNNI or AVX-VNNI), whose int8 kernels overflow. "
    "Leave it out on other processors: results are the same there and it only costs time."
)
"""The text about ``EXACT`` in the metadata of files."""

THREADS = (1, 2)
"""Numbers of threads for the check: one, and several, which share the work of a layer."""


def exactness(run: Runner = run_layers) -> dict[str, str]:
    """The value of ``session.x64quantprecision`` that this processor needs.

    The check runs layers with extreme values and compares the results with exact integers.

    Args:
        run: runs the layers; the installed ONNX Runtime by default.

    Returns:
        ``PLAIN`` if the default kernels of the runtime are exact, else ``EXACT``.
    """
    try:
        if all(_is_exact(run, threads, PLAIN) for threads in THREADS):
            return dict(PLAIN)
        if not all(_is_exact(run, threads, EXACT) for threads in THREADS):
            log.warning("int8 results of ONNX Runtime are not exact on this processor, even with %s=1", OPTION)
    except Exception as error:  # exceptions of the runtime have no common base
        log.warning("the check for exact integers of ONNX Runtime failed (%s); using %s=1", error, OPTION)
    return dict(EXACT)


def _is_exact(run: Runner, threads: int, config: dict[str, str]) -> bool:
    layers = extreme_layers()
    outputs = run(layers, threads, config)
    return all(np.array_equal(found, layer.expected()) for layer, found in zip(layers, outputs, strict=True))
