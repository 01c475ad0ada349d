"""A network with simulated integers, built from a float model and calibrated."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import fx, nn

from autocompress.contract import FakeQuantizer, LayerSpec, PlacementTable, TensorSpec
from autocompress.graph.kinds import module_of
from autocompress.graph.shapes import propagate_shapes
from autocompress.graph.trace import UntraceableModel, evaluating
from autocompress.quantization import ops
from autocompress.quantization.equalise import equalise as equalise_layers
from autocompress.quantization.fakelayers import FakeLayer, with_fake_weight
from autocompress.quantization.folding import fold, fold_batch_norm
from autocompress.quantization.leaves import integer_leaves, leaf_spec, simulate
from autocompress.quantization.lowering import lower
from autocompress.quantization.placement import ONNX_RUNTIME, LayerBits, Placement, place
from autocompress.quantization.regions import Choose, Regions, regions_of

MakeFake = Callable[[str, TensorSpec], FakeQuantizer]
FAKES = "quantizers"


class QuantizedNetwork(fx.GraphModule):
    """The traced, folded network with fake-quantizers in it.

    Layers keep their names. Quantizers of activations are ``quantizers.<node>``, those of weights
    ``<layer>.weight_quantizer``. The network runs and trains as any module.

    While a fake-quantizer is on, it computes in float32 even under autocast. Inputs rounded to 16
    bits would not be the integers of the file.
    """

    def __call__(self, *images: torch.Tensor) -> torch.Tensor:
        simulates = any(isinstance(m, FakeQuantizer) and (m.enabled or m.observing) for m in self.modules())
        if not simulates:
            plain: torch.Tensor = super().__call__(*images)
            return plain
        with torch.autocast(images[0].device.type, enabled=False):
            found: torch.Tensor = super().__call__(*(ops.widened(batch) for batch in images))
        return found

    @property
    def placement(self) -> Placement:
        """The places of its fake-quantizers."""
        return self.meta["placement"]

    @property
    def config(self) -> dict[str, LayerBits]:
        """The quantizers and bits of each layer."""
        return self.meta["config"]

    def fake_layers(self) -> dict[str, FakeLayer]:
        """Fake-quantized layers by name."""
        return {name: self.get_submodule(name) for name in self.placement.weights}  # type: ignore[misc]

    def leaves(self) -> dict[str, nn.Module]:
        """Leaf layers with simulated integers, by name; they have no weight quantizer."""
        return {name: self.get_submodule(name) for name in self.placement.leaves}

    def weight_fakes(self) -> dict[str, FakeQuantizer]:
        """Fake-quantizers of weights by layer."""
        return {name: layer.weight_quantizer for name, layer in self.fake_layers().items()}

    def activation_fakes(self) -> dict[str, FakeQuantizer]:
        """Fake-quantizers of activations by graph node."""
        return {name: self.get_submodule(f"{FAKES}.{name}") for name in self.placement.activations}  # type: ignore[misc]


def quantize(
    model: nn.Module,
    config: Mapping[str, LayerBits],
    make_fake: MakeFake,
    *,
    input_size: tuple[int, int, int],
    trainable: bool = False,
    equalise: bool = False,
    specs: Sequence[LayerSpec] = (),
    table: PlacementTable = ONNX_RUNTIME,
    choose: Choose | None = None,
) -> QuantizedNetwork:
    """A copy of ``model`` with fake-quantizers where the runtime computes on integers.

    It is traced in eval mode, and its batch norms are folded.

    Args:
        model: a float model; it is not changed.
        config: the quantizers and bits of layers, by name; a layer that is missing stays in float.
        make_fake: makes the fake-quantizer of a tensor from the name of the method and a spec.
        input_size: (channels, height, width) of an image.
        trainable: batch norms are not folded but kept in their layers, for training (see
            ``fakelayers``); the hardened network is the same.
        equalise: the ranges of consecutive layers are equalised first.
        specs: descriptions of the layer types that plugins bring. Leaf layers with an integer form
            keep the norm behind them, even without training, because their weights must stay on the
            grid of their input.
        table: placement table of the device that runs the network.
        choose: returns the layers that compute in float, given the regions of the network. By
            default, all layers of ``config`` compute on integers.

    Raises:
        UntraceableModel: if ``model`` cannot be traced, or has a module whose name a quantized
            network needs.
    """
    if taken := [name for name, _ in model.named_children() if name == FAKES or name in vars(QuantizedNetwork)]:
        raise UntraceableModel(type(model).__name__, f"rename its module '{taken[0]}', a name that quantization needs")
    leaves = integer_leaves(model, config, specs)
    modules = dict(model.named_modules())
    trained = {name for name in config if trainable and leaf_spec(modules.get(name), specs) is None}
    module = fold_batch_norm(model, trained | set(leaves), specs)
    whole = {str(node.target) for node in module.graph.nodes if leaf_spec(module_of(node), specs) is not None}
    lower(module, whole - set(integer_leaves(module, config, specs)))
    if equalise:
        equalise_layers(module)
    propagate_shapes(module, input_size)
    placement = place(module, config, specs, table)
    if choose is not None and placement.weights:
        config = _in_float(config, choose(regions_of(module, config, placement)))
        placement = place(module, config, specs, table)
    _fold_the_rest(module, {*placement.weights, *whole})
    for layer, point in placement.weights.items():
        plain = module.get_submodule(layer)
        _give_bias(plain)
        spec = replace(point.spec, normed=getattr(plain, "norm", None) is not None)
        module.set_submodule(layer, with_fake_weight(plain, make_fake(point.quantizer, spec)))  # type: ignore[arg-type]
    for layer, leaf in placement.leaves.items():
        module.set_submodule(layer, simulate(module.get_submodule(layer), leaf))
    module.add_module(FAKES, nn.Module())
    nodes = {node.name: node for node in module.graph.nodes}
    for name, point in placement.activations.items():
        module.get_submodule(FAKES).add_module(name, make_fake(point.quantizer, point.spec))
        _insert_behind(nodes[name], f"{FAKES}.{name}", point.readers)
    for layer in (*placement.weights, *placement.leaves):
        call = next(node for node in module.graph.nodes if node.target == layer)
        reads = placement.origin.get(call.args[0].name) or str(call.args[0].target).removeprefix(f"{FAKES}.")
        if reads in placement.activations:
            # Not registered by nn.Module, so that it has one owner and one name.
            module.get_submodule(layer).__dict__["input_quantizer"] = module.get_submodule(f"{FAKES}.{reads}")
    network = QuantizedNetwork(module, module.graph)
    network.meta.update(
        placement=placement,
        config=dict(config),
        input_size=tuple(input_size),
        leaf_layers=sorted(whole),
        table=table,
    )
    network.eval()
    return network


def _in_float(config: Mapping[str, LayerBits], layers: Collection[str]) -> dict[str, LayerBits]:
    return {name: replace(bits, in_float=bits.in_float or name in layers) for name, bits in config.items()}


def network_regions(
    model: nn.Module,
    config: Mapping[str, LayerBits],
    input_size: tuple[int, int, int],
    specs: Sequence[LayerSpec] = (),
    table: PlacementTable = ONNX_RUNTIME,
) -> Regions:
    """The regions of ``model`` with integers wherever ``config`` has bits.

    Raises:
        UntraceableModel: if ``model`` cannot be traced.
    """
    leaves = integer_leaves(model, config, specs)
    module = fold_batch_norm(model, set(leaves), specs)
    whole = {str(node.target) for node in module.graph.nodes if leaf_spec(module_of(node), specs) is not None}
    lower(module, whole - set(integer_leaves(module, config, specs)))
    propagate_shapes(module, input_size)
    return regions_of(module, config, place(module, config, specs, table))


def _fold_the_rest(module: fx.GraphModule, settled: Collection[str]) -> None:
    """Folds the norms that were kept in layers which stay in float."""
    for name, layer in list(module.named_modules()):
        if isinstance(layer, nn.Conv2d | nn.Linear) and name not in settled and hasattr(layer, "norm"):
            norm = layer.norm
            del layer.norm
            fold(layer, norm)  # type: ignore[arg-type]


def _give_bias(layer: nn.Module) -> None:
    """Gives the layer a bias, so that bias correction does not change the structure.

    Its int32 values take almost no space.
    """
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    if layer.bias is None and getattr(layer, "norm", None) is None:
        layer.bias = nn.Parameter(layer.weight.new_zeros(layer.weight.shape[0]))


def _insert_behind(node: fx.Node, target: str, readers: frozenset[str] | None) -> None:
    with node.graph.inserting_after(node):
        fake = node.graph.call_module(target, (node,))
    node.replace_all_uses_with(
        fake, delete_user_cb=lambda user: user is not fake and (readers is None or user.name in readers)
    )


def calibrate(network: QuantizedNetwork, batches: Iterable[torch.Tensor]) -> None:
    """Sets ranges of weights, and of activations from ``batches`` ``(N, C, H, W)`` of images.

    Activations are observed behind quantized weights, as they will be deployed. Leaf layers run in
    float meanwhile, because their weights use the grid of the observed tensor. Without a batch (in
    a dry run), only weights get ranges.
    """
    with evaluating(network):
        for layer in network.fake_layers().values():
            _observe([layer.weight_quantizer], partial(layer.weight_quantizer, layer.quantized_weight()))
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
