"""torch.export and the dynamo ONNX exporter, without steps that our graphs do not need.

``torch.onnx.export`` loads its table of operators anew, and traces the whole program a second time
to decompose operators that have no translation. Together, they take three quarters of the time of
an export. They are skipped if every operator of the program has a translation. If anything
unexpected happens, ``torch.onnx.export`` is used.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any

import onnx
import torch
from torch import nn

from autocompress.compat import torch_onnx
from autocompress.export.optimizing import optimize
from autocompress.export.translation import direct_table, translation_table

OPSET = 21
INPUT, OUTPUT = "image", "logits"
ATTENTION = torch.ops.aten.scaled_dot_product_attention.default
_LOGGERS = ("torch.onnx", "onnxscript", "torch.export", "onnx_ir")


def to_onnx(model: nn.Module, images: torch.Tensor, *, fast: bool = True) -> onnx.ModelProto:
    """Exports ``model`` (in eval mode) with a free batch axis.

    Args:
        model: takes one batch of images, gives one batch of logits.
        images: an example batch of at least 2, ``(N, C, H, W)``.
        fast: False uses ``torch.onnx.export`` at once.
    """
    batch = torch.export.Dim("batch", min=1, max=4096)
    with _quiet(), torch.no_grad(), torch_onnx.without_stack_traces():
        program = torch.export.export(model, (images,), dynamic_shapes=({0: batch},), strict=False)
        if any(node.target is ATTENTION and node.meta["val"].ndim != 4 for node in program.graph.nodes):
            program = program.run_decompositions({ATTENTION: _attention})
        proto = _direct(program) if fast else None
        return _public(program) if proto is None else proto


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Attention of tensors ``(..., tokens, channels)``; the exporter's own has four dimensions."""
    if enable_gqa or dropout:
        raise NotImplementedError("attention of other than four dimensions with dropout or grouped queries")
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1) @ value


class LayerNotWritten(Exception):
    """An operator of a layer has no ONNX form. The text names the layer and the reason."""


def _public(program: torch.export.ExportedProgram) -> onnx.ModelProto:
    try:
        converted = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            custom_translation_table=translation_table(),
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        # The exporter only says at which step it failed; the cause names the operator.
        reason = str(error.__cause__ or error)
        if layer := _layer_in(program, reason):
            raise LayerNotWritten(f"{layer} has no ONNX form: {reason}") from error
        raise
    assert converted is not None
    return converted.model_proto


def _layer_in(program: torch.export.ExportedProgram, reason: str) -> str:
    """The layer of the first graph node that ``reason`` names; empty if there is none."""
    nodes = {node.name: node for node in program.graph.nodes}
    for name in re.findall(r"%(\w+)", reason):
        stack = nodes[name].meta.get("nn_module_stack") if name in nodes else None
        for path, kind in reversed(list((stack or {}).values())):
            if path:
                return f"'{path}' ({str(kind).rpartition('.')[2]})"
    return ""


def _direct(program: torch.export.ExportedProgram) -> onnx.ModelProto | None:
    """Exports without the two slow steps.

    Returns:
        None if an operator has no translation, or on any error, for example after a change of
        torch's private functions.
    """
    try:
        registry = _registry()
        nodes = program.graph_module.graph.nodes
        if not all(registry.is_registered(node.target) for node in nodes if node.op == "call_function"):
            return None
        converted = torch_onnx.translate(program, registry)
        converted.model = torch_onnx.convert_version(converted.model, OPSET)
        optimize(converted.model)
        torch_onnx.rename(converted.model, [INPUT], [OUTPUT])
    except Exception:
        logging.getLogger("autocompress").debug("the direct export failed", exc_info=True)
        return None
    return converted.model_proto


@cache
def _registry() -> Any:
    return torch_onnx.translations(OPSET, direct_table())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporter, which reports every step; errors are still raised."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
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
