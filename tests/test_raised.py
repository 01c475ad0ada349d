"""The names of the plugins that raise exceptions, and the places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from autocompress.compression.prune import orders_of
from autocompress.contract import Context, Coupling, Params, Pruner
from autocompress.contract.raised import raised
from autocompress.recipes.pruning import prunable
from autocompress.testing import example_context, example_model


class Raises(Pruner):
    """Has a mistake, in a function beside the class."""

    name, version, reference = "p_raise", "1", "none"

    def order(self, coupling: Coupling, params: Params, context: Context) -> list[int]:
        return scored({})


class Passes(Raises):
    """Gives a wrong score to the engine."""

    def order(self, coupling: Coupling, params: Params, context: Context) -> list[int]:
        return coupling.ranked([float("nan")] * coupling.channels)


def scored(scores: dict[int, Any]) -> list[int]:
    return [scores[0]]


@pytest.mark.parametrize(
    ("pruner", "error", "function"),
    [(Raises(), "KeyError: 0", "scored"), (Passes(), "ValueError: ", "order")],
)
def test_the_method_and_its_place_are_named(pruner: Pruner, error: str, function: str, model: nn.Module) -> None:
    with pytest.raises((KeyError, ValueError)) as found:
        orders_of(pruner, prunable(model, "group"), {}, example_context(model))
    told = raised(found.value)
    assert told.startswith(f"the pruner 'p_raise' raised {error}")
    assert told.endswith(f", {function})")
    assert f"({Path(__file__).name}:" in told


def test_an_exception_of_the_engine_names_nothing() -> None:
    with pytest.raises(ZeroDivisionError) as found:
        _ = 1 / 0
    assert raised(found.value) == "ZeroDivisionError: division by zero"
    assert raised(ValueError()) == "ValueError"


@pytest.fixture
def model() -> nn.Module:
    return example_model()
