"""Decides which tensors get a fake-quantizer: those that the runtime keeps in integers.

The device's table (``contract.PlacementTable``) names the operators. The rules are those of ONNX
Runtime's QDQ fusions. An operator runs on integers when all its tensor inputs and its output are
quantized. An activation that only clips becomes part of the operator in front of it. Operators that
only move values (reshape, transpose, max pooling) run on the integers of their input.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import fx, nn

from autocompress.contract import LayerSpec, PlacementTable, TensorSpec
from autocompress.graph.kinds import LAYERS, activation_name, clip_range, kind, module_of, pads_zeros, rank, shape_of
from autocompress.quantization.leaves import integer_leaves, leaf_spec
from autocompress.quantization.lowering import NormConvolution

ONNX_RUNTIME = PlacementTable()
"""The table of ONNX Runtime."""
_KEEP_SIGN = frozenset(
    {"reshape", "transpose", "max_pool", "split", "getitem", "add", "multiply", "concat", "average_pool", "global_pool"}
)
"""Operators without negative outputs if their inputs are not negative."""


@dataclass(frozen=True)
class LayerBits:
    """The quantizers and bits of one layer.

    Attributes:
        weight_quantizer: name of the method that quantizes its weights; with None, the layer and
            its outputs stay in float.
        weight_bits: 1 to 8.
        activation_bits: 1 to 8, of the tensors that the region of the layer writes.
        activation_quantizer: method for those tensors; None for that of the weights.
        group: the layer's group of parameters (``Space.groups``).
        in_float: the region of the layer computes in float, because integers are not faster there.
            Its weights stay integers in the file.
    """

    weight_quantizer: str | None
    weight_bits: int = 8
    activation_bits: int = 8
    activation_quantizer: str | None = None
    group: str = ""
    in_float: bool = False


@dataclass(frozen=True)
class Point:
    """A fake-quantizer: for the value of a graph node, or for a layer's weight.

    Attributes:
        spec: describes the tensor to the quantizer.
        quantizer: name of the method that makes it.
        node: the graph node (activations) or the layer (weights).
        readers: nodes that read the quantized value; None for all.
    """

    spec: TensorSpec
    quantizer: str
    node: str
    readers: frozenset[str] | None = None


@dataclass
class Placement:
    """Where the fake-quantizers of a network go.

    Attributes:
        activations: fake-quantizers of activations, by graph node.
        weights: fake-quantizers of weights, by layer.
        leaves: leaf layers of plugins that become integers on the grid of their input, with their
            specs.
        origin: for each node with a value on a grid, the node in ``activations`` that has its
            integers.
        moved: nodes that only move integers and need a quantized output of their own in the file.
        absorbed: for each activation that only clips, the node behind it whose quantizer makes it
            redundant.
    """

    activations: dict[str, Point] = field(default_factory=dict)
    weights: dict[str, Point] = field(default_factory=dict)
    leaves: dict[str, LayerSpec] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    moved: list[str] = field(default_factory=list)
    absorbed: dict[str, str] = field(default_factory=dict)


def place(
    module: fx.GraphModule,
    config: Mapping[str, LayerBits],
    specs: Sequence[LayerSpec] = (),
    table: PlacementTable = ONNX_RUNTIME,
) -> Placement:
    """Decides where the fake-quantizers of ``module`` (folded, lowered, shapes propagated) go.

    Args:
        module: the traced network.
        config: the quantizers and bits of layers, by name; a layer that is missing stays in float.
        specs: descriptions of the layer types that plugins bring.
        table: placement table of the device that runs the network.
    """
    return _Placer(module, config, specs, table).run()


class _Placer:
    def __init__(
        self,
        module: fx.GraphModule,
        config: Mapping[str, LayerBits],
        specs: Sequence[LayerSpec],
        table: PlacementTable,
    ) -> None:
        self._table = table
        self._nodes = list(module.graph.nodes)
        self._config = config
        self._calls = Counter(node.target for node in self._nodes if node.op == "call_module")
        self._owner: dict[fx.Node, LayerBits | None] = {}
        self._position = {node: index for index, node in enumerate(self._nodes)}
        self._last_layer: dict[fx.Node, int] = {}
        self._active: set[fx.Node] = set()
        self._on_grid: dict[fx.Node, fx.Node] = {}
        self._specs = specs
        self._placement = Placement(leaves=integer_leaves(module, config, specs))

    def run(self) -> Placement:
        for node in self._nodes:
            self._inherit(node)
            self._visit(node)
        self._drop_unread()
        self._find_moved()
        self._placement.origin = {node.name: source.name for node, source in self._on_grid.items()}
        return self._placement

    # --- which layer's bits a value has -----------------------------------------------------------

    def _inherit(self, node: fx.Node) -> None:
        """Assigns a value to the layer that writes it, else to the last layer of its inputs."""
        if self._is_layer(node) and not self._has_integer_form(node):
            self._owner[node], self._last_layer[node] = None, self._position[node]
            return
        if self._is_layer(node) and not isinstance(module_of(node), NormConvolution):
            self._owner[node], self._last_layer[node] = self._config.get(str(node.target)), self._position[node]
            return
        latest = max(node.all_input_nodes, key=lambda source: self._last_layer[source], default=None)
        self._owner[node] = None if latest is None else self._owner[latest]
        self._last_layer[node] = -1 if latest is None else self._last_layer[latest]
        bits = self._owner[node]
        if kind(node) in LAYERS and bits is not None and bits.weight_quantizer is not None:  # a NormConvolution
            quantizer = bits.activation_quantizer or bits.weight_quantizer
            self._owner[node] = replace(bits, weight_quantizer=quantizer, weight_bits=8)

    def _is_layer(self, node: fx.Node) -> bool:
        return kind(node) in LAYERS or self._is_leaf(node)

    def _is_leaf(self, node: fx.Node) -> bool:
        return leaf_spec(module_of(node), self._specs) is not None

    def _has_integer_form(self, node: fx.Node) -> bool:
        """Whether the layer has an integer form.

        It has none if its padding is not constant, or if several calls share its weights. An
        integer bias is made for the scale of one input, and the runtime's Gemm does not check this.
        """
        if self._is_leaf(node):
            return node.target in self._placement.leaves
        padded_oddly = getattr(module_of(node), "padding_mode", "zeros") != "zeros"
        return self._calls[node.target] == 1 and not padded_oddly

    # --- what runs on integers --------------------------------------------------------------------

    def _visit(self, node: fx.Node) -> None:
        what = kind(node)
        if self._is_in_float(node, what):
            self._quantize_weight(node)
        elif self._runs_on_integers(node, what):
            self._active.add(node)
            self._quantize_inputs(node)
            if what in LAYERS:
                self._quantize_weight(node)
            self._quantize_output(node)
        elif self._moves(node) and node.args[0] in self._on_grid:
            self._on_grid[node] = self._on_grid[node.args[0]]  # type: ignore[index]

    def _is_in_float(self, node: fx.Node, what: str) -> bool:
        """Whether a layer with integer weights computes in float."""
        bits = self._owner[node]
        named = str(node.target) in self._config  # not a norm that became a convolution
        return what in LAYERS and named and bits is not None and bits.weight_quantizer is not None and bits.in_float

    def _runs_on_integers(self, node: fx.Node, what: str) -> bool:
        bits = self._owner[node]
        if bits is None or bits.weight_quantizer is None or (bits.in_float and not self._is_leaf(node)):
            return False
        if what in LAYERS or self._is_leaf(node):
            return True
        if what == "activation" and activation_name(node) in self._table.activations:
            return any(source in self._on_grid for source in node.all_input_nodes)
        if what not in self._table.kernels or not any(source in self._on_grid for source in node.all_input_nodes):
            return False
        if what in ("add", "multiply"):
            return len(node.args) == 2 and all(isinstance(a, fx.Node) and shape_of(a) is not None for a in node.args)
        return True

    def _quantize_inputs(self, node: fx.Node, wanted: LayerBits | None = None) -> None:
        for source in node.all_input_nodes:
            if source in self._on_grid or shape_of(source) is None:  # the width of a padding is no tensor
                continue
            if pads_zeros(source) and _merges_into_convolutions(source):  # the integers are padded, not the floats
                self._quantize_inputs(source, self._owner[node])
                self._on_grid[source] = source.all_input_nodes[0]
                continue
            known = self._placement.activations.get(source.name)
            readers = (known.readers or frozenset()) if known else frozenset()
            bits = self._owner[source] or wanted or self._owner[node]
            assert bits is not None
            self._add_point(source, bits, readers | {node.name}, producer=source)

    def _quantize_output(self, node: fx.Node) -> None:
        bits = self._owner[node]
        assert bits is not None
        end = node
        reader = _only_reader(node)
        if reader is not None and clip_range(reader) is not None:
            end = reader
            self._placement.absorbed[reader.name] = reader.name
        self._add_point(end, bits, None, producer=node)
        self._on_grid[end] = end

    def _add_point(self, node: fx.Node, bits: LayerBits, readers: frozenset[str] | None, producer: fx.Node) -> None:
        quantizer = bits.activation_quantizer or bits.weight_quantizer
        shape = shape_of(node)
        if quantizer is None:  # the output of a float layer that an integer region reads
            quantizer = next(b for b in self._config.values() if b.weight_quantizer).weight_quantizer
        assert quantizer is not None
        assert shape is not None
        image = producer.op == "placeholder"
        spec = TensorSpec(
            name=node.name,
            role="activation",
            group=bits.group,
            operator="input" if image else _operator(producer),
            shape=shape,
            bits=8 if image or bits.weight_quantizer is None else bits.activation_bits,
            nonnegative=_nonnegative(node),
        )
        self._placement.activations[node.name] = Point(spec, quantizer, node.name, readers)

    def _quantize_weight(self, node: fx.Node) -> None:
        layer, bits = module_of(node), self._owner[node]
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        assert bits is not None
        assert bits.weight_quantizer is not None
        depthwise = isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1
        name = str(node.target)
        spec = TensorSpec(
            name=f"{name}.weight",
            role="weight",
            group=bits.group,
            operator="depthwise" if depthwise else kind(node),
            shape=tuple(layer.weight.shape),
            bits=bits.weight_bits,
            channel_axis=0,
        )
        self._placement.weights[name] = Point(spec, bits.weight_quantizer, name)

    # --- once the whole graph is known ------------------------------------------------------------

    def _drop_unread(self) -> None:
        """Keeps outputs in float that no layer reads as integers, such as the logits."""
        for node in self._nodes:
            end = self._end(node)
            may_be_float = kind(node) in self._table.float_outputs or self._is_leaf(node)
            if node in self._active and may_be_float and not self._read_as_integers(end):
                del self._placement.activations[end.name]
                self._placement.absorbed.pop(end.name, None)
                self._on_grid = {n: source for n, source in self._on_grid.items() if source is not end}

    def _end(self, node: fx.Node) -> fx.Node:
        reader = _only_reader(node)
        return reader if reader is not None and reader.name in self._placement.absorbed else node

    def _read_as_integers(self, node: fx.Node) -> bool:
        return any(
            user in self._active
            or ((kind(user) in self._table.moves or pads_zeros(user)) and self._read_as_integers(user))
            for user in node.users
        )

    def _moves(self, node: fx.Node) -> bool:
        return kind(node) in self._table.moves or pads_zeros(node)

    def _find_moved(self) -> None:
        self._placement.moved = [
            node.name
            for node in self._nodes
            if node in self._on_grid
            and self._on_grid[node] is not node
            and rank(node) is not None
            and self._read_as_integers(node)
            and not _merges_into_convolutions(node)
        ]


def _only_reader(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _merges_into_convolutions(node: fx.Node) -> bool:
    """Whether the runtime merges the padding into the convolutions that read it."""
    return kind(node) == "pad" and all(kind(user) == "conv" for user in node.users)


def _operator(node: fx.Node) -> str:
    """The operator name for a quantizer; a hard sigmoid is treated as a sigmoid."""
    return "sigmoid" if activation_name(node) == "hardsigmoid" else kind(node)


def _nonnegative(node: fx.Node) -> bool:
    """Whether values are never negative, so that the zero point is 0 and a ReLU is absorbed."""
    what = kind(node)
    if what in ("sigmoid", "softmax"):
        return True
    if what == "activation":
        cut = clip_range(node)
        return activation_name(node) == "hardsigmoid" or (cut is not None and cut[0] >= 0)
    if what in _KEEP_SIGN:
        return bool(node.all_input_nodes) and all(_nonnegative(source) for source in node.all_input_nodes)
    return False
