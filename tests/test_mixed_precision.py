"""Under autocast, simulated integers stay on their grid.

So training on a GPU simulates the file.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from autocompress.contract import FakeQuantizer, TensorSpec
from autocompress.quantization import QuantizedNetwork, calibrate, harden, quantize
from autocompress.quantization.fakequant import UniformFakeQuantizer
from autocompress.quantization.ops import fake_quant, hard_sigmoid, round_trip
from autocompress.quantization.placement import LayerBits
from autocompress.training import half_precision
from autocompress_adder import AdderConv2d
from autocompress_adder.spec import AdderSpec
from autocompress_slb.activations import DoReFaFakeQuantizer, PactFakeQuantizer
from autocompress_slb.fakequant import SlbFakeQuantizer

SIZE = (3, 8, 8)
KINDS = (torch.bfloat16, torch.float16)
WEIGHT = TensorSpec("w", "weight", "g", "conv", (8, 4, 3, 3), 8, channel_axis=0)
SIGNED = TensorSpec("a", "activation", "g", "conv", (1, 8, 8, 8), 8)
UNSIGNED = TensorSpec("r", "activation", "g", "activation", (1, 8, 8, 8), 8, nonnegative=True)
FAKES: dict[str, Callable[[], FakeQuantizer]] = {
    "weight": lambda: UniformFakeQuantizer(WEIGHT),
    "weight, asymmetric": lambda: UniformFakeQuantizer(WEIGHT, is_symmetric=False),
    "activation": lambda: UniformFakeQuantizer(SIGNED),
    "activation of a ReLU": lambda: UniformFakeQuantizer(UNSIGNED),
    "slb": lambda: SlbFakeQuantizer(WEIGHT, 4),
    "pact": lambda: PactFakeQuantizer(UNSIGNED),
    "dorefa": lambda: DoReFaFakeQuantizer(UNSIGNED),
}


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("name", FAKES)
def test_quantizers_keep_the_grid_of_the_file(name: str, kind: torch.dtype) -> None:
    torch.manual_seed(0)
    fake = FAKES[name]().eval()
    x = (3 * torch.randn(fake.spec.shape)).to(kind)
    with torch.autocast("cpu", kind):
        found = fake(x)
    assert found.dtype == torch.float32
    hardened = fake.harden(x.float() if fake.spec.role == "weight" else None)
    scale = hardened.scale if hardened.scale.ndim == 0 else hardened.scale[:, None, None, None]
    integers = found.detach() / scale
    assert float((integers - integers.round()).abs().max()) < 1e-3
    assert torch.equal(found, fake(x.float()))


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("name", FAKES)
def test_gradients_have_the_type_of_the_tensor(name: str, kind: torch.dtype) -> None:
    fake = FAKES[name]().train()
    x = torch.randn(fake.spec.shape).to(kind).requires_grad_()
    with torch.autocast("cpu", kind):
        fake(x).sum().backward()
    reached = [x.grad, *(parameter.grad for parameter in fake.parameters())]
    gradients = [gradient for gradient in reached if gradient is not None]
    assert gradients
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert x.grad is None or x.grad.dtype == kind


def test_products_inside_a_quantizer_are_not_rounded() -> None:
    """Autocast is off inside a quantizer.

    Otherwise a matrix product of a plugin would have 8 bits of precision.
    """

    class Rotated(UniformFakeQuantizer):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x @ torch.eye(x.shape[-1]))

    fake = Rotated(SIGNED).eval()
    x = torch.randn(SIGNED.shape)
    with torch.autocast("cpu", torch.bfloat16):
        found = fake(x)
    assert torch.equal(found, fake(x))


def test_a_disabled_quantizer_changes_nothing() -> None:
    fake = UniformFakeQuantizer(SIGNED)
    fake.enabled = False
    x = torch.randn(SIGNED.shape).bfloat16()
    assert fake(x) is x


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_operators_of_a_hardened_network_give_float32(kind: torch.dtype) -> None:
    x = torch.linspace(-4, 4, 999).to(kind)
    scale, zero = torch.tensor(0.0123), torch.tensor(3)
    for found, expected in (
        (fake_quant(x, scale, zero, 0, 255), fake_quant(x.float(), scale, zero, 0, 255)),
        (round_trip(x, 0.0123, 3, 0, 255), round_trip(x.float(), 0.0123, 3, 0, 255)),
        (hard_sigmoid(x, 1 / 255, 0, 0, 255), hard_sigmoid(x.float(), 1 / 255, 0, 0, 255)),
    ):
        assert found.dtype == torch.float32
        assert torch.equal(found, expected)


def network(kind: str) -> QuantizedNetwork:
    """A small calibrated network that trains with simulated integers."""
    torch.manual_seed(0)
    middle = AdderConv2d(8, 8, 3, padding=(1, 1)) if kind == "adder" else nn.Conv2d(8, 8, 3, padding=1, bias=False)
    layers = [nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), middle, nn.BatchNorm2d(8)]
    net = nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()

    def make(_: str, spec: TensorSpec) -> FakeQuantizer:
        if kind == "slb" and spec.role == "weight":
            return SlbFakeQuantizer(spec, 2)
        return PactFakeQuantizer(spec) if kind == "slb" and spec.nonnegative else UniformFakeQuantizer(spec)

    config = {name: LayerBits("q") for name in ("0", "3", "8")}
    made = quantize(net, config, make, input_size=SIZE, trainable=True, specs=[AdderSpec()])
    calibrate(made, [torch.randn(16, *SIZE)])
    return made


@pytest.mark.parametrize("mode", ["train", "eval", "hardened"])
@pytest.mark.parametrize("kind", ["uniform", "slb", "adder"])
def test_a_network_with_integers_computes_as_in_float32(kind: str, mode: str) -> None:
    """Layers between the quantizers do too.

    A convolution that rounds its inputs to 16 bits would read other integers.
    """
    model: nn.Module = network(kind)
    model = harden(model) if mode == "hardened" else model.train(mode == "train")  # type: ignore[arg-type]
    twin, images = copy.deepcopy(model), torch.randn(8, *SIZE)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(images)
    expected = twin(images)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_before_the_quantization_delay_ends_mixed_precision_is_on() -> None:
    """During a quantization delay, the float network trains as fast as in any other training."""
    model = network("uniform")
    for fake in [*model.weight_fakes().values(), *model.activation_fakes().values()]:
        fake.enabled = False
    with torch.autocast("cpu", torch.bfloat16):
        assert model(torch.randn(2, *SIZE)).dtype == torch.bfloat16


def test_emulated_bfloat16_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch reports that T4 and V100 support it, unless emulation is excluded."""

    def emulates(including_emulation: bool = True) -> bool:
        return including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", emulates)
    assert half_precision(torch.device("cuda")) == torch.float16
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert half_precision(torch.device("cuda")) == torch.bfloat16
    assert half_precision(torch.device("cpu")) is None
