"""UniformFakeQuantizer.

States, gradient, ranges and integers for the file, through the interface of the contract.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autocompress.contract import TensorSpec
from autocompress.errors import TrialFailed
from autocompress.quantization.fakequant import ACTIVATION_ESTIMATORS, WEIGHT_ESTIMATORS, UniformFakeQuantizer
from autocompress.quantization.ops import fake_quant

BITS = st.integers(2, 8)


def weight_spec(bits: int = 8, channels: int = 6) -> TensorSpec:
    return TensorSpec("conv.weight", "weight", "layer1", "conv", (channels, 3, 3, 3), bits, channel_axis=0)


def activation_spec(bits: int = 8, nonnegative: bool = False) -> TensorSpec:
    return TensorSpec("relu", "activation", "layer1", "conv", (1, 8, 4, 4), bits, nonnegative=nonnegative)


def observed(fake: UniformFakeQuantizer, *batches: torch.Tensor) -> UniformFakeQuantizer:
    fake.observing = True
    for batch in batches:
        assert fake(batch) is batch
    fake.observing = False
    fake.finish_observing()
    return fake


@given(BITS, st.integers(0, 2**31), st.booleans(), st.booleans(), st.sampled_from(WEIGHT_ESTIMATORS))
def test_a_weight_equals_its_integers_times_their_scale(
    bits: int, seed: int, is_symmetric: bool, per_channel: bool, estimator: str
) -> None:
    weight = torch.randn(6, 3, 3, 3, generator=torch.Generator().manual_seed(seed))
    fake = UniformFakeQuantizer(
        weight_spec(bits), is_symmetric=is_symmetric, per_channel=per_channel, estimator=estimator
    )
    hardened = observed(fake, weight).harden(weight)
    integers = hardened.integers
    assert integers is not None
    assert integers.dtype == torch.int8
    assert integers.shape == weight.shape
    assert hardened.bits == bits
    assert hardened.channel_axis == (0 if per_channel else None)
    assert hardened.scale.shape == hardened.zero_point.shape == ((6,) if per_channel else ())
    assert hardened.scale.dtype == torch.float32
    assert hardened.zero_point.dtype == torch.int32
    assert hardened.low <= int(integers.min())
    assert int(integers.max()) <= hardened.high
    assert hardened.low == -(2 ** (bits - 1)) + is_symmetric
    if is_symmetric:
        assert not hardened.zero_point.any()
    shape = (-1, 1, 1, 1) if per_channel else ()
    value = (integers.int() - hardened.zero_point.reshape(shape)) * hardened.scale.reshape(shape)
    torch.testing.assert_close(value, fake(weight), rtol=0, atol=1e-6)
    assert torch.equal(fake(fake(weight)), fake(weight))


def test_a_single_number_is_observed_though_it_has_no_images() -> None:
    fake = observed(UniformFakeQuantizer(activation_spec(), images=4), torch.tensor(0.25))
    torch.testing.assert_close(fake(torch.tensor(0.25)), torch.tensor(0.25))


@given(BITS, st.integers(0, 2**31), st.booleans(), st.sampled_from(ACTIVATION_ESTIMATORS), st.floats(0.01, 100))
def test_an_activation_is_unsigned_and_zero_is_exact(
    bits: int, seed: int, nonnegative: bool, estimator: str, size: float
) -> None:
    x = size * torch.randn(4, 8, 4, 4, generator=torch.Generator().manual_seed(seed))
    x = x.relu() if nonnegative else x
    fake = observed(UniformFakeQuantizer(activation_spec(bits, nonnegative), estimator=estimator), x)
    hardened = fake.harden()
    assert hardened.integers is None
    assert hardened.channel_axis is None
    assert (hardened.low, hardened.high) == (0, 2**bits - 1)
    assert hardened.scale.shape == ()
    assert (int(hardened.zero_point) == 0) == nonnegative
    assert not fake(torch.zeros(3)).any()
    assert len(fake(x).unique()) <= 2**bits


def test_states() -> None:
    x = torch.linspace(-1, 1, 64).reshape(1, 64)
    fake = UniformFakeQuantizer(activation_spec(2), estimator="minmax")
    fake.enabled = False
    assert fake(x) is x  # during a quantization delay, it does nothing
    fake.observing = True
    assert fake(x) is x  # but ranges are still collected
    fake.observing, fake.enabled = False, True
    fake.finish_observing()
    assert len(fake(x).unique()) == 4
    scale = fake.scale.clone()
    fake(10 * x)
    assert torch.equal(fake.scale, scale)  # if it is not observing, ranges do not change


@given(BITS, st.integers(0, 2**31), st.booleans(), st.booleans())
def test_the_gradient_is_one_inside_and_zero_outside(
    bits: int, seed: int, nonnegative: bool, per_channel: bool
) -> None:
    random = torch.Generator().manual_seed(seed)
    fake = observed(
        UniformFakeQuantizer(activation_spec(bits, nonnegative)), torch.randn(2, 50, generator=random).abs() + 0.1
    )
    x = (5 * torch.randn(500, generator=random)).requires_grad_()
    fake(x).sum().backward()
    integers = (x.detach() / fake.scale).round() + fake.zero_point  # like the mask of torch's fake_quantize
    assert torch.equal(x.grad, ((integers >= fake.codes.low) & (integers <= fake.codes.high)).float())
    weight = torch.randn(6, 3, 3, 3, generator=random)
    of_weight = observed(UniformFakeQuantizer(weight_spec(bits), per_channel=per_channel), weight)
    weight = (2 * weight).requires_grad_()
    of_weight(weight).sum().backward()
    assert weight.grad is not None
    assert set(weight.grad.unique().tolist()) == {0.0, 1.0}


def _gradient(fake: UniformFakeQuantizer, x: torch.Tensor) -> torch.Tensor:
    x = x.clone().requires_grad_()
    fake(x).sum().backward()
    assert x.grad is not None
    return x.grad


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("is_symmetric", [True, False])
def test_the_largest_weight_keeps_its_gradient(bits: int, per_channel: bool, is_symmetric: bool) -> None:
    """A range from minimum to maximum contains all values, despite rounding in float32."""
    generator = torch.Generator().manual_seed(bits)
    channels = 1000 if per_channel else 2
    for _ in range(1 if per_channel else 300):
        weight = torch.randn(channels, 2, 3, 3, generator=generator)
        fake = UniformFakeQuantizer(weight_spec(bits, channels), per_channel=per_channel, is_symmetric=is_symmetric)
        assert bool((_gradient(fake, weight) == 1).all())
        # The range is symmetric, so the zero point of an asymmetric grid is a tie, and rounding
        # moves both ends.
        ends = torch.cat([weight, -weight], 1)
        fake = UniformFakeQuantizer(weight_spec(bits, channels), per_channel=per_channel, is_symmetric=is_symmetric)
        assert bool((_gradient(fake, ends) == 1).all())


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("is_symmetric", [True, False])
@pytest.mark.parametrize("nonnegative", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_largest_activation_keeps_its_gradient(
    bits: int, is_symmetric: bool, nonnegative: bool, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(bits)
    for _ in range(50):
        x = torch.rand(4, 25, generator=generator) - 0.0 if nonnegative else torch.randn(4, 25, generator=generator)
        x = x.to(dtype)
        if is_symmetric and not nonnegative:
            x = torch.cat([x, 1.01 * x.abs().max()[None, None].expand(4, 1)], 1)  # the longer side of the signed grid
        fake = UniformFakeQuantizer(activation_spec(bits, nonnegative), is_symmetric=is_symmetric, estimator="minmax")
        found = _gradient(observed(fake, x), x)
        assert bool((found.float()[x == x.max()] == 1).all())


@pytest.mark.parametrize("bits", range(2, 9))
def test_the_gradient_is_that_of_torch(bits: int) -> None:
    """If a clipping range is searched (estimator "mse"), some weights are outside."""
    weight = torch.randn(64, 3, 3, 3)
    fake = observed(UniformFakeQuantizer(weight_spec(bits, 64), estimator="mse"), weight)
    theirs = (1.5 * weight).requires_grad_()
    torch.fake_quantize_per_channel_affine(
        theirs, fake.scale, fake.zero_point, 0, fake.codes.low, fake.codes.high
    ).sum().backward()
    assert theirs.grad is not None
    assert torch.equal(_gradient(fake, 1.5 * weight), theirs.grad)
    assert 0 < float(theirs.grad.mean()) < 1


def test_a_weight_needs_no_calibration() -> None:
    weight = torch.randn(6, 3, 3, 3)
    fresh = UniformFakeQuantizer(weight_spec())
    calibrated = observed(UniformFakeQuantizer(weight_spec()), weight)
    assert torch.equal(fresh.harden(weight).integers, calibrated.harden(weight).integers)
    assert torch.equal(UniformFakeQuantizer(weight_spec())(weight), calibrated(weight))
    with pytest.raises(ValueError, match="float tensor"):
        fresh.harden()


def test_a_dry_run_has_ranges() -> None:
    """It is TensorFlow's initial range: (-6, 6), or (0, 6) after a ReLU."""
    signed = UniformFakeQuantizer(activation_spec()).harden()
    assert float(signed.scale) == pytest.approx(12 / 255)
    assert int(signed.zero_point) == 128
    unsigned = UniformFakeQuantizer(activation_spec(nonnegative=True)).harden()
    assert float(unsigned.scale) == pytest.approx(6 / 255)
    assert int(unsigned.zero_point) == 0
    untouched = observed(UniformFakeQuantizer(activation_spec()))  # a branch that was not run in calibration
    assert torch.equal(untouched.scale, signed.scale)


def test_only_a_limited_number_of_images_is_observed() -> None:
    x = torch.arange(10.0).reshape(10, 1)
    fake = observed(UniformFakeQuantizer(activation_spec(), estimator="minmax", images=6), x[:4], x[4:8], x[8:])
    assert float(fake.harden().scale) == pytest.approx(5 / 255)


def test_a_range_that_is_not_finite_fails_the_trial() -> None:
    with pytest.raises(TrialFailed, match="relu"):
        observed(UniformFakeQuantizer(activation_spec()), torch.tensor([[math.nan]]))
    with pytest.raises(TrialFailed, match=r"conv\.weight"):
        UniformFakeQuantizer(weight_spec())(torch.full((6, 3, 3, 3), math.inf))


def test_dead_channels_stay_zero() -> None:
    weight = torch.randn(6, 3, 3, 3)
    weight[2] = 0.0
    for is_symmetric in (True, False):
        for estimator in WEIGHT_ESTIMATORS:
            fake = UniformFakeQuantizer(weight_spec(), is_symmetric=is_symmetric, estimator=estimator)
            assert not fake(weight)[2].any()
            assert bool(torch.isfinite(fake(weight)).all())
            hardened = fake.harden(weight)
            assert bool((hardened.scale > 0).all())


def test_a_state_dict_carries_the_ranges_and_nothing_else() -> None:
    weight = torch.randn(6, 3, 3, 3)
    for spec, values in ((weight_spec(), weight), (activation_spec(), 3 * weight)):
        old, new = observed(UniformFakeQuantizer(spec), values), UniformFakeQuantizer(spec)
        assert set(old.state_dict()) == {"scale", "zero_point"}
        new.load_state_dict(old.state_dict())
        assert torch.equal(new(10 * values), old(10 * values))  # it is not fitted again to the first tensor


@pytest.mark.parametrize("is_symmetric", [True, False])
def test_wrong_arguments_are_named(is_symmetric: bool) -> None:
    with pytest.raises(ValueError, match="entropy"):
        UniformFakeQuantizer(weight_spec(), is_symmetric=is_symmetric, estimator="entropy")
    with pytest.raises(ValueError, match="bits"):
        UniformFakeQuantizer(weight_spec(1), is_symmetric=is_symmetric)
    with pytest.raises(ValueError, match="bits"):
        UniformFakeQuantizer(activation_spec(9), is_symmetric=is_symmetric)


def test_symmetric_activations_have_zero_in_the_middle() -> None:
    fake = observed(UniformFakeQuantizer(activation_spec(), is_symmetric=True), torch.tensor([[-1.0, 1.27]]))
    hardened = fake.harden()
    assert int(hardened.zero_point) == 128
    assert float(hardened.scale) == pytest.approx(0.01)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bit_tensors_take_the_levels_of_the_same_values_in_float32(dtype: torch.dtype) -> None:
    """Autocast gives such activations.

    The grid of the file has a float32 step, which 16 bits cannot represent.
    """
    x, scale, zero = (torch.rand(4096) * 8 - 1).to(dtype), torch.tensor(0.0237), torch.tensor(37)
    wide, narrow = x.float().requires_grad_(), x.clone().requires_grad_()
    expected, found = fake_quant(wide, scale, zero, 0, 255), fake_quant(narrow, scale, zero, 0, 255)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    expected.sum().backward()
    found.sum().backward()
    assert wide.grad is not None
    assert torch.equal(narrow.grad, wide.grad.to(dtype))
