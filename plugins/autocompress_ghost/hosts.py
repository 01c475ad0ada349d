"""The surroundings of a convolution: its norm and activation, and foldable channel orders.

Everything is derived from the traced graph, never from weights, so that a dry run gives the same
structure as the real run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from timm.layers import BatchNormAct2d, Conv2dSame
from torch import fx, nn

from autocompress.graph import LayerFacts, NetworkFacts


@dataclass(frozen=True)
class Host:
    """A convolution and its surroundings.

    Attributes:
        name: module path of the convolution.
        norm: module path of the BatchNorm directly behind, or None.
        takes_over: module paths that an activated module replaces: the norm, and the activation if
            there is one. Empty if that is impossible (no BatchNorm, a functional or shared
            activation): such a layer stays bare.
        readers: module paths of the convolutions and linear layers into whose weights the order can
            be folded; empty if something else also reads the channels, so that they must be
            reordered.
        norms_between: BatchNorms on the way to the readers, whose parameters are permuted too.
    """

    name: str
    norm: str | None
    takes_over: tuple[str, ...]
    readers: tuple[str, ...]
    norms_between: tuple[str, ...]


def is_plain(conv: nn.Module) -> bool:
    """Whether rows can be copied: a convolution of torch, or with timm's SAME padding."""
    if not isinstance(conv, nn.Conv2d) or type(conv) not in (nn.Conv2d, Conv2dSame):
        return False
    return conv.groups == 1 and conv.padding_mode == "zeros"


def host_of(facts: LayerFacts, network: NetworkFacts, model: nn.Module) -> Host:
    """The surroundings of the convolution that ``facts`` describes."""
    calls = _calls(network.graph)
    norm = facts.norm if facts.norm and isinstance(model.get_submodule(facts.norm), nn.BatchNorm2d) else None
    readers, between = _foldable(facts, calls, model) if facts.private else ((), ())
    return Host(facts.name, norm, _taken_over(facts, norm, calls, model), readers, between)


def _calls(graph: fx.GraphModule) -> dict[str, list[fx.Node]]:
    """The nodes that call each module."""
    calls: dict[str, list[fx.Node]] = {}
    for node in graph.graph.nodes:
        if node.op == "call_module":
            calls.setdefault(str(node.target), []).append(node)
    return calls


def _taken_over(
    facts: LayerFacts, norm: str | None, calls: dict[str, list[fx.Node]], model: nn.Module
) -> tuple[str, ...]:
    if norm is None or not model.get_submodule(norm).track_running_stats:
        return ()
    # A layer that is traced through (timm's BatchNormAct2d in some versions) has no call of its own
    # and no path to cut.
    if len(calls.get(norm, ())) != 1:
        return ()
    if isinstance(model.get_submodule(norm), BatchNormAct2d) or facts.activation is None:
        return (norm,)
    node = _behind_identities(calls[norm][0], model)
    if node.op != "call_module" or len(calls[str(node.target)]) != 1:
        return ()
    return norm, str(node.target)


def _behind_identities(node: fx.Node, model: nn.Module) -> fx.Node:
    """The only reader of ``node``, behind modules without effect."""
    reader = next(iter(node.users))
    while reader.op == "call_module" and isinstance(model.get_submodule(str(reader.target)), nn.Identity | nn.Dropout):
        reader = next(iter(reader.users))
    return reader


def _foldable(
    facts: LayerFacts, calls: dict[str, list[fx.Node]], model: nn.Module
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Readers and the norms before them; empty if one of them cannot be permuted."""
    if not facts.consumers or not all(_takes_columns(model.get_submodule(c), facts) for c in facts.consumers):
        return (), ()
    norms = []
    for path in _between(calls[facts.name][0], set(facts.consumers)):
        module = model.get_submodule(path)
        if isinstance(module, nn.BatchNorm2d):
            norms.append(path)
        elif any(True for _ in module.parameters()) or isinstance(module, nn.GroupNorm | nn.LayerNorm):
            return (), ()
    return facts.consumers, tuple(norms)


def _takes_columns(reader: nn.Module, facts: LayerFacts) -> bool:
    if isinstance(reader, nn.Linear):
        return reader.in_features == facts.out_channels
    return is_plain(reader) and isinstance(reader, nn.Conv2d) and reader.in_channels == facts.out_channels


def _between(start: fx.Node, ends: Iterable[str]) -> list[str]:
    """Paths of the modules between a node and the layers ``ends``, in graph order."""
    seen: dict[fx.Node, None] = {}
    waiting = list(start.users)
    while waiting:
        node = waiting.pop(0)
        if node in seen or (node.op == "call_module" and str(node.target) in ends):
            continue
        seen[node] = None
        waiting.extend(node.users)
    return [str(node.target) for node in seen if node.op == "call_module"]
