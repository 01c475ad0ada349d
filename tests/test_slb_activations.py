"""DoReFa and PACT: values, gradients, and initial values."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autocompress.contract import Context, FakeQuantizer, TensorSpec
from autocompress.errors import TrialFailed
from autocompress.quantization.fakequant import UniformFakeQuantizer
from autocompress.quantization.ops import round_trip
from autocompress_slb import Slb
from autocompress_slb.activations import DoReFaFakeQuantizer, PactFakeQuantizer


def spec_of(bits: int, nonnegative: bool = True) -> TensorSpec:
    return TensorSpec("a", "activation", "layer1", "conv", (1, 4, 8, 8), bits, nonnegative=nonnegative)


def gradient(fake: FakeQuantizer, x: torch.Tensor) -> torch.Tensor:
    x = x.clone().requires_grad_()
    fake.train()(x).sum().backward()
    assert x.grad is not None
    return x.grad


def test_dorefa_at_two_bits() -> None:
    x = torch.linspace(-0.5, 1.5, 101)
    fake = DoReFaFakeQuantizer(spec_of(2))
    thirds = torch.tensor([0, 1 / 3, 2 / 3, 1])
    assert bool(torch.isclose(fake(x)[:, None], thirds).any(1).all())
    torch.testing.assert_close(fake(x), (3 * x.clamp(0, 1)).round() / 3)
    inside = (x > 0) & (x < 1)
    edges = ((x - 0).abs() < 1e-5) | ((x - 1).abs() < 1e-5)
    assert torch.equal(gradient(fake, x)[~edges], inside.float()[~edges])


def test_pact_learns_its_clipping_value() -> None:
    fake = PactFakeQuantizer(spec_of(2))
    with torch.no_grad():
        fake.alpha.fill_(0.9)
    x = torch.tensor([-0.5, 0.1, 0.44, 0.46, 0.89, 0.9, 3.0])
    torch.testing.assert_close(fake(x), torch.tensor([0, 0, 0.3, 0.6, 0.9, 0.9, 0.9]))
    assert gradient(fake, x).tolist() == [0, 1, 1, 1, 1, 0, 0]
    assert float(fake.alpha.grad) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize("bits", range(1, 9))
def test_dorefa_has_a_gradient_up_to_both_ends_and_not_beyond(bits: int) -> None:
    fake = DoReFaFakeQuantizer(spec_of(bits))
    beyond = torch.tensor([-0.001, 0.0, 0.5, 1.0, 1.001])
    assert gradient(fake, beyond).tolist() == [0, 1, 1, 1, 0]


def test_pact_clips_at_its_alpha_in_every_precision() -> None:
    fake = PactFakeQuantizer(spec_of(4))
    with torch.no_grad():
        fake.alpha.fill_(0.9)  # 0.8984 in bfloat16, which is below alpha
    assert gradient(fake, torch.tensor([0.9]).bfloat16()).tolist() == [1]
    with torch.no_grad():
        fake.alpha.fill_(-1.0)  # the smallest alpha of the forward pass
    assert gradient(fake, torch.tensor([-0.5, 5e-5, 2e-4])).tolist() == [0, 1, 0]


@given(st.integers(2, 8), st.floats(0.01, 100))
def test_the_file_has_the_values_of_training(bits: int, alpha: float) -> None:
    x = torch.randn(500).relu() * alpha
    pact = PactFakeQuantizer(spec_of(bits))
    with torch.no_grad():
        pact.alpha.fill_(alpha)
    for fake in (pact, DoReFaFakeQuantizer(spec_of(bits))):
        hardened = fake.harden()
        assert (hardened.low, hardened.high, int(hardened.zero_point)) == (0, 2**bits - 1, 0)
        assert torch.equal(fake(x), round_trip(x, float(hardened.scale), 0, 0, hardened.high))


def test_pact_starts_at_the_clipping_value_of_calibration() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 4, 8, 8, generator=generator).relu()
    fake = PactFakeQuantizer(spec_of(2), images=256)
    fake.observing, fake.enabled = True, False
    assert torch.equal(fake(x), x)
    fake(torch.full((10, 4, 8, 8), 1e6))  # more images than requested
    fake.finish_observing()
    fake.observing, fake.enabled = False, True
    errors = {}
    found = float(fake.alpha.detach())
    for alpha in (0.5, 1.0, found, 3.0, float(x.max())):
        errors[alpha] = float((round_trip(x, alpha / 3, 0, 0, 3) - x).square().mean())
    assert min(errors, key=lambda alpha: errors[alpha]) == found


def test_nan_values_end_the_trial() -> None:
    fake = PactFakeQuantizer(spec_of(4))
    fake.observing = True
    fake(torch.tensor([[1.0, float("nan")]]))
    with pytest.raises(TrialFailed, match="not finite"):
        fake.finish_observing()


@pytest.mark.parametrize(("name", "kind"), [("dorefa", DoReFaFakeQuantizer), ("pact", PactFakeQuantizer)])
def test_signed_tensors_get_the_uniform_quantizer(name: str, kind: type) -> None:
    context = Context(input_size=(3, 8, 8))
    method, params = Slb(), {"activation": name}
    assert type(method.apply(spec_of(4), params, context)) is kind
    assert type(method.apply(spec_of(4, nonnegative=False), params, context)) is UniformFakeQuantizer
    with pytest.raises(ValueError, match="negative"):
        kind(spec_of(4, nonnegative=False))


def test_under_autocast_pact_uses_the_levels_of_float32() -> None:
    fake = PactFakeQuantizer(TensorSpec("x", "activation", "g", "activation", (1, 8), 8, nonnegative=True))
    x = (torch.rand(4096) * 7).bfloat16()
    found = fake(x)
    assert found.dtype == torch.float32
    assert torch.equal(found, fake(x.float()))
