"""Finds couplings with torch-pruning's dependency graph.

The graph (Fang et al., DepGraph, CVPR 2023, arXiv 2301.12900) is converted to maps from channels to
indices of all layers. Nothing is removed here.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
import torch_pruning as tp
from torch import nn
from torch_pruning import ops
from torch_pruning.pruner.function import BasePruningFunc

from autocompress.channels.slicing import NORMS, Refused, is_depthwise
from autocompress.compat.torch_pruning import ChannelGraph, channel_indices, growth_of
from autocompress.contract import LayerSpec
from autocompress.contract.coupling import Index, Part
from autocompress.graph import UntraceableModel
from autocompress.graph.shapes import blank_images

TANGLED = 256
"""Maximum average number of indices of a layer per channel; a flattened map of 16 x 16 has as many.

A group with more is refused: if torch-pruning misinterprets a reshape, its index maps grow with the
square of the width.
"""


@dataclass
class Found:
    """One group of the dependency graph, not checked yet.

    Attributes:
        root: the layer with the outputs from which the group was made.
        parts: parts of its layers. Each set of root outputs that are tied to each other is one
            channel.
        channels: number of those sets.
        norm_of, masks: as in ``Coupling``.
        norms: batch normalisations among the parts.
        partial: writers with only some outputs in the group.
        operators: names of the autograd nodes between the layers.
        concatenated, is_output, reads_image: whether the channels reach a concat, the output or
            the image.
        contradictory: layers with indices in the group that they do not have.
        tied: writers that were reached before indices became contradictory.
        others: types of other layers that mix channels (LayerNorm, GroupNorm).
        heads: a channel is an attention head.
    """

    root: str
    parts: list[Part]
    channels: int
    norm_of: list[tuple[str, str]] = field(default_factory=list)
    masks: list[tuple[str, Index]] = field(default_factory=list)
    norms: list[str] = field(default_factory=list)
    partial: list[str] = field(default_factory=list)
    operators: set[str] = field(default_factory=set)
    concatenated: bool = False
    is_output: bool = False
    reads_image: bool = False
    others: list[str] = field(default_factory=list)
    contradictory: list[str] = field(default_factory=list)
    tied: list[str] = field(default_factory=list)
    heads: bool = False


def pruners_of(specs: Iterable[LayerSpec]) -> dict[type[nn.Module], Any]:
    """torch-pruning's pruners for the layer types of plugins.

    Leaf layers without a pruner get one that refuses (:class:`Whole`). Other types without a pruner
    are traced, and are not in the result.
    """
    found: dict[type[nn.Module], Any] = {}
    for spec in specs:
        pruner = spec.pruner()
        if pruner is not None or spec.leaf:
            found[spec.layer_type] = Whole() if pruner is None else pruner
    return found


class Whole(BasePruningFunc):
    """The pruner of a leaf layer that cannot lose channels: all tied channels are kept."""

    def prune_out_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        """Always refuses."""
        raise Refused(f"{type(layer).__name__} cannot lose outputs ({len(idxs)} were to be removed)")

    def prune_in_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        """Always refuses."""
        raise Refused(f"{type(layer).__name__} cannot lose inputs ({len(idxs)} were to be removed)")

    def get_out_channels(self, layer: nn.Module) -> int:
        """The number of outputs that the layer states."""
        return int(getattr(layer, "out_channels", getattr(layer, "out_features", 0)))

    def get_in_channels(self, layer: nn.Module) -> int:
        """The number of inputs that the layer states."""
        return int(getattr(layer, "in_channels", getattr(layer, "in_features", 0)))


def find(model: nn.Module, input_size: tuple[int, int, int], pruners: Mapping[type[nn.Module], Any]) -> list[Found]:
    """Groups of channels, in the order of execution. ``model`` is not changed.

    Raises:
        UntraceableModel: if the dependency graph cannot be built.
    """
    return _Finder(model, input_size, pruners).groups()


class _Opaque(torch.autograd.Function):
    """A layer of a plugin as one node of autograd's graph. No gradient is computed."""

    @staticmethod
    def forward(context: Any, layer: Any, x: torch.Tensor) -> torch.Tensor:
        """``layer(x)``."""
        del context
        return layer(x).clone()  # an in-place activation cannot write into a view


class _Finder:
    def __init__(
        self, model: nn.Module, input_size: tuple[int, int, int], pruners: Mapping[type[nn.Module], Any]
    ) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(True)  # the graph is autograd's
        self.names = {module: name for name, module in self.model.named_modules()}
        self.pruners = pruners
        for module in self.names:
            if type(module) in pruners:  # one node, although it contains several layers
                module.forward = partial(_Opaque.apply, module.forward)
        self.graph = ChannelGraph()
        self.order: dict[str, int] = {}
        self._outputs: set[Any] = set()
        try:
            with torch.enable_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                # not a leaf tensor, so that the graph contains what is tied to the image
                image = blank_images(self.model, input_size).requires_grad_(True) * 1
                self._image = image.grad_fn
                self.graph.build_dependency(
                    self.model, image, forward_fn=self._forward, customized_pruners=dict(pruners), verbose=False
                )
        except Exception as error:  # torch-pruning and forward functions raise many types
            reason = f"no dependency graph: {type(error).__name__}: {error}".split("\n")[0]
            raise UntraceableModel(type(model).__name__, reason) from error
        self.parameters = {parameter: name for name, parameter in self.model.named_parameters()}

    def _forward(self, model: nn.Module, image: torch.Tensor) -> Any:
        def note(module: nn.Module, *_: Any) -> None:
            self.order.setdefault(self.names[module], len(self.order))

        handles = [module.register_forward_pre_hook(note) for module in model.modules()]
        try:
            out = model(image)
        finally:
            for handle in handles:
                handle.remove()
        self._outputs = {value.grad_fn for value in tp.utils.flatten_as_list(out)}
        return out

    def groups(self) -> list[Found]:
        covered: set[str] = set()
        tangled: dict[str, Found] = {}
        found = []
        for module in sorted(self._writers(), key=lambda writer: self.order.get(self.names[writer], 0)):
            name = self.names[module]
            if name in covered:
                continue
            group = self._group(module) if name not in tangled else self._tangled(module, tangled[name])
            covered.update(part.layer for part in group.parts if part.side == "out")
            covered.difference_update(group.partial)
            tangled |= dict.fromkeys(group.tied, group)
            found.append(group)
        return found

    def _tangled(self, root: nn.Module, first: Found) -> Found:
        """The group of a writer that is tied to the root of ``first``, a group with wrong indices.

        Following the edges again would take as long and come to the same layers.
        """
        size = self.graph.get_pruner_of_module(root).get_out_channels(root)
        name, index = self.names[root], tuple((i,) for i in range(size))
        return replace(first, root=name, parts=[Part(name, "out", index, size)], channels=size)

    def _writers(self) -> Iterator[nn.Module]:
        for module in self.graph.module2node:
            if module not in self.names:
                continue
            own = type(module) in self.pruners and not self._through(module)
            if own or (isinstance(module, nn.Conv2d | nn.Linear) and not is_depthwise(module)):
                yield module

    def _through(self, module: nn.Module) -> bool:
        pruner = self.graph.get_pruner_of_module(module)
        return pruner is not None and pruner.prune_in_channels == pruner.prune_out_channels

    def _group(self, root: nn.Module) -> Found:
        pruner = self.graph.get_pruner_of_module(root)
        size = pruner.get_out_channels(root)
        found = Found(self.names[root], [], 0)
        touched: dict[tuple[Any, str], dict[int, set[int]]] = {}  # (node, side) -> own index -> outputs of the root
        for (node, handler), pairs in self._reached(root, size, found).items():
            side = self._side(node, handler)
            self._note(found, node, side)
            if side:
                own = touched.setdefault((node, side), {})
                for position, origin in pairs:
                    own.setdefault(position, set()).add(-1 if origin is None else origin)
        if found.contradictory:
            found.tied = [self.names[node.module] for node, side in touched if side == "out"]
            return self._tangled(root, found)
        units = _units(size, [own.values() for own in touched.values()] + list(self._ties(touched)))
        found.channels = len(units)
        for (node, side), own in touched.items():
            found.parts.append(self._part(node, side, own, units))
        found.parts.sort(key=lambda part: self.order.get(part.layer, len(self.order)))
        nodes = {self._name(node): node for node, _ in touched}
        self._describe(found, nodes)
        return found

    def _reached(self, root: nn.Module, size: int, found: Found) -> dict[tuple[Any, Any], set[tuple[int, int]]]:
        """All indices that are removed together with outputs of ``root``.

        The result maps (node, torch-pruning's handler) to (index, origin).

        The edges and their index maps are torch-pruning's. Its traversal (``get_pruning_group``)
        visits a node again for every new list of indices, and does not end on split attention. This
        one continues only with new indices.
        """
        start = self.graph.module2node[root]
        first = self.graph.get_pruner_of_module(root).prune_out_channels
        waiting = [(start, first, channel_indices(size))]
        reached: dict[tuple[Any, Any], set[tuple[int, int]]] = {(start, first): set(waiting[0][2])}
        most = TANGLED * size
        while waiting and not found.contradictory:
            node, handler, indices = waiting.pop()
            for edge in node.dependencies:
                if not edge.is_triggered_by(handler):
                    continue
                mapped = indices
                for mapping in edge.index_mapping:
                    if len(mapped) * growth_of(mapping) > most:
                        found.contradictory.append(found.root)
                        return reached
                    try:
                        mapped = mapping(mapped) if mapping is not None else mapped
                    except Exception:  # after a misread reshape, torch-pruning's maps divide by a width of 0
                        found.contradictory.append(found.root)
                        return reached
                known = reached.setdefault((edge.target, edge.handler), set()) if mapped else set()
                fresh = [pair for pair in mapped if pair not in known]
                if fresh and max(position for position, _ in fresh) >= self._width(edge.target, edge.handler):
                    found.contradictory.append(self._name(edge.target))
                    return reached
                if fresh:
                    known.update(fresh)
                    waiting.append((edge.target, edge.handler, fresh))
                if len(known) > most:
                    found.contradictory.append(found.root)
        return reached

    def _width(self, node: Any, handler: Any) -> float:
        """The number of channels on a side of a layer; infinity for an operator."""
        side = self._side(node, handler)
        if side == "parameter":
            return int(node.module.shape[node.pruning_dim])
        if not side:
            return math.inf
        pruner = self.graph.get_pruner_of_module(node.module)
        return int((pruner.get_in_channels if side == "in" else pruner.get_out_channels)(node.module) or 0)

    def _note(self, found: Found, node: Any, side: str) -> None:
        """Records facts about the channels that follow from a node."""
        # The classifier is an output node, but it only reads these channels (side "in").
        found.is_output |= side != "in" and node.grad_fn in self._outputs
        found.reads_image |= node.grad_fn is self._image
        found.concatenated |= node.type == ops.OPTYPE.CONCAT
        if node.module not in self.names and not isinstance(node.module, nn.Parameter):
            found.operators.add(node.grad_fn.name() if hasattr(node.grad_fn, "name") else "unknown")

    def _side(self, node: Any, handler: Any) -> str:
        """The side of a layer; empty for an operator without channels of its own."""
        module = node.module
        if isinstance(module, nn.Parameter):
            return "parameter"
        if module not in self.names or (isinstance(module, nn.PReLU) and module.num_parameters == 1):
            return ""  # a PReLU with one slope for all channels is a plain activation
        if self._through(module):
            return "both"
        return "out" if handler == self.graph.get_pruner_of_module(module).prune_out_channels else "in"

    def _name(self, node: Any) -> str:
        return self.parameters[node.module] if isinstance(node.module, nn.Parameter) else self.names[node.module]

    def _ties(self, touched: Mapping[tuple[Any, str], dict[int, set[int]]]) -> Iterator[Iterable[set[int]]]:
        """Outputs of a layer of a plugin that belong together (ghosts of one intrinsic map)."""
        for (node, side), own in touched.items():
            pruner = self.pruners.get(type(node.module))
            if side == "out" and pruner is not None and hasattr(pruner, "units"):
                yield [set().union(*(own.get(i, set()) for i in unit)) for unit in pruner.units(node.module)]

    def _part(self, node: Any, side: str, own: Mapping[int, set[int]], units: Sequence[Sequence[int]]) -> Part:
        where = {origin: position for position, unit in enumerate(units) for origin in unit}
        index: list[list[int]] = [[] for _ in units]
        for position in sorted(own):
            channels = {where[origin] for origin in own[position] if origin >= 0}
            for channel in channels:
                index[channel].append(position)
        if side == "parameter":
            size, dim = node.module.shape[node.pruning_dim], node.pruning_dim % node.module.dim()
        else:
            pruner, dim = self.graph.get_pruner_of_module(node.module), 0
            size = pruner.get_in_channels(node.module) if side == "in" else pruner.get_out_channels(node.module)
        return Part(self._name(node), side, tuple(tuple(indices) for indices in index), int(size or 0), dim)

    def _describe(self, found: Found, nodes: Mapping[str, Any]) -> None:
        for part in found.parts:
            if any(position >= part.size for indices in part.index for position in indices):
                found.contradictory.append(part.layer)
            if part.side == "parameter":
                continue
            module, node = nodes[part.layer].module, nodes[part.layer]
            if isinstance(module, NORMS):
                found.norms.append(part.layer)
                found.masks.append((part.layer, part.index))
            elif not isinstance(module, nn.Linear | nn.Conv2d | nn.PReLU) and type(module) not in self.pruners:
                found.others.append(type(module).__name__)
            elif part.side in ("out", "both") and not isinstance(module, nn.PReLU):
                norm = self._norm_behind(node)
                if norm is None:
                    found.masks.append((part.layer, part.index))
                else:
                    found.norm_of.append((part.layer, norm))
            if part.side == "out" and sum(map(len, part.index)) != part.size:
                found.partial.append(part.layer)

    def _norm_behind(self, node: Any) -> str | None:
        """The batch norm that is the only reader of ``node``.

        timm's batch norm with an activation is two nodes.
        """
        while len(node.outputs) == 1:
            node = node.outputs[0]
            if isinstance(node.module, NORMS):
                return self.names[node.module]
            if node.module in self.names or "BatchNorm" not in _operator(node):
                return None
            if len(node.outputs) == 1 and isinstance(node.outputs[0].module, NORMS):
                return self.names[node.outputs[0].module]
            return None
        return None


def _operator(node: Any) -> str:
    return node.grad_fn.name() if hasattr(node.grad_fn, "name") else ""


def _units(size: int, shared: Iterable[Iterable[set[int]]]) -> list[list[int]]:
    """Partition of ``range(size)``: outputs that some layer ties together are one channel."""
    parent = list(range(size))

    def top(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for sets in shared:
        for tied in sets:
            first, *others = sorted(origin for origin in tied if origin >= 0) or [0]
            for other in others:
                parent[top(other)] = top(first)
    members: dict[int, list[int]] = {}
    for i in range(size):
        members.setdefault(top(i), []).append(i)
    return sorted(members.values())
