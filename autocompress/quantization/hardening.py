"""Hardening converts a calibrated network to integers; a plan rebuilds it without data."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import fx, nn

from autocompress.contract import FakeQuantizer, Grid, Hardened, LayerSpec, PlacementTable, TensorSpec
from autocompress.graph.kinds import activation_name, clip_range, kind, pads_zeros
from autocompress.quantization.layers import HardenedConv2d, HardenedLinear, harden_layer
from autocompress.quantization.network import FAKES, QuantizedNetwork, quantize
from autocompress.quantization.ops import widened
from autocompress.quantization.placement import LayerBits

HardenWith = Callable[[str, FakeQuantizer, torch.Tensor | None], Hardened]


class HardenedNetwork(fx.GraphModule):
    """A hardened network, with its integers in buffers.

    It computes in float32 even under autocast, as the file does.
    """

    def __call__(self, *images: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_exporting():
            plain: torch.Tensor = super().__call__(*images)
            return plain
        with torch.autocast(images[0].device.type, enabled=False):
            found: torch.Tensor = super().__call__(*(widened(batch) for batch in images))
        return found


def harden(
    network: QuantizedNetwork, harden_with: HardenWith | None = None, *, dry_run: bool = False
) -> fx.GraphModule:
    """The hardened network: int8 weights, int32 biases, and activation scales as constants.

    It computes the logits of ``network``, with biases rounded to the step of the accumulator.
    Activations that only clip are removed where the saturation of the integers does the same.
    Operators that only move integers are marked for the runtime.

    Args:
        network: calibrated; it is not changed.
        harden_with: called with quantizer name, fake-quantizer and weight (None for an activation);
            default ``fake.harden(weight)``.
        dry_run: activations were not calibrated; their scales are arbitrary.
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
            name: ask(placement.weights[name].quantizer, layer.weight_quantizer, layer.quantized_weight())
            for name, layer in network.fake_layers().items()
        }
    return _assemble(network, grids, weights)


def _grid(hardened: Hardened) -> Grid:
    return Grid(float(hardened.scale), int(hardened.zero_point), hardened.low, hardened.high)


def _any_grid(spec: TensorSpec) -> Grid:
    high = 2**spec.bits - 1
    # A maximum of 6 is that of ReLU6, so activations that only clip are removed as they would be
    # after a calibration. The range of a sigmoid is known.
    return Grid(
        (1.0 if spec.operator == "sigmoid" else 6.0) / high, 0 if spec.nonnegative else (high + 1) // 2, 0, high
    )


def _assemble(network: QuantizedNetwork, grids: Mapping[str, Grid], weights: Mapping[str, Hardened]) -> fx.GraphModule:
    module = copy.deepcopy(network)
    placement = network.placement
    nodes = {node.name: node for node in module.graph.nodes}
    for name in placement.moved:
        _round_trip_behind(nodes[name], grids[placement.origin[name]])
    for name, grid in grids.items():
        fake = next(user for user in nodes[name].users if user.target == f"{FAKES}.{name}")
        trip = _replace_call(fake, grid)
        if _runs_as_addition(nodes[name], grid):
            trip.target = torch.ops.autocompress.hard_sigmoid.default
            trip.replace_input_with(nodes[name], nodes[name].args[0])
            module.graph.erase_node(nodes[name])
            continue
        if placement.absorbed.get(name) == name and _saturates_alike(nodes[name], grid):
            nodes[name].replace_all_uses_with(nodes[name].args[0])
            module.graph.erase_node(nodes[name])
    layers = {}
    for name, hardened in weights.items():
        call = next(n for n in module.graph.nodes if n.target == name)
        in_float = network.config[name].in_float if name in network.config else False
        source = None if in_float else _grid_behind(call.args[0])
        layer = harden_layer(module.get_submodule(name), hardened, source.scale if source else None)  # type: ignore[arg-type]
        layer.input_bits = 32 if source is None else source.bits
        layers[name] = layer
        for child, act in module.get_submodule(name).named_children():
            if child not in ("weight_quantizer", "norm"):
                layer.add_module(child, act)
        module.set_submodule(name, layer)
    for name, spec in placement.leaves.items():
        call = next(n for n in module.graph.nodes if n.target == name)
        source = _grid_behind(call.args[0])
        assert source is not None, f"the input of {name} is not quantized"
        with torch.no_grad():
            module.set_submodule(name, spec.hardened(module.get_submodule(name), source))
    module.delete_submodule(FAKES)
    module.graph.lint()
    result = HardenedNetwork(module, module.graph, "HardenedNetwork")
    result.meta["plan"] = _plan(network, grids, layers)
    result.meta["leaf_layers"] = network.meta["leaf_layers"]
    return result.eval()


def _replace_call(fake: fx.Node, grid: Grid) -> fx.Node:
    with fake.graph.inserting_before(fake):
        arguments = (fake.args[0], grid.scale, grid.zero_point, grid.low, grid.high)
        trip = fake.graph.call_function(torch.ops.autocompress.round_trip.default, arguments)
    fake.replace_all_uses_with(trip)
    fake.graph.erase_node(fake)
    return trip


def _round_trip_behind(node: fx.Node, grid: Grid) -> None:
    with node.graph.inserting_after(node):
        arguments = (node, grid.scale, grid.zero_point, grid.low, grid.high)
        trip = node.graph.call_function(torch.ops.autocompress.round_trip.default, arguments)
    node.replace_all_uses_with(trip, delete_user_cb=lambda user: user is not trip)


_TRIPS = (torch.ops.autocompress.round_trip.default, torch.ops.autocompress.hard_sigmoid.default)


def _grid_behind(node: Any) -> Grid | None:
    if isinstance(node, fx.Node) and pads_zeros(node):
        return _grid_behind(node.args[0])  # zero is on every grid
    if isinstance(node, fx.Node) and node.target in _TRIPS:
        return Grid(*node.args[1:])  # type: ignore[arg-type]
    return None


def _saturates_alike(node: fx.Node, grid: Grid) -> bool:
    """Whether the range of the integers clips where the activation does, up to rounding."""
    cut = clip_range(node)
    assert cut is not None
    low, high = (grid.low - grid.zero_point) * grid.scale, (grid.high - grid.zero_point) * grid.scale
    return low >= cut[0] and high <= cut[1] * (1 + 1e-6)


def _runs_as_addition(node: fx.Node, grid: Grid) -> bool:
    """Whether ``node`` is a hard sigmoid on a grid from 0 to 1 that is only read as integers."""
    if kind(node) != "activation" or activation_name(node) != "hardsigmoid" or len(node.users) != 1:
        return False
    ends_at_one = grid.low == grid.zero_point == 0 and grid.high * grid.scale <= 1 + 1e-6
    return ends_at_one and _grid_behind(node.args[0]) is not None


# --- plans ----------------------------------------------------------------------------------------


def _plan(
    network: QuantizedNetwork, grids: Mapping[str, Grid], layers: Mapping[str, HardenedConv2d | HardenedLinear]
) -> dict[str, Any]:
    table: dict[str, Any] = network.meta["table"].record()
    return {
        **({"placement": table} if table else {}),
        "input_size": list(network.meta["input_size"]),
        "layers": {name: asdict(bits) for name, bits in network.config.items()},
        "weights": {
            name: {
                "bits": layer.weight_bits,
                "low": layer.weight_low,
                "step": layer.weight_step,
                "channel_axis": layer.axis,
            }
            for name, layer in layers.items()
        },
        "activations": {name: asdict(grid) for name, grid in grids.items()},
    }


def plan(hardened: fx.GraphModule) -> dict[str, Any]:
    """The structure of a hardened network for :func:`rebuild`, as JSON values."""
    return hardened.meta["plan"]


class _Planned(FakeQuantizer):
    """The quantizer of a rebuilt network: constants from the plan, without weights."""

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
        low, step, bits = planned["low"], planned["step"], planned["bits"]
        return Hardened(scale, zero, low, low + step * (2**bits - 1), bits, integers, axis, step)


def rebuild(model: nn.Module, plan: Mapping[str, Any], specs: Sequence[LayerSpec] = ()) -> fx.GraphModule:
    """The hardened structure of ``plan``; the state dict must be loaded afterwards.

    Args:
        model: the float model, with any weights.
        plan: result of :func:`plan`, perhaps through JSON.
        specs: descriptions of the layer types that plugins brought into ``model``.
    """
    config = {name: LayerBits(**bits) for name, bits in plan["layers"].items()}

    def make(_: str, spec: TensorSpec) -> FakeQuantizer:
        if spec.role == "weight":
            return _Planned(spec, plan["weights"][spec.name.removesuffix(".weight")])
        return _Planned(spec, plan["activations"][spec.name])

    table = PlacementTable.of(plan.get("placement", {}))
    return harden(quantize(model, config, make, input_size=tuple(plan["input_size"]), specs=specs, table=table))
