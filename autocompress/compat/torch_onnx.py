"""Parts of torch's ONNX exporter, without the checks and passes of its public function.

All of them are private (``torch.onnx._internal``). They are imported on the first call, which takes
a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.fx import config

STACK_TRACES = "do_not_emit_stack_traces"


@contextmanager
def without_stack_traces() -> Iterator[None]:
    """Within the block, torch does not note for each operator which lines of Python called it."""
    before = getattr(config, STACK_TRACES, False)  # torch 2.9 does not know it, and ignores it
    setattr(config, STACK_TRACES, True)
    try:
        yield
    finally:
        setattr(config, STACK_TRACES, before)


def translations(opset: int, own: Mapping[Any, Callable[..., Any]]) -> Any:
    """Torch's translations of operators for ``opset``; those of ``own`` come first."""
    from torch.onnx._internal.exporter import _registration

    registry = _registration.ONNXRegistry().from_torchlib(opset_version=opset)
    for operator, translation in own.items():
        registry.register_op(operator, translation, is_complex=False)
    return registry


def translate(program: torch.export.ExportedProgram, registry: Any) -> Any:
    """The ONNX program of ``program``, translated with ``registry``."""
    from torch.onnx._internal.exporter import _core

    return _core._exported_program_to_onnx_program(program, registry=registry)


def convert_version(model: Any, opset: int) -> Any:
    """The ONNX model ``model`` in version ``opset`` of the operators."""
    from torch.onnx._internal._lazy_import import onnxscript_apis

    return onnxscript_apis.convert_version(model, opset)


def rename(model: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Gives the inputs and outputs of the ONNX model ``model`` these names, in place."""
    from torch.onnx._internal.exporter import _ir_passes

    _ir_passes.rename_inputs(model, list(inputs))
    _ir_passes.rename_outputs(model, list(outputs))
