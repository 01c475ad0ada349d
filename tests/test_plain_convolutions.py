"""Special convolutions of timm are replaced by plain ones, which have integer kernels."""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from autocompress.export import check_agreement, export, operator_histogram
from autocompress.graph import facts
from autocompress.graph.plain import plain_convolutions
from autocompress.graph.trace import trace
from autocompress.quantization import LayerBits, calibrate, fold_batch_norm, harden, quantize
from autocompress.quantization.fakequant import UniformFakeQuantizer

TYPES = [Conv2dSame, StdConv2d, StdConv2dSame, ScaledStdConv2d, ScaledStdConv2dSame]


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(TYPES),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(1, 2),
    st.sampled_from([1, 2]),
    st.booleans(),
    st.tuples(st.integers(6, 13), st.integers(6, 13)),
)
def test_outputs_are_equal(
    layer: type[nn.Conv2d], kernel: int, stride: int, dilation: int, groups: int, bias: bool, size: tuple[int, int]
) -> None:
    torch.manual_seed(kernel)
    conv = layer(4, 8, kernel, stride=stride, dilation=dilation, groups=groups, bias=bias)
    if hasattr(conv, "gain"):
        nn.init.uniform_(conv.gain, -2, 2)  # type: ignore[arg-type]
    model = nn.Sequential(conv, nn.ReLU())
    before, images = trace(model), torch.randn(2, 4, *size)
    expected = model(images)
    plain_convolutions(before)
    assert type(before.get_submodule("0")) is nn.Conv2d
    assert torch.equal(before(images), expected)
    assert type(model[0]) is layer  # the original model is not changed


def test_a_shared_layer_is_padded_at_each_call() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = Conv2dSame(3, 3, 3, stride=2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(self.conv(x))

    model, images = Twice(), torch.randn(1, 3, 14, 10)
    traced = trace(model)
    plain_convolutions(traced)
    assert torch.equal(traced(images), model(images))


def test_derived_types_are_not_replaced() -> None:
    class Own(StdConv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    model, images = nn.Sequential(Own(3, 4, 3)), torch.randn(1, 3, 8, 8)
    assert torch.equal(fold_batch_norm(model)(images), model(images))


def test_batch_norm_behind_them_is_folded() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(StdConv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), Conv2dSame(8, 8, 3, stride=2), nn.Flatten())
    model[1].running_mean.normal_()  # type: ignore[union-attr, operator]
    model[1].running_var.uniform_(0.5, 2)  # type: ignore[union-attr, operator]
    model.eval()
    folded, images = fold_batch_norm(model), torch.randn(2, 3, 12, 12)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(folded(images), model(images), rtol=1e-5, atol=1e-5)


def test_they_count_as_layers() -> None:
    model = timm.create_model("tf_mobilenetv3_small_minimal_100", num_classes=10).eval()
    convolutions = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    found = facts(model, (3, 32, 32)).layers
    assert any(isinstance(model.get_submodule(name), Conv2dSame) for name in found)
    assert set(convolutions) <= set(found)
    assert found["conv_stem"].macs == 16 * 16 * 16 * 3 * 9


def test_uneven_padding_is_computed_on_integers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    name = "tf_mobilenetv3_small_minimal_100"
    model, images = timm.create_model(name, num_classes=10).eval(), torch.randn(8, 3, 32, 32)
    config = {layer: LayerBits("quantize") for layer in facts(model, (3, 32, 32)).layers}
    network = quantize(model, config, lambda _, spec: UniformFakeQuantizer(spec), input_size=(3, 32, 32))
    calibrate(network, [images])
    hardened = harden(network)
    file = tmp_path / "model.onnx"
    export(hardened, file, (3, 32, 32))
    histogram = operator_histogram(file)
    assert histogram["QLinearConv"] == sum(isinstance(module, nn.Conv2d) for module in model.modules())
    assert histogram["QuantizeLinear"] == 1  # the image quantizer, before the padding
    assert not {"Pad", "Conv", "FusedConv", "DequantizeLinear"} & set(histogram)
    assert check_agreement(file, hardened, images).labels >= 0.75
    assert check_agreement(file, hardened, images).mean_error < 0.01


class PadTwice(nn.Module):
    """A padded tensor that an addition reads too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.pad(self.first(x), (1, 2, 1, 0))
        x = (self.second(x) + x).relu()
        return self.head(x.mean((2, 3)))


def test_a_padding_with_other_readers_keeps_its_grid(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, images = PadTwice().eval(), torch.randn(8, 3, 16, 16)
    config = {layer: LayerBits("quantize") for layer in ("first", "second", "head")}
    network = quantize(model, config, lambda _, spec: UniformFakeQuantizer(spec), input_size=(3, 16, 16))
    calibrate(network, [images])
    hardened = harden(network)
    file = tmp_path / "model.onnx"
    export(hardened, file, (3, 16, 16))
    histogram = operator_histogram(file)
    assert histogram["QLinearConv"] == 2
    assert histogram["QLinearAdd"] == 1
    assert check_agreement(file, hardened, images).max_error < 0.02
    assert check_agreement(file, model, images).max_error < 0.05
