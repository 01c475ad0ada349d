"""Facts about networks: costs, neighbours, and readers of channels."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from autocompress.graph import NetworkFacts, UntraceableModel, facts, trace


def of(name: str, size: int = 64) -> NetworkFacts:
    arguments = {"img_size": size} if "vit" in name else {}
    return facts(timm.create_model(name, num_classes=10, **arguments), (3, size, size))


def test_residual_network() -> None:
    resnet = of("resnet18")
    layers = resnet.layers
    assert len(layers) == 21
    inner, outer = layers["layer1.0.conv1"], layers["layer1.0.conv2"]
    assert inner.private
    assert inner.consumers == ("layer1.0.conv2",)
    assert (inner.norm, inner.activation) == ("layer1.0.bn1", "relu")
    assert not outer.private
    assert outer.enters_add
    assert layers["conv1"].is_input
    assert not layers["conv1"].private
    assert layers["fc"].is_output
    assert (inner.input_shape, inner.output_shape) == ((1, 64, 16, 16), (1, 64, 16, 16))
    assert inner.macs == 64 * 64 * 9 * 16 * 16
    assert resnet.params == sum(p.numel() for p in timm.create_model("resnet18", num_classes=10).parameters())


def test_published_multiply_adds() -> None:
    assert facts(timm.create_model("resnet18"), (3, 224, 224)).macs == pytest.approx(1.82e9, rel=0.01)


def test_squeeze_and_excite_is_a_gate() -> None:
    layers = of("mobilenetv3_small_100").layers
    assert {name for name, layer in layers.items() if layer.in_gate} == {name for name in layers if ".se." in name}
    assert layers["blocks.0.0.conv_dw"].groups == 16
    assert not layers["blocks.0.0.conv_dw"].private


def test_a_depthwise_reader_keeps_the_order_of_channels() -> None:
    layers = of("mobilenetv2_050").layers
    expand = layers["blocks.1.0.conv_pw"]
    assert expand.consumers == ("blocks.1.0.conv_dw",)
    assert not expand.private


def test_a_concatenation_is_not_a_private_reader() -> None:
    layers = of("densenet121").layers
    assert layers["features.denseblock1.denselayer1.conv1"].private
    assert not layers["features.denseblock1.denselayer1.conv2"].private


def test_the_products_of_attention_are_counted() -> None:
    vit = of("vit_tiny_patch16_224")
    tokens, width, depth = 17, 192, 12
    assert vit.other_macs == 2 * depth * tokens * tokens * width
    assert vit.layers["blocks.0.mlp.fc1"].activation == "gelu"
    assert not vit.layers["blocks.0.attn.qkv"].private


@pytest.mark.parametrize("permuted", ["layer1.0.conv1", "layer4.1.conv1"])
def test_private_channels_can_be_permuted(permuted: str) -> None:
    """Tests the meaning of ``private``: logits are equal after a permutation."""
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=10).eval()
    layer = facts(model, (3, 32, 32)).layers[permuted]
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(x)
        order = torch.randperm(layer.out_channels)
        convolution = model.get_submodule(permuted)
        convolution.weight.copy_(convolution.weight[order].clone())
        norm = model.get_submodule(layer.norm)
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.copy_(tensor[order].clone())
        for consumer in layer.consumers:
            weight = model.get_submodule(consumer).weight
            weight.copy_(weight[:, order].clone())
        torch.testing.assert_close(model(x), expected)


def test_the_trace_computes_the_same_in_both_modes() -> None:
    model = timm.create_model("mobilenetv3_small_050", num_classes=10, drop_rate=0.0)
    x = torch.randn(2, 3, 32, 32)
    for training in (False, True):
        model.train(training)
        torch.testing.assert_close(trace(model)(x), model(x))


def test_a_model_that_cannot_be_traced_gives_a_reason() -> None:
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(UntraceableModel, match="Branching cannot be traced"):
        trace(Branching())
    with pytest.raises(UntraceableModel, match="images of"):
        facts(timm.create_model("vit_tiny_patch16_224", num_classes=10), (3, 32, 32))


class Gate(nn.Module):
    """Its forward pass depends on values, so that it cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) if x.sum() > 0 else x + self.inner(x)


class Gated(nn.Module):
    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.stem, self.gate, self.last = nn.Conv2d(3, 8, 3, padding=1), Gate(), last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.gate(self.stem(x)).mean((2, 3)))


def test_a_module_that_cannot_be_traced_stays_one_node() -> None:
    network = facts(Gated(nn.Linear(8, 10)), (3, 4, 4))
    assert list(network.layers) == ["stem", "last"]
    assert [node.target for node in network.graph.graph.nodes if node.op == "call_module"] == ["stem", "gate", "last"]
    assert network.macs == 16 * (8 * 27 + 8 * 8) + 80, "layers inside it count"


def test_an_untraceable_module_with_most_of_the_weights_is_named() -> None:
    model = Gated(nn.Identity())
    model.stem = nn.Conv2d(3, 8, 1, bias=False)
    with pytest.raises(UntraceableModel, match=r"Gated cannot be traced: in 'gate' \(Gate\), .*control flow"):
        trace(model)
