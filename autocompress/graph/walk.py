"""Follows the output of a layer to the readers of its channels."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import fx

from autocompress.graph.kinds import LAYERS, UNARY, activation_name, kind, module_of, shape_of

_GATES = frozenset({"sigmoid", "hardsigmoid", "tanh", "softmax"})


@dataclass
class Read:
    """The readers of the channels of a value.

    Attributes:
        layers: convolutions and linear layers that read them one to one.
        enters_add: some path ends in an addition of two tensors.
        is_output: some path ends in the output of the network.
        other: some path ends elsewhere.
    """

    layers: list[fx.Node] = field(default_factory=list)
    enters_add: bool = False
    is_output: bool = False
    other: bool = False

    @property
    def only_dense_layers(self) -> bool:
        """Whether every reader mixes all channels, so that it can absorb a permutation."""
        if not self.layers or self.enters_add or self.is_output or self.other:
            return False
        return all(int(getattr(module_of(layer), "groups", 1)) == 1 for layer in self.layers)


class Readers:
    """Finds the readers of the nodes of a traced module with shapes."""

    def __init__(self, module: fx.GraphModule) -> None:
        self._calls: dict[object, int] = {}
        for node in module.graph.nodes:
            if node.op == "call_module":
                self._calls[node.target] = self._calls.get(node.target, 0) + 1

    def of(self, node: fx.Node) -> Read:
        """Follows all paths from ``node`` through operators that act on each channel separately."""
        read = Read()
        self._follow(node, shape_of(node), read)
        return read

    def _follow(self, node: fx.Node, shape: tuple[int, ...] | None, read: Read) -> None:
        for user in node.users:
            what = kind(user)
            if what in LAYERS and user.args[0] is node:
                read.layers.append(user)
                read.other |= self._calls[user.target] > 1  # shared weights read another input too
            elif what == "add":
                read.enters_add |= len(user.all_input_nodes) > 1
                read.other |= len(user.all_input_nodes) == 1
            elif what == "output":
                read.is_output = True
            elif what in UNARY or _keeps_channels(user, node):
                self._follow(user, shape, read)
            elif not _asks_shape(user):
                read.other = True

    def norm_behind(self, node: fx.Node) -> fx.Node | None:
        """The batch normalisation that is the only reader of ``node``."""
        if len(node.users) != 1:
            return None
        user = next(iter(node.users))
        return user if kind(user) == "norm" else None

    def in_gate(self, node: fx.Node) -> bool:
        """Whether ``node`` only reaches products, behind a bounded activation and maybe layers."""
        return bool(node.users) and all(self._gates(user, node, squashed=False) for user in node.users)

    def _gates(self, user: fx.Node, source: fx.Node, squashed: bool) -> bool:
        what = kind(user)
        if what == "multiply":
            return squashed and len(user.all_input_nodes) == 2 and not _derives_from(user, source)
        if what in UNARY or what in LAYERS or what in ("reshape", "other", "softmax"):
            squashed = squashed or what in ("sigmoid", "softmax") or _squashes(user)
            return bool(user.users) and all(self._gates(next_, user, squashed) for next_ in user.users)
        return False


def _squashes(node: fx.Node) -> bool:
    return kind(node) == "activation" and activation_name(node) in _GATES


def _derives_from(product: fx.Node, factor: fx.Node) -> bool:
    """Whether ``factor`` is an activation of the other operand: ``x * sigmoid(x)`` is no gate."""
    others = [node for node in product.all_input_nodes if node is not factor]
    return any(kind(factor) in ("activation", "sigmoid") and other in factor.all_input_nodes for other in others)


def _keeps_channels(user: fx.Node, source: fx.Node) -> bool:
    """Whether ``user`` flattens ``(N, C, 1, 1)`` to ``(N, C)``."""
    before, after = shape_of(source), shape_of(user)
    if kind(user) != "reshape" or user.args[0] is not source or not before or not after or len(before) < 2:
        return False
    return len(after) >= 2 and after[:2] == before[:2] and all(size == 1 for size in (*before[2:], *after[2:]))


def _asks_shape(node: fx.Node) -> bool:
    """Whether the node reads only the shape (``x.shape``, ``x.size()``) or is an assertion."""
    if node.op == "call_method":
        return node.target in ("size", "dim")
    if node.op == "call_function":
        return getattr(node.target, "__name__", "") in ("getattr", "_assert")
    return False


def reaches_image(node: fx.Node) -> bool:
    """Whether ``node`` is the input of the network, or changes only single channels of it."""
    while node.op != "placeholder":
        sources = node.all_input_nodes
        if kind(node) not in (*UNARY, "pad") or len(sources) != 1:
            return False
        node = sources[0]
    return True
