"""The conformance suite for quantizers and data sources."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autocompress.contract import (
    Context,
    DataSource,
    FakeQuantizer,
    Hardened,
    Params,
    Quantizer,
    Space,
    TensorSpec,
    TransferSet,
)
from autocompress.data import TensorSplit
from autocompress.testing import ContractViolation, check_method, check_quantizer, example_model


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return example_model()


# --- quantizers -----------------------------------------------------------------------------------


class Fixed(FakeQuantizer):
    """A grid with a fixed step. Without ``rounds``, values are not on the grid of ``harden``."""

    rounds = True
    dtype = torch.int8

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.observing or not self.enabled:
            return x
        on_grid = (x / 0.05).round().clamp(-127, 127) * 0.05
        return x + (on_grid - x).detach() if self.rounds else x * 1.0

    def harden(self, weight: torch.Tensor | None = None) -> Hardened:
        assert weight is not None
        integers = (weight / 0.05).round().clamp(-127, 127).to(self.dtype)
        zero = torch.zeros((), dtype=torch.int32)
        return Hardened(torch.tensor(0.05), zero, -127, 127, 8, integers)


class FixedQuantizer(Quantizer):
    name, version, reference = "fixed", "1", "none"
    activation_bits = ()
    fake: type[FakeQuantizer] = Fixed

    def search_space(self, space: Space, model: nn.Module) -> Params:
        return {}

    def apply(self, spec: TensorSpec, params: Params, context: Context) -> FakeQuantizer:
        return self.fake(spec)


class NotOnTheGrid(Fixed):
    """so that file and model agree"""

    rounds = False


class WideIntegers(Fixed):
    """must be int8"""

    dtype = torch.int32


class QuantizesWhileObserving(Fixed):
    """while observing"""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.round()


class NoGradient(Fixed):
    """a finite gradient must reach"""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).detach().requires_grad_() if self.enabled else x


def test_a_plain_quantizer_conforms(model: nn.Module) -> None:
    check_method(FixedQuantizer(), model)


@pytest.mark.parametrize("broken", [NotOnTheGrid, WideIntegers, QuantizesWhileObserving, NoGradient])
def test_a_faulty_quantizer_is_told_its_rule(broken: type[FakeQuantizer], model: nn.Module) -> None:
    method = FixedQuantizer()
    method.fake = broken
    assert broken.__doc__
    with pytest.raises(ContractViolation, match=broken.__doc__):
        check_quantizer(method, model)


# --- data sources ---------------------------------------------------------------------------------


class Noise(DataSource):
    name, version, reference = "noise", "1", "none"

    def search_space(self, space: Space, model: nn.Module) -> Params:
        return {"images": space.integer("images", 8, 64, default=16, structural=False)}

    def apply(
        self, teacher: nn.Module, params: Params, context: Context, student: nn.Module | None = None
    ) -> TransferSet:
        generator = torch.Generator().manual_seed(self.seed(context))
        images = torch.randn(params["images"], *context.input_size, generator=generator)
        assert context.transfer is not None
        split = TensorSplit(images, torch.zeros(len(images), dtype=torch.int64), context.transfer.train.info)
        with torch.no_grad():
            return TransferSet(
                split, split, split.digest, soft_targets=teacher(images.to(context.device)).cpu(), labelled=False
            )

    def seed(self, context: Context) -> int:
        return context.seed


class NewEachTime(Noise):
    """equal context.seed must give equal digests"""

    def seed(self, context: Context) -> int:
        return int(torch.randint(1 << 30, ()))


def test_a_data_source_conforms(model: nn.Module) -> None:
    check_method(Noise(), model)


def test_a_data_source_that_ignores_the_seed_is_told(model: nn.Module) -> None:
    with pytest.raises(ContractViolation, match=NewEachTime.__doc__):
        check_method(NewEachTime(), model)
