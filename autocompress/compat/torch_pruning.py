"""Indices and their maps in torch-pruning's dependency graph."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any

import torch_pruning as tp
from torch_pruning import ops
from torch_pruning._helpers import _HybridIndex
from torch_pruning.dependency.index_mapping import _SplitIndexMapping
from torch_pruning.dependency.shape_infer import infer_out_channels_recursively


class ChannelGraph(tp.DependencyGraph):
    """torch-pruning's graph, with the sizes of splits and concats that autograd recorded.

    torch-pruning maps only splits along dimension 1, and assumes that tracing meets the readers of
    the outputs in the order of the outputs. It guesses the sizes of a concat from the layers
    around, and raises if it finds none.
    Private: ``_build_dependency`` (called between tracing and mapping), ``_input_metadata`` (the
    shapes of the outputs of a node) and ``_saved_dim``.
    """

    def build_dependency(self, *args: Any, **kwargs: Any) -> Any:
        """Builds the dependencies as torch-pruning does, and maps splits of the last dimension."""
        super().build_dependency(*args, **kwargs)
        for node in self.module2node.values():
            if node.type == ops.OPTYPE.SPLIT and _is_last(node.grad_fn):
                self._map_split(node)
        return self

    def get_in_channels(self, module_or_node: Any) -> Any:
        """The number of input channels.

        torch-pruning knows none for an operator before a concat of channels. The number is then the
        size of the input that the operator gives to the concat.
        """
        known = super().get_in_channels(module_or_node)
        outputs: Any = getattr(module_or_node, "outputs", ())
        if known is not None or len(outputs) != 1 or outputs[0].type != ops.OPTYPE.CONCAT:
            return known
        function = outputs[0].grad_fn
        if not hasattr(function, "_saved_dim") or not (_is_last(function) or _is_second(function)):
            return None
        sizes = [
            size
            for (source, _), size in zip(_sources(function), _concat_sizes(function), strict=True)
            if source is module_or_node.grad_fn
        ]
        return sizes[0] if len(sizes) == 1 else None

    def _build_dependency(self, module2node: Any) -> None:
        super()._build_dependency(module2node)
        for node in module2node.values():
            is_known = hasattr(node.grad_fn, "_saved_dim") and _have_one_rank(node.grad_fn)
            if node.type == ops.OPTYPE.CONCAT and is_known:
                node.module.concat_sizes = _concat_sizes(node.grad_fn)

    def _map_split(self, node: Any) -> None:
        """Sets the maps between a split of the last dimension and the readers of its outputs."""
        sizes = [int(output.shape[-1]) for output in node.grad_fn._input_metadata]
        if not any(self._writes(writer, sum(sizes)) for writer in node.inputs):
            return  # the last dimension is the width of the images
        offsets = list(pairwise(accumulate(sizes, initial=0)))
        for reader in node.outputs:
            numbers = {number for source, number in reader.grad_fn.next_functions if source is node.grad_fn}
            if len(numbers) == 1:
                offset = offsets[numbers.pop()]
                _set_map(node, reader, _SplitIndexMapping(offset=offset, reverse=False))
                _set_map(reader, node, _SplitIndexMapping(offset=offset, reverse=True))

    def _writes(self, node: Any, channels: int) -> bool:
        return bool(infer_out_channels_recursively(self, node, [0]) == channels)


def _dim(function: Any) -> int:
    """The dimension of a split or concat; autograd keeps negative ones as unsigned numbers."""
    dims, saved = len(function._input_metadata[0].shape), int(function._saved_dim)
    return saved if saved < dims else saved - 2**64 + dims


def _is_last(function: Any) -> bool:
    """Whether it acts along the last of at least three dimensions."""
    if not hasattr(function, "_saved_dim"):
        return False
    dims = len(function._input_metadata[0].shape)
    return dims > 2 and _dim(function) == dims - 1


def _is_second(function: Any) -> bool:
    """Whether it acts along the channels of images, or along features."""
    return len(function._input_metadata[0].shape) in (2, 4) and _dim(function) == 1


def _sources(function: Any) -> list[tuple[Any, int]]:
    """The nodes whose outputs a concat reads, with the number of the output."""
    return [(source, number) for source, number in function.next_functions if source is not None]


def _have_one_rank(function: Any) -> bool:
    """Whether all inputs of a concat have as many dimensions as its output.

    ``torch.cat`` also takes an empty tensor of one dimension.
    """
    ranks = {len(source._input_metadata[number].shape) for source, number in _sources(function)}
    return ranks == {len(function._input_metadata[0].shape)}


def _concat_sizes(function: Any) -> list[int]:
    return [int(source._input_metadata[number].shape[_dim(function)]) for source, number in _sources(function)]


def _set_map(source: Any, target: Any, mapping: Any) -> None:
    for edge in source.dependencies:
        if edge.target is target:
            edge.index_mapping[0] = mapping  # slot 0 is for splits, slot 1 for concats


def channel_indices(size: int) -> list[Any]:
    """The channels 0 to ``size`` - 1, each as its own root. Private: ``_helpers._HybridIndex``."""
    return [_HybridIndex(idx=i, root_idx=i) for i in range(size)]


def growth_of(mapping: Any) -> int:
    """The number of indices to which ``mapping`` maps one index.

    Private: ``_stride`` of the maps through a flatten.
    """
    return 1 if getattr(mapping, "reverse", True) else int(getattr(mapping, "_stride", 1))
