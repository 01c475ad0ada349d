"""Torch model to ONNX file: one room, for float and hardened models alike."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx
import torch
from torch import nn

from autocompress.export.translation import translation_table
from autocompress.files import atomic
from autocompress.graph.trace import evaluating

OPSET = 21
INPUT, OUTPUT = "image", "logits"


def export(
    model: nn.Module, path: Path, input_size: tuple[int, int, int], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes ``model`` as one ONNX file (opset 21, no external data), atomically.

    The input ``image`` is float32 ``(batch, channels, height, width)`` with a free batch axis, normalised; the output
    is ``logits`` ``(batch, classes)``.

    Args:
        model: float or hardened; exported in eval mode.
        path: of the file.
        input_size: (channels, height, width).
        metadata: what a reader must know (mean, std, input size, class names), kept in the file's metadata.
    """
    device = next((t.device for t in [*model.parameters(), *model.buffers()]), torch.device("cpu"))
    images = torch.zeros((2, *input_size), device=device)
    batch = torch.export.Dim("batch", min=1, max=4096)
    with evaluating(model), _plain_pools(model), _quiet():
        program = torch.export.export(model, (images,), dynamic_shapes=({0: batch},), strict=False)
        converted = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            custom_translation_table=translation_table(),
            verbose=False,
        )
    assert converted is not None
    proto = converted.model_proto
    _strip(proto)
    for key, value in (metadata or {}).items():
        proto.metadata_props.add(key=key, value=value)
    with atomic(Path(path)) as temporary:
        onnx.save_model(proto, str(temporary))


def _strip(proto: onnx.ModelProto) -> None:
    """Removes what the exporter writes for its own debugging: a stack trace a node, with paths of this machine."""
    for item in [proto.graph, *proto.graph.node, *proto.graph.value_info, *proto.graph.initializer]:
        del item.metadata_props[:]
        item.ClearField("doc_string")
    for item in [*proto.graph.input, *proto.graph.output]:
        del item.metadata_props[:]
    del proto.graph.value_info[:]
    del proto.metadata_props[:]
    proto.producer_name = "autocompress"


@contextlib.contextmanager
def _plain_pools(model: nn.Module) -> Iterator[None]:
    """Global pooling as a mean: torch decomposes the module into strided views where memory is channels-last."""
    pools = [m for m in model.modules() if isinstance(m, nn.AdaptiveAvgPool2d) and m.output_size in (1, (1, 1))]
    try:
        for pool in pools:
            pool.forward = _spatial_mean  # type: ignore[method-assign, assignment]
        yield
    finally:
        for pool in pools:
            del pool.forward


def _spatial_mean(x: torch.Tensor) -> torch.Tensor:
    return x.mean((2, 3), keepdim=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter reports every step; what matters is raised."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
