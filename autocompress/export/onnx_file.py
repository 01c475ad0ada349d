"""Writes float and hardened torch models as ONNX files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import onnx
import torch
from torch import fx, nn

from autocompress.contract import LayerSpec
from autocompress.export.exporter import to_onnx
from autocompress.export.floatweights import fold_at_load
from autocompress.export.naming import name_transposed
from autocompress.export.packing import pack_weights
from autocompress.export.slim import slim
from autocompress.export.unshare import unshare
from autocompress.files import atomic
from autocompress.graph.shapes import blank_images
from autocompress.graph.trace import UntraceableModel, evaluating
from autocompress.quantization.folding import fold_batch_norm
from autocompress.quantization.lowering import tidy


def export(
    model: nn.Module,
    path: Path,
    input_size: tuple[int, int, int],
    metadata: Mapping[str, str] | None = None,
    specs: Sequence[LayerSpec] = (),
) -> None:
    """Writes ``model`` as one ONNX file (opset 21, no external data), atomically.

    The input ``image`` is float32 ``(batch, channels, height, width)`` with a free batch axis,
    normalised. The output ``logits`` is that of the network, batch first.

    Weights below 8 bits are packed (see :mod:`.packing`).

    Args:
        model: float or hardened; exported in eval mode, batch norm folded. It is not changed.
        path: path of the file to write.
        input_size: (channels, height, width).
        metadata: for the metadata of the file, by name: mean, std, input size, class names.
        specs: descriptions of the layer types of plugins. Leaf layers compute with plain operators
            while torch exports them (``torch.compiler.is_exporting()``).

    Raises:
        TrialFailed: if a layer's integers do not fit its bits.
    """
    deployable = _folded(model, specs)
    with evaluating(deployable), _plain_pools(deployable):
        proto = to_onnx(deployable, blank_images(deployable, input_size, batch=2))
    _strip(proto)
    name_transposed(proto, deployable)
    slim(proto)
    copies = unshare(proto)
    fold_at_load(proto)
    pack_weights(proto, deployable, copies=copies)
    for key, value in (metadata or {}).items():
        proto.metadata_props.add(key=key, value=value)
    with atomic(Path(path)) as temporary:
        onnx.save_model(proto, str(temporary))


def _folded(model: nn.Module, specs: Sequence[LayerSpec]) -> nn.Module:
    """Folds norms of a float model and removes in-place operators, because it then exports faster.

    Every runtime would fold norms when it loads the file. A hardened model, and one that cannot be
    traced, are returned unchanged.
    """
    if isinstance(model, fx.GraphModule):
        return model
    try:
        module = fold_batch_norm(model, specs=specs)
    except UntraceableModel:
        return model
    tidy(module)
    return module


def _strip(proto: onnx.ModelProto) -> None:
    """Removes the exporter's stack traces, which hold paths of this machine."""
    _strip_graph(proto.graph)
    proto.ClearField("metadata_props")
    proto.producer_name = "autocompress"


def _strip_graph(graph: onnx.GraphProto) -> None:
    for item in [graph, *graph.node, *graph.initializer, *graph.input, *graph.output]:
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    graph.ClearField("value_info")
    for body in (attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")):
        _strip_graph(body)


@contextlib.contextmanager
def _plain_pools(model: nn.Module) -> Iterator[None]:
    """Computes global pooling as a mean.

    torch decomposes the module into strided views if the memory format is channels-last.
    """
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
