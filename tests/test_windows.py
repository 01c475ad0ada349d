"""Networks that cut images into windows, as Swin and MaxViT do, are written and quantized."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autocompress.export import check_agreement, export
from autocompress.graph.trace import UntraceableModel, trace
from autocompress.quantization import LayerBits, calibrate, harden, quantize
from autocompress.quantization.fakequant import UniformFakeQuantizer
from autocompress.quantization.lowering import tidy

SIZE = (3, 7, 7)


class Flat(nn.Module):
    """Is one node of a traced graph, because it decides by its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(x.shape[0], -1) if x.ndim == 6 else x


class Windows(nn.Module):
    """Mixes windows of 4 x 4 pixels.

    It pads its images by a computed width, and its layers have the name ``layers``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Linear(128, 128))
        self.flat, self.head = Flat(), nn.Linear(512, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, _, height, width = x.shape
        x = self.layers[0](F.pad(x, (0, -width % 4, 0, -height % 4)))
        windows = x.view(batch, 8, 2, 4, 2, 4).permute(0, 2, 4, 1, 3, 5).contiguous().view(-1, 128)
        mixed = F.relu(self.layers[1](windows)).view(batch, 2, 2, 8, 4, 4)
        return self.head(self.flat(mixed.permute(0, 3, 1, 4, 2, 5).contiguous()))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Windows().eval()


def test_windows_are_written(model: nn.Module, tmp_path: Path) -> None:
    export(model, tmp_path / "m.onnx", SIZE)
    assert check_agreement(tmp_path / "m.onnx", model, torch.randn(16, *SIZE)).max_error < 1e-5


class Views(nn.Module):
    """Has views by keyword, by a shape and by a dtype, and dropout between layout and layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.dropout, self.flat, self.head = nn.Conv2d(3, 8, 3), nn.Dropout(), Rows(), nn.Linear(200, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.flat(self.dropout(self.layer(x).permute(0, 2, 3, 1).contiguous()))
        return self.head(x.contiguous().view(size=(-1, 200)).view(x.shape).view(x.dtype))


class Rows(nn.Module):
    """Is one node of a traced graph."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(len(x), -1) if x.ndim == 4 else x


def test_views_of_all_kinds_are_kept() -> None:
    model, images = Views().eval(), torch.randn(4, *SIZE)
    module = trace(model)
    tidy(module)
    assert torch.equal(module(images), model(images))


class Configured(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.config = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.config(x)


def test_a_module_with_a_name_that_quantization_needs_is_refused() -> None:
    with pytest.raises(UntraceableModel, match="rename its module 'config'"):
        quantize(Configured(), {}, lambda _, spec: UniformFakeQuantizer(spec), input_size=(4,))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["boolean", "causal"])
def test_masked_attention_of_three_dimensions_is_written(kind: str, tmp_path: Path) -> None:
    class Attention(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows = x.flatten(2)
            mask = torch.ones(rows.shape[1], rows.shape[1], dtype=torch.bool).triu() if kind == "boolean" else None
            return F.scaled_dot_product_attention(rows, rows, rows, mask, is_causal=kind == "causal").flatten(1)

    export(Attention(), tmp_path / "m.onnx", SIZE)
    assert check_agreement(tmp_path / "m.onnx", Attention(), torch.randn(4, *SIZE)).max_error < 1e-5


def test_windows_are_quantized(model: nn.Module, tmp_path: Path) -> None:
    images = torch.randn(16, *SIZE, generator=torch.Generator().manual_seed(0))
    config = {name: LayerBits("q") for name in ("layers.0", "layers.1", "head")}
    network = quantize(model, config, lambda _, spec: UniformFakeQuantizer(spec), input_size=SIZE)
    calibrate(network, [images])
    assert list(network.fake_layers()) == list(config)
    export(harden(network), tmp_path / "m.onnx", SIZE)
    assert check_agreement(tmp_path / "m.onnx", model, images).labels == 1.0


class Cast(nn.Sequential):
    """The node between its layers has the name ``to``, as a method of modules has."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self[1](self[0](x).to(x.dtype))


def test_a_node_may_have_the_name_of_a_method() -> None:
    model = Cast(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)).eval()
    config = {name: LayerBits("q") for name in ("0", "1")}
    network = quantize(model, config, lambda _, spec: UniformFakeQuantizer(spec), input_size=SIZE)
    images = torch.randn(16, *SIZE)
    calibrate(network, [images])
    assert harden(network)(images).shape == (16, 8, 3, 3)


class Attention(nn.Module):
    """Attention over the rows of an image, whose tensors have ``rank`` dimensions."""

    def __init__(self, rank: int, mask: torch.Tensor | None) -> None:
        super().__init__()
        self.rank, self.mask = rank, mask

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x[:, 0] if self.rank == 3 else x.unsqueeze(1)
        out = F.scaled_dot_product_attention(tokens, tokens.flip(-1), tokens + 1, attn_mask=self.mask)
        return out.flatten(1)


@pytest.mark.parametrize("rank", [3, 5])
@pytest.mark.parametrize("mask", [None, torch.randn(7, 7, generator=torch.Generator().manual_seed(0))])
def test_attention_of_other_than_four_dimensions_is_written(
    rank: int, mask: torch.Tensor | None, tmp_path: Path
) -> None:
    model = Attention(rank, mask).eval()
    export(model, tmp_path / "m.onnx", SIZE)
    assert check_agreement(tmp_path / "m.onnx", model, torch.randn(16, *SIZE)).max_error < 1e-5
