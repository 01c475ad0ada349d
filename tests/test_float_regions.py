"""Layers with integer weights that compute in float: in torch, in the file and in a plan."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import timm
import torch
from torch import fx, nn

from autocompress.contract import LayerSpec
from autocompress.export import check_agreement, export, operator_histogram
from autocompress.quantization import LayerBits, calibrate, harden, quantize
from autocompress.quantization.fakequant import UniformFakeQuantizer
from autocompress.quantization.hardening import plan, rebuild
from autocompress.quantization.network import network_regions
from autocompress.quantization.regions import Regions

SIZE = (3, 32, 32)


def config_of(model: nn.Module, bits: int = 8) -> dict[str, LayerBits]:
    layers = [name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    return {name: LayerBits("quantize", weight_bits=bits) for name in layers}


def hardened(model: nn.Module, floats: set[str], bits: int = 8) -> fx.GraphModule:
    network = quantize(
        model,
        config_of(model, bits),
        lambda _, spec: UniformFakeQuantizer(spec),
        input_size=SIZE,
        choose=lambda regions: floats & {region.layer for region in regions.regions},
    )
    calibrate(network, [torch.randn(8, *SIZE)])
    return harden(network)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "starts", "bits"),
    [
        ("test_efficientnet", ("conv_stem", "blocks.1"), 8),
        ("test_resnet", ("layer2", "fc"), 3),
        ("test_vit", ("blocks.1", "head"), 8),
        ("test_efficientnet", ("",), 8),
    ],
)
def test_file_and_torch_agree(name: str, starts: tuple[str, ...], bits: int, tmp_path: Path) -> None:
    arguments = {"img_size": 32} if "vit" in name else {}
    model = timm.create_model(name, num_classes=10, **arguments).eval()
    floats = {layer for layer in config_of(model) if layer.startswith(starts)}
    done, file = hardened(model, floats, bits), tmp_path / "model.onnx"
    export(done, file, SIZE)
    agreement = check_agreement(file, done, torch.randn(32, *SIZE))
    assert agreement.labels >= 0.9
    assert agreement.mean_error < 0.01


def test_weights_of_float_layers_are_integers_in_the_file_and_floats_at_load(tmp_path: Path) -> None:
    model = timm.create_model("test_resnet", num_classes=10).eval()
    floats = {layer for layer in config_of(model) if layer.startswith("layer3")}
    assert floats
    files = [tmp_path / "integers.onnx", tmp_path / "mixed.onnx"]
    for file, chosen in zip(files, (set[str](), floats), strict=True):
        export(hardened(model, chosen), file, SIZE)
    integers, mixed = (operator_histogram(file) for file in files)
    assert mixed["Conv"] + mixed.get("FusedConv", 0) == len(floats)
    assert mixed["QLinearConv"] == integers["QLinearConv"] - len(floats)
    assert mixed.get("DequantizeLinear", 0) <= integers.get("DequantizeLinear", 0) + 2, (
        "weights are not converted in every run"
    )
    tensors = {tensor.name: tensor for tensor in onnx.load(str(files[1])).graph.initializer}
    assert all(tensors[f"{layer}.weight"].data_type == onnx.TensorProto.INT8 for layer in floats)
    assert files[1].stat().st_size < 1.2 * files[0].stat().st_size


def test_a_plan_records_which_layers_compute_in_float() -> None:
    model = timm.create_model("test_resnet", num_classes=10).eval()
    floats = {layer for layer in config_of(model) if layer.startswith("layer2")}
    done = hardened(model, floats)
    kept = json.loads(json.dumps(plan(done)))
    assert {layer for layer, bits in kept["layers"].items() if bits["in_float"]} == floats
    again = rebuild(model, kept)
    assert [node.name for node in again.graph.nodes] == [node.name for node in done.graph.nodes]
    again.load_state_dict(done.state_dict())
    images = torch.randn(4, *SIZE)
    torch.testing.assert_close(again(images), done(images))
    for bits in kept["layers"].values():  # a plan of an earlier version
        del bits["in_float"]
    rebuild(model, kept | {"activations": plan(hardened(model, set()))["activations"]})


def test_regions_and_their_operators() -> None:
    model = timm.create_model("test_efficientnet", num_classes=10).eval()
    found: list[Regions] = []

    def choose(regions: Regions) -> set[str]:
        found.append(regions)
        return set()

    make = lambda _, spec: UniformFakeQuantizer(spec)  # noqa: E731
    quantize(model, config_of(model), make, input_size=SIZE, choose=choose)
    regions = found[0]
    assert regions == network_regions(model, config_of(model), SIZE)
    assert [region.layer for region in regions.regions] == list(config_of(model))
    stem = regions.regions[0].pattern
    assert (stem.operator, stem.inputs, stem.kernel, stem.stride) == ("conv", (3, 32, 32), (3, 3), 2)
    assert [name for name, _ in stem.followers] == ["sigmoid", "multiply"], "SiLU has the operators of the runtime"
    assert {region.pattern.operator for region in regions.regions} == {"conv", "depthwise", "linear"}
    read = {reader for crossing in regions.crossings for reader in crossing.readers}
    assert read == set(config_of(model)) - {"conv_stem"}
    assert all(crossing.source not in crossing.readers for crossing in regions.crossings)


def test_layers_without_an_integer_form_are_regions_that_stay_in_float() -> None:
    model = timm.create_model("test_resnet", num_classes=10).eval()
    config = config_of(model)
    config["conv1.0" if "conv1.0" in config else "conv1"] = LayerBits(None)
    regions = network_regions(model, config, SIZE)
    fixed = [region.layer for region in regions.regions if not region.can_be_integer]
    assert fixed == [next(iter(config))]
    specs: list[LayerSpec] = []
    assert network_regions(model, config, SIZE, specs) == regions
