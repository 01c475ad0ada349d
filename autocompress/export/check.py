"""Checks that a file and its torch model have equal outputs, and lists the operators that run."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import nn

from autocompress.export.exporter import INPUT
from autocompress.graph.trace import evaluating
from autocompress.runtime import session_options
from autocompress.task import Classification, Task

AGREEMENT_IMAGES = 64
"""Number of images for comparing a file with its model."""
LEAST_AGREEMENT = 0.8
"""Minimum share of equal labels. It is below 1, because rounding can change labels at low bits."""
_CLASSES = Classification()
STANDARD_DOMAINS = frozenset({"", "ai.onnx"})


@dataclass(frozen=True)
class Agreement:
    """How a file compares with the torch model on the same images.

    Attributes:
        labels: share of images with the same label, 0 to 1. For tasks without labels, it is the
            share of equal predictions. Logits are not compared, because rounding may change single
            logits of a low-bit model.
        images: number of compared images.
        mean_error, max_error: absolute difference of logits, in units of the largest absolute logit
            of the torch model.
    """

    labels: float
    images: int
    mean_error: float
    max_error: float

    @property
    def fault(self) -> str:
        """The reason to refuse file and model; empty if they agree."""
        if not math.isfinite(self.max_error):  # both may give the same label to every NaN
            return "the model's outputs are not finite numbers"
        if self.labels < LEAST_AGREEMENT:
            return f"file and torch model give the same label to {self.labels:.0%} of the images only"
        return ""


def check_agreement(
    file: Path,
    model: nn.Module,
    images: torch.Tensor,
    *,
    batch_size: int = 64,
    pause: Callable[[], None] | None = None,
    task: Task = _CLASSES,
) -> Agreement:
    """Compares the file and ``model`` in eval mode on ``images`` ``(N, C, H, W)``.

    Args:
        file: ONNX file that :func:`autocompress.export.export` wrote.
        model: the torch model: float, fake-quantized or hardened.
        images: float32, normalised.
        batch_size: images per run.
        pause: called between runs; may wait for a measurement on this machine.
        task: decides which outputs are equal.
    """
    session = open_session(file)
    ours, theirs = [], []
    device = next((t.device for t in [*model.parameters(), *model.buffers()]), torch.device("cpu"))
    with evaluating(model):
        for batch in images.split(batch_size):
            ours.append(model(batch.to(device)).float().cpu())
            if pause is not None:
                pause()
            theirs.append(torch.from_numpy(session.run(None, {INPUT: batch.numpy()})[0]))
            if pause is not None:
                pause()
    expected, got = torch.cat(ours), torch.cat(theirs)
    error = (expected - got).abs() / expected.abs().max().clamp(min=1e-12)
    same = task.agreement(expected, got).mean()
    return Agreement(float(same), len(images), float(error.mean()), float(error.max()))


def open_session(file: Path, threads: int = 1, optimized: Path | None = None) -> ort.InferenceSession:
    """An ONNX Runtime session on the processor.

    If ``optimized`` is a path, the graph that the session runs is written there.
    """
    options = session_options(threads)
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def operator_histogram(file: Path, threads: int = 1) -> dict[str, int]:
    """Operators of the graph that ONNX Runtime runs after fusions, with counts, by frequency.

    It shows without timing whether fusions are lost: an int8 network has no ``Conv``, only
    ``QLinearConv``.
    """
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        open_session(file, threads, optimized)
        graph = onnx.load(str(optimized), load_external_data=False).graph
    return dict(Counter(node.op_type for node in graph.node).most_common())


def custom_operators(file: Path) -> set[str]:
    """Names (``domain::operator``) of operators that a stock runtime does not know."""
    model = onnx.load(str(file), load_external_data=False)
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    return {f"{node.domain}::{node.op_type}" for node in nodes if node.domain not in STANDARD_DOMAINS}


def integer_bytes(file: Path) -> tuple[int, int]:
    """(bytes of integer initializers, bytes of float initializers) in the file."""
    integers = floats = 0
    for tensor in onnx.load(str(file)).graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        stored = len(tensor.raw_data) or array.nbytes  # numpy gives an integer of 4 bits a whole byte
        if np.issubdtype(array.dtype, np.floating):
            floats += stored
        else:
            integers += stored
    return integers, floats
