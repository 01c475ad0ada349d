"""Networks whose tensors are not plain: computed, of other types, lazy, sparse or empty."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from autocompress.channels.couplings import couplings
from autocompress.models.plain import made_plain, unusable_tensor

SIZE = (3, 8, 8)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 4)]
    return nn.Sequential(*layers).eval()


@pytest.mark.parametrize(
    "compute",
    [
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        parametrizations.orthogonal,
        weight_norm,
        spectral_norm,
        lambda layer: prune.random_unstructured(layer, "weight", 0.5),
    ],
    ids=["weight_norm", "spectral_norm", "orthogonal", "old_weight_norm", "old_spectral_norm", "prune"],
)
def test_computed_weights_become_parameters(compute: Callable[[nn.Module], nn.Module]) -> None:
    model = network()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compute(model[0])
        compute(model[3])
    model.eval()
    images = torch.randn(2, *SIZE)
    before = model(images)
    assert torch.allclose(made_plain(model)(images), before, atol=1e-5)
    assert set(dict(model.named_parameters())) == set(dict(network().named_parameters()))
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_tensors_become_float32() -> None:
    model = network().double()
    model.register_buffer("scale", torch.ones(1, dtype=torch.float16))
    made_plain(model)
    assert {tensor.dtype for tensor in model.state_dict().values() if tensor.is_floating_point()} == {torch.float32}
    assert model[1].num_batches_tracked.dtype == torch.int64


@pytest.mark.parametrize(
    ("name", "layer", "fault"),
    [
        ("5", nn.LazyLinear(4), "'5.weight' has no shape yet"),
        ("1", nn.LazyBatchNorm2d(), "'1.weight' has no shape yet"),
        ("3", nn.Conv2d(8, 8, 3, device="meta"), "'3.weight' is on the device 'meta'"),
    ],
)
def test_tensors_without_values_are_named(name: str, layer: nn.Module, fault: str) -> None:
    model = network()
    model.set_submodule(name, layer)
    assert unusable_tensor(network()) == ""
    assert fault in unusable_tensor(model)


def test_a_sparse_buffer_is_named_even_if_it_is_not_saved() -> None:
    model = network()
    model.register_buffer("edges", torch.eye(4).to_sparse(), persistent=False)
    assert unusable_tensor(model) == "'edges' is sparse"


class Complex(nn.Module):
    """Its forward names a type, so that it does not run in double precision."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.next, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 4)
        self.turn = nn.Parameter(torch.randn(8, 8, dtype=torch.complex64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.next(self.conv(x)).mean((2, 3))
        return self.fc((x.to(torch.complex64) @ self.turn).abs())


def test_couplings_that_cannot_be_checked_in_double_precision_are_refused() -> None:
    found = couplings(Complex().eval(), SIZE, "group")
    assert not any(coupling.prunable for coupling in found)
    assert any("does not run in double precision" in reason for c in found for reason in c.reasons)
