"""Typical mistakes of authors of pruners. The docstring of each class is the rule that is named."""

from __future__ import annotations

import numpy as np
import pytest
from small_networks import TWO_BLOCKS
from torch import nn

from autocompress.contract import Context, Coupling, Params, Pruner
from autocompress.testing import ContractViolation, check_method, example_model


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return example_model(args=TWO_BLOCKS)


class FirstFirst(Pruner):
    name, version, reference = "firstfirst", "1", "none"

    def order(self, coupling: Coupling, params: Params, context: Context) -> list[int]:
        return list(coupling.ranked(range(coupling.channels)))


class LeavesAHookBehind(FirstFirst):
    """orders must leave context.model as it is: hooks"""

    def order(self, coupling: Coupling, params: Params, context: Context) -> list[int]:
        assert context.model is not None
        context.model.register_forward_hook(lambda *_: None)
        return super().order(coupling, params, context)


class OrdersAtRandom(FirstFirst):
    """the orders must be equal for equal context.seed"""

    def order(self, coupling: Coupling, params: Params, context: Context) -> list[int]:
        return list(coupling.ranked(np.random.rand(coupling.channels).tolist()))


def test_a_correct_pruner_conforms(model: nn.Module) -> None:
    check_method(FirstFirst(), model)


@pytest.mark.parametrize("broken", [LeavesAHookBehind, OrdersAtRandom], ids=lambda broken: broken.__name__)
def test_a_mistake_of_a_pruner_is_found(broken: type[Pruner], model: nn.Module) -> None:
    assert broken.__doc__
    with pytest.raises(ContractViolation, match=broken.__doc__):
        check_method(broken(), model)
