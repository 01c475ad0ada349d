"""Layers without an integer form stay in float, exactly, and are named."""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from torch import fx, nn

from autocompress.export import check_agreement, export, operator_histogram
from autocompress.quantization import (
    LayerBits,
    QuantizedNetwork,
    asked_but_float,
    calibrate,
    float_layers,
    fold_batch_norm,
    harden,
    plan,
    quantize,
    rebuild,
)
from autocompress.quantization.fakequant import UniformFakeQuantizer

SIZE = (3, 16, 16)


def all_layers(model: nn.Module) -> dict[str, LayerBits]:
    return {n: LayerBits("quantize") for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}


def calibrated(model: nn.Module, config: dict[str, LayerBits], images: torch.Tensor) -> QuantizedNetwork:
    network = quantize(model, config, lambda _, spec: UniformFakeQuantizer(spec), input_size=tuple(images.shape[1:]))
    calibrate(network, [images])
    return network


class Odd(nn.Module):
    """One layer of each kind without an integer form, between others that have one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.mirrored = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
        self.shared = nn.Conv2d(8, 8, 1)
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.narrow = nn.Conv1d(8, 8, 3, padding=1)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mix = nn.Parameter(torch.randn(8, 8))
        self.norm = nn.LayerNorm(8)
        self.chosen = nn.Linear(8, 8)
        self.head = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        x = self.mirrored(x).relu()
        x = self.shared(x) + self.shared(x * 7)
        x = self.up(x).flatten(2)
        x = self.narrow(x).transpose(1, 2)
        x = self.attention(x, x, x, need_weights=False)[0]
        x = self.chosen(self.norm(x) @ self.mix)
        return self.head(x.mean(1))


def test_every_kind_is_named_in_network_order() -> None:
    torch.manual_seed(0)
    model, images = Odd().eval(), torch.randn(4, *SIZE)
    config = all_layers(model) | {"chosen": LayerBits(None)}
    network = calibrated(model, config, images)
    hardened = harden(network)
    named = ["mirrored", "shared", "up", "narrow", "attention", "mix"]
    assert float_layers(network) == float_layers(hardened) == named
    assert asked_but_float(hardened) == ["mirrored", "shared"]
    assert set(network.weight_fakes()) == {"stem", "head"}
    again = rebuild(model, plan(hardened))
    assert float_layers(again) == named


def test_a_model_that_is_quantized_completely_names_no_layer() -> None:
    model = timm.create_model("resnet10t", num_classes=10).eval()
    network = calibrated(model, all_layers(model), torch.randn(2, 3, 32, 32))
    assert float_layers(harden(network)) == []


def test_layers_left_in_float_by_the_recipe_are_not_named() -> None:
    model = timm.create_model("resnet10t", num_classes=10).eval()
    network = calibrated(model, {"fc": LayerBits("quantize")}, torch.randn(2, 3, 32, 32))
    assert float_layers(harden(network)) == []
    assert float_layers(fold_batch_norm(model)) == []


def test_layers_inside_a_block_that_is_not_traced() -> None:
    model = timm.create_model("nf_resnet26", num_classes=10).eval()
    network = quantize(
        model, all_layers(model), lambda _, spec: UniformFakeQuantizer(spec), input_size=(3, 32, 32)
    )  # timm does not trace NormFreeBlock, because its in-place product would be lost
    named = float_layers(network)
    assert "stages.0.0.conv1" in named
    assert "head.fc" not in named
    assert named == asked_but_float(network)
    assert len(named) + len(network.weight_fakes()) == len(all_layers(model))


class Shared(nn.Module):
    """One weight for inputs of very different scales."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.linear, self.head = (
            nn.Conv2d(3, 8, 3),
            nn.Conv2d(8, 8, 1),
            nn.Linear(8, 8),
            nn.Linear(8, 10),
        )
        for layer in (self.conv, self.linear):
            assert layer.bias is not None
            nn.init.constant_(layer.bias, 2.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        x = (self.conv(x) + self.conv(self.conv(x) * 20)).mean((2, 3))
        x = self.linear(x).relu() + self.linear(x * 20).relu()
        return self.head(x)


def test_shared_weights_agree_with_the_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, images = Shared().eval(), torch.randn(16, *SIZE)
    hardened = harden(calibrated(model, all_layers(model), images))
    assert float_layers(hardened) == ["conv", "linear"]
    file = tmp_path / "model.onnx"
    export(hardened, file, SIZE)
    assert check_agreement(file, hardened, images).max_error < 0.02
    assert check_agreement(file, model, images).max_error < 0.05


def test_a_reflected_padding_stays_exact(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.Flatten(),
        nn.Linear(8 * 14 * 14, 10),
    ).eval()
    images = torch.randn(8, *SIZE)
    hardened = harden(calibrated(model, all_layers(model), images))
    assert isinstance(hardened, fx.GraphModule)
    assert float_layers(hardened) == ["2"]
    file = tmp_path / "model.onnx"
    export(hardened, file, SIZE)
    histogram = operator_histogram(file)
    assert histogram["QLinearConv"] == 2
    assert check_agreement(file, hardened, images).max_error < 0.02
    assert check_agreement(file, model, images).max_error < 0.05


def test_a_layer_scale_is_kept_if_its_layer_is_shared() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.gamma = nn.Linear(4, 4), nn.Parameter(torch.tensor([1.0, 2.0, 3.0, 4.0]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.layer(x.mean((2, 3)))
            return self.gamma * self.layer(x)

    torch.manual_seed(0)
    model, images = Scaled().eval(), torch.randn(4, 4, 8, 8)
    network = quantize(model, {}, lambda _, spec: UniformFakeQuantizer(spec), input_size=(4, 8, 8))
    torch.testing.assert_close(network(images), model(images))
