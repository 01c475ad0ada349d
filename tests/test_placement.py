"""The places of fake-quantizers, also with float layers and low bits."""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from torch import fx, nn

from autocompress.contract import TensorSpec
from autocompress.export import export, operator_histogram
from autocompress.quantization import LayerBits, QuantizedNetwork, calibrate, harden, quantize
from autocompress.quantization.fakequant import UniformFakeQuantizer

SIZE = (3, 32, 32)


def all_layers(model: nn.Module) -> dict[str, LayerBits]:
    names = [n for n, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    return {name: LayerBits("quantize", group=name.split(".")[0]) for name in names}


def quantized(model: nn.Module, config: dict[str, LayerBits]) -> QuantizedNetwork:
    return quantize(model, config, lambda _, spec: UniformFakeQuantizer(spec), input_size=SIZE)


def specs(network: QuantizedNetwork) -> dict[str, TensorSpec]:
    points = [*network.placement.activations.values(), *network.placement.weights.values()]
    return {point.spec.name: point.spec for point in points}


def test_every_tensor_between_operators_of_a_residual_network() -> None:
    model = timm.create_model("resnet18", num_classes=10).eval()
    network = quantized(model, all_layers(model))
    found = specs(network)
    operators = [spec.operator for spec in found.values() if spec.role == "activation"]
    # 1 image, 9 convolutions behind their ReLU, 8 before an addition, 3 shortcuts, 8 additions
    # behind their ReLU, and 1 pooling.
    assert {name: operators.count(name) for name in set(operators)} == {
        "input": 1,
        "conv": 20,
        "add": 8,
        "global_pool": 1,
    }
    assert not found["x"].nonnegative
    assert found["layer1_0_act1"].nonnegative
    assert not found["layer1_0_conv2"].nonnegative
    assert found["layer1_0_act2"].operator == "add"
    assert "layer1_0_bn1" not in found
    assert found["layer1.0.conv1.weight"] == TensorSpec(
        "layer1.0.conv1.weight", "weight", "layer1", "conv", (64, 64, 3, 3), 8, 0
    )
    assert "fc" not in found  # the logits stay in float


def test_names_and_shapes_are_unique_and_known() -> None:
    model = timm.create_model("efficientnet_b0", num_classes=10).eval()
    network = quantized(model, all_layers(model))
    points = [*network.placement.activations.values(), *network.placement.weights.values()]
    assert len({point.spec.name for point in points}) == len(points)
    assert all(len(point.spec.shape) in (2, 4) for point in points)
    assert specs(network)["blocks.1.0.conv_dw.weight"].operator == "depthwise"


def test_no_quantizers_are_inside_a_float_region(tmp_path: Path) -> None:
    model = timm.create_model("resnet18", num_classes=10).eval()
    config = all_layers(model)
    for name in config:
        if name.startswith("layer4"):
            config[name] = LayerBits(None)
    network = quantized(model, config)
    assert not any(name.startswith("layer4") for name in (*network.placement.activations, *network.placement.weights))
    file = tmp_path / "model.onnx"
    export(harden(network, dry_run=True), file, SIZE)
    histogram = operator_histogram(file)
    assert histogram["QLinearConv"] == 15
    assert histogram["Conv"] + histogram.get("FusedConv", 0) == 5
    assert histogram["QLinearAdd"] == 6
    assert histogram["DequantizeLinear"] <= 2


def test_without_any_quantized_layer_nothing_is_inserted() -> None:
    model = timm.create_model("resnet10t", num_classes=10).eval()
    network, x = quantized(model, {}), torch.randn(2, *SIZE)
    assert not network.placement.activations
    assert not network.placement.weights
    torch.testing.assert_close(network(x), model(x), rtol=1e-4, atol=1e-5)


def test_the_bits_of_a_tensor_are_those_of_the_layer_that_writes_it() -> None:
    model = timm.create_model("resnet18", num_classes=10).eval()
    low = LayerBits("slb", weight_bits=2, activation_bits=4, activation_quantizer="quantize", group="layer2")
    config = all_layers(model)
    config.update({name: low for name in config if name.startswith("layer2")})
    asked: dict[str, str] = {}

    def make(quantizer: str, spec: TensorSpec) -> UniformFakeQuantizer:
        asked[spec.name] = quantizer
        return UniformFakeQuantizer(spec)

    network = quantize(model, config, make, input_size=SIZE)
    found = specs(network)
    assert found["layer2.0.conv1.weight"].bits == 2
    assert found["layer2_0_act1"].bits == 4
    assert found["layer2_1_act2"].bits == 4
    assert found["layer1_1_act2"].bits == 8
    assert found["x"].bits == 8
    assert asked["layer2.0.conv1.weight"] == "slb"
    assert asked["layer2_0_act1"] == "quantize"


def test_four_bit_activations_are_fused_too(tmp_path: Path) -> None:
    model = timm.create_model("resnet10t", num_classes=10).eval()
    config = {name: LayerBits("quantize", weight_bits=4, activation_bits=4) for name in all_layers(model)}
    network = quantized(model, config)
    calibrate(network, [torch.randn(4, *SIZE)])
    file = tmp_path / "model.onnx"
    export(harden(network), file, SIZE)
    histogram = operator_histogram(file)
    convolutions = sum(isinstance(module, nn.Conv2d) for module in model.modules())
    assert histogram["QLinearConv"] == convolutions
    assert not {"Conv", "FusedConv", "Clip", "Relu"} & set(histogram)


def test_fake_quantized_activations_have_few_values() -> None:
    model = timm.create_model("resnet10t", num_classes=10).eval()
    config = {name: LayerBits("quantize", activation_bits=3) for name in all_layers(model)}
    network, x = quantized(model, config), torch.randn(4, *SIZE)
    calibrate(network, [x])
    seen: dict[str, int] = {}

    class Watch(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            result = super().run_node(n)
            if str(n.target).startswith("quantizers.") and n.args[0].name != "x":  # type: ignore[union-attr]
                seen[n.name] = len(result.unique())
            return result

    with torch.no_grad():
        Watch(network).run(x)
    assert seen
    assert max(seen.values()) <= 8
