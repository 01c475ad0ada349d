"""A network with simulated integers: built from a float model, calibrated, trained if asked, and hardened."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import fx, nn

from autocompress.contract import FakeQuantizer, Hardened, TensorSpec
from autocompress.graph.kinds import clip_range
from autocompress.graph.shapes import propagate_shapes
from autocompress.graph.trace import evaluating
from autocompress.quantization import ops  # noqa: F401 - registers torch.ops.autocompress
from autocompress.quantization.folding import fold_batch_norm
from autocompress.quantization.layers import harden_layer, with_fake_weight
from autocompress.quantization.lowering import lower
from autocompress.quantization.placement import LayerBits, Placement, place

MakeFake = Callable[[str, TensorSpec], FakeQuantizer]
HardenWith = Callable[[str, FakeQuantizer, torch.Tensor | None], Hardened]
FAKES = "quantizers"


class QuantizedNetwork(fx.GraphModule):
    """The traced, folded network with fake-quantizers in it. Layers keep their names; activations' quantizers are
    ``quantizers.<node>``, weights' ``<layer>.weight_quantizer``. Runs and trains as any module."""

    @property
    def placement(self) -> Placement:
        """Where its fake-quantizers are."""
        return self.meta["placement"]

    @property
    def config(self) -> dict[str, LayerBits]:
        """What each layer was asked to run at."""
        return self.meta["config"]

    def weight_fakes(self) -> dict[str, FakeQuantizer]:
        """Fake-quantizers of weights by layer."""
        return {name: self.get_submodule(name).weight_quantizer for name in self.placement.weights}  # type: ignore[misc]

    def activation_fakes(self) -> dict[str, FakeQuantizer]:
        """Fake-quantizers of activations by graph node."""
        return {name: self.get_submodule(f"{FAKES}.{name}") for name in self.placement.activations}  # type: ignore[misc]


def quantize(
    model: nn.Module, config: Mapping[str, LayerBits], make_fake: MakeFake, *, input_size: tuple[int, int, int]
) -> QuantizedNetwork:
    """A copy of ``model``, traced in eval mode, batch norm folded, with fake-quantizers where the runtime has integers.

    Args:
        model: a float model; it is not changed.
        config: for each convolution and linear layer by name; a layer that is missing stays in float.
        make_fake: gives the fake-quantizer of a tensor, asked with the name of the quantizer.
        input_size: (channels, height, width) of an image.

    Raises:
        UntraceableModel: if ``model`` cannot be traced.
    """
    module = fold_batch_norm(model)
    lower(module)
    propagate_shapes(module, input_size)
    placement = place(module, config)
    for layer, point in placement.weights.items():
        fake = with_fake_weight(module.get_submodule(layer), make_fake(point.quantizer, point.spec))  # type: ignore[arg-type]
        module.set_submodule(layer, fake)
    module.add_module(FAKES, nn.Module())
    nodes = {node.name: node for node in module.graph.nodes}
    for name, point in placement.activations.items():
        module.get_submodule(FAKES).add_module(name, make_fake(point.quantizer, point.spec))
        _insert_behind(nodes[name], f"{FAKES}.{name}", point.readers)
    for layer in placement.weights:
        call = next(node for node in module.graph.nodes if node.target == layer)
        reads = placement.origin.get(call.args[0].name) or str(call.args[0].target).removeprefix(f"{FAKES}.")
        if reads in placement.activations:
            # Past nn.Module's registration, so that it has one owner and one name.
            module.get_submodule(layer).__dict__["input_quantizer"] = module.get_submodule(f"{FAKES}.{reads}")
    network = QuantizedNetwork(module, module.graph)
    network.meta.update(placement=placement, config=dict(config), input_size=tuple(input_size))
    network.eval()
    return network


def _insert_behind(node: fx.Node, target: str, readers: frozenset[str] | None) -> None:
    with node.graph.inserting_after(node):
        fake = node.graph.call_module(target, (node,))
    node.replace_all_uses_with(
        fake, delete_user_cb=lambda user: user is not fake and (readers is None or user.name in readers)
    )


def calibrate(network: QuantizedNetwork, batches: Iterable[torch.Tensor]) -> None:
    """Sets the ranges: of weights from the weights, of activations from ``batches`` of images ``(N, C, H, W)``.

    Activations are observed behind quantized weights, as they will be deployed. Without a batch (a dry run) only the
    weights get ranges.
    """
    with evaluating(network):
        for layer, fake in network.weight_fakes().items():
            _observe([fake], partial(fake, network.get_parameter(f"{layer}.weight")))
        images = list(batches)
        if images:
            _observe(list(network.activation_fakes().values()), lambda: [network(batch) for batch in images])


def _observe(fakes: list[FakeQuantizer], run: Callable[[], Any]) -> None:
    before = [fake.enabled for fake in fakes]
    for fake in fakes:
        fake.observing, fake.enabled = True, False
    run()
    for fake, enabled in zip(fakes, before, strict=True):
        fake.finish_observing()
        fake.observing, fake.enabled = False, enabled


@dataclass(frozen=True)
class Grid:
    """Constants of one quantized activation: ``value = (integer - zero_point) * scale``, integers low to high."""

    scale: float
    zero_point: int
    low: int
    high: int


def harden(
    network: QuantizedNetwork, harden_with: HardenWith | None = None, *, dry_run: bool = False
) -> fx.GraphModule:
    """The finished network: int8 weights and int32 biases in buffers, activation scales as constants in the graph.

    Its forward gives the logits of ``network`` (biases are rounded to the accumulator's step). Cut-off activations that
    saturation does are gone, and integers that are only moved are marked for the runtime.

    Args:
        network: calibrated; it is not changed.
        harden_with: called with quantizer name, fake-quantizer and weight (None for an activation); default
            ``fake.harden(weight)``.
        dry_run: activations were not calibrated; any scale does.
    """
    ask = harden_with or (lambda _, fake, weight: fake.harden(weight))
    placement = network.placement
    grids = {
        name: _any_grid(placement.activations[name].spec)
        if dry_run
        else _grid(ask(placement.activations[name].quantizer, fake, None))
        for name, fake in network.activation_fakes().items()
    }
    with torch.no_grad():
        weights = {
            name: ask(placement.weights[name].quantizer, fake, network.get_parameter(f"{name}.weight"))
            for name, fake in network.weight_fakes().items()
        }
    return _assemble(network, grids, weights)


def _grid(hardened: Hardened) -> Grid:
    return Grid(float(hardened.scale), int(hardened.zero_point), hardened.low, hardened.high)


def _any_grid(spec: TensorSpec) -> Grid:
    high = 2**spec.bits - 1
    return Grid(6.0 / high, 0 if spec.nonnegative else (high + 1) // 2, 0, high)


def _assemble(network: QuantizedNetwork, grids: Mapping[str, Grid], weights: Mapping[str, Hardened]) -> fx.GraphModule:
    module = copy.deepcopy(network)
    placement = network.placement
    nodes = {node.name: node for node in module.graph.nodes}
    for name in placement.moved:
        _round_trip_behind(nodes[name], grids[placement.origin[name]])
    for name, grid in grids.items():
        fake = next(user for user in nodes[name].users if user.target == f"{FAKES}.{name}")
        _replace_call(fake, grid)
        if placement.absorbed.get(name) == name and _saturates_alike(nodes[name], grid):
            nodes[name].replace_all_uses_with(nodes[name].args[0])
            module.graph.erase_node(nodes[name])
    for name, hardened in weights.items():
        call = next(n for n in module.graph.nodes if n.target == name)
        source = _grid_behind(call.args[0])
        layer = harden_layer(module.get_submodule(name), hardened, source.scale if source else None)  # type: ignore[arg-type]
        layer.input_bits = 32 if source is None else (source.high - source.low).bit_length()  # type: ignore[assignment]
        for child, act in module.get_submodule(name).named_children():
            if child != "weight_quantizer":
                layer.add_module(child, act)
        module.set_submodule(name, layer)
    module.delete_submodule(FAKES)
    module.graph.lint()
    result = fx.GraphModule(module, module.graph, "HardenedNetwork")
    result.meta["plan"] = _plan(network, grids, weights)
    return result.eval()


def _replace_call(fake: fx.Node, grid: Grid) -> None:
    with fake.graph.inserting_before(fake):
        arguments = (fake.args[0], grid.scale, grid.zero_point, grid.low, grid.high)
        trip = fake.graph.call_function(torch.ops.autocompress.round_trip.default, arguments)
    fake.replace_all_uses_with(trip)
    fake.graph.erase_node(fake)


def _round_trip_behind(node: fx.Node, grid: Grid) -> None:
    with node.graph.inserting_after(node):
        arguments = (node, grid.scale, grid.zero_point, grid.low, grid.high)
        trip = node.graph.call_function(torch.ops.autocompress.round_trip.default, arguments)
    node.replace_all_uses_with(trip, delete_user_cb=lambda user: user is not trip)


def _grid_behind(node: Any) -> Grid | None:
    if isinstance(node, fx.Node) and node.target is torch.ops.autocompress.round_trip.default:
        return Grid(*node.args[1:])  # type: ignore[arg-type]
    return None


def _saturates_alike(node: fx.Node, grid: Grid) -> bool:
    """Whether the integers' own range cuts off where the activation does; rounding of the scale does not count."""
    cut = clip_range(node)
    assert cut is not None
    low, high = (grid.low - grid.zero_point) * grid.scale, (grid.high - grid.zero_point) * grid.scale
    return low >= cut[0] and high <= cut[1] * (1 + 1e-6)


# -- plans ------------------------------------------------------------------------------------------------------------


def _plan(network: QuantizedNetwork, grids: Mapping[str, Grid], weights: Mapping[str, Hardened]) -> dict[str, Any]:
    return {
        "input_size": list(network.meta["input_size"]),
        "layers": {name: asdict(bits) for name, bits in network.config.items()},
        "weights": {
            name: {
                "bits": h.bits,
                "low": h.low,
                "high": h.high,
                "channel_axis": h.channel_axis,
            }
            for name, h in weights.items()
        },
        "activations": {name: asdict(grid) for name, grid in grids.items()},
    }


def plan(hardened: fx.GraphModule) -> dict[str, Any]:
    """What :func:`rebuild` needs to make the structure of a hardened network again, as JSON values."""
    return hardened.meta["plan"]


class _Planned(FakeQuantizer):
    """Stands for a finished quantizer while a network is rebuilt: it knows the constants, and no weights yet."""

    def __init__(self, spec: TensorSpec, planned: Mapping[str, Any]) -> None:
        super().__init__(spec)
        self._planned = planned

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def harden(self, weight: torch.Tensor | None = None) -> Hardened:
        planned = self._planned
        if weight is None:
            scale, zero = torch.tensor(planned["scale"]), torch.tensor(planned["zero_point"])
            return Hardened(scale, zero, planned["low"], planned["high"], self.spec.bits)
        axis = planned["channel_axis"]
        shape = () if axis is None else (weight.shape[axis],)
        integers = torch.zeros_like(weight, dtype=torch.int8)
        scale, zero = torch.ones(shape), torch.zeros(shape, dtype=torch.int32)
        return Hardened(scale, zero, planned["low"], planned["high"], planned["bits"], integers, axis)


def rebuild(model: nn.Module, plan: Mapping[str, Any]) -> fx.GraphModule:
    """The hardened structure that ``plan`` describes; its state dict is to be loaded afterwards.

    Args:
        model: the float model, with any weights.
        plan: from :func:`plan`, perhaps through JSON.
    """
    config = {name: LayerBits(**bits) for name, bits in plan["layers"].items()}

    def make(_: str, spec: TensorSpec) -> FakeQuantizer:
        if spec.role == "weight":
            return _Planned(spec, plan["weights"][spec.name.removesuffix(".weight")])
        return _Planned(spec, plan["activations"][spec.name])

    return harden(quantize(model, config, make, input_size=tuple(plan["input_size"])))
