"""Space: the parameters of a method, limits of a user, and chosen values."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from autocompress.contract import Parameter, Space, Value
from autocompress.contract.space import LimitError, narrow
from autocompress.errors import InvalidRecipe
from autocompress.recipes.choosers import Replay
from autocompress.testing.spaces import Draw


class Fixed:
    """A chooser that returns given values, or defaults."""

    def __init__(self, **values: Value) -> None:
        self.values = values
        self.seen: list[str] = []

    def choose(self, parameter: Parameter) -> Value:
        self.seen.append(parameter.name)
        return self.values.get(parameter.name.replace(".", "_"), parameter.default)


def test_names_are_prefixed_and_values_remembered() -> None:
    space = Space(Fixed(ghost_ratio_layer3=4))
    ghost = space.scope("ghost")
    assert ghost.integer("ratio.layer3", 1, 4, default=2, cheapest=4) == 4
    assert ghost.scope("inner").categorical("kernel", [1, 3], default=3, structural=False) == 3
    assert space.float("rate", 0, 1, default=0.5) == 0.5
    assert space.chosen == {"ghost.ratio.layer3": 4, "ghost.inner.kernel": 3, "rate": 0.5}
    assert list(space.asked) == list(space.chosen)
    assert space.asked["ghost.ratio.layer3"].cheapest == 4
    assert [name for name, asked in space.asked.items() if not asked.structural] == ["ghost.inner.kernel"]


def test_values_have_the_requested_types() -> None:
    space = Space(Fixed())
    assert type(space.integer("i", 1, 3, default=2)) is int
    assert type(space.float("f", 1, 3, default=2)) is float
    assert space.asked["i"].is_integer
    assert not space.asked["f"].is_integer


def test_a_value_out_of_range_is_an_invalid_recipe() -> None:
    for chooser, ask in (
        (Fixed(n=9), lambda s: s.integer("n", 1, 3, default=2)),
        (Fixed(n=True), lambda s: s.integer("n", 0, 3, default=2)),
        (Fixed(n="c"), lambda s: s.categorical("n", ["a", "b"], default="a")),
        (Fixed(n=1), lambda s: s.categorical("n", [True, False], default=True)),
    ):
        with pytest.raises(InvalidRecipe, match=r"^n cannot be "):
            ask(Space(chooser))


def test_a_fixed_parameter_does_not_reach_the_chooser() -> None:
    chooser = Fixed()
    space = Space(chooser, limits={"ratio": 3})
    assert space.integer("ratio", 1, 4, default=2) == 3
    assert space.chosen == {"ratio": 3}
    assert chooser.seen == []


def test_a_parameter_that_is_not_searched_has_its_default_unless_limited() -> None:
    chooser = Fixed()
    space = Space(chooser, limits={"wide": {"low": 2, "high": 3}, "fixed": 7})
    assert space.integer("plain", 1, 9, default=4, searched=False) == 4
    assert space.integer("fixed", 1, 9, default=4, searched=False) == 7
    assert space.asked["plain"].choices == (4,)
    space.integer("wide", 1, 9, default=2, searched=False)
    assert (space.asked["wide"].low, space.asked["wide"].high) == (2, 3)


MODES = {"choices": ["inner", "group"], "default": "inner", "cheapest": "group", "named": ["scatter"]}


@pytest.mark.parametrize(
    ("limits", "left", "default", "cheapest"),
    [
        ({}, ("inner", "group"), "inner", "group"),
        ({"mode": "scatter"}, ("scatter",), "scatter", "scatter"),
        ({"mode": ["inner", "scatter"]}, ("inner", "scatter"), "inner", "inner"),
        ({"mode": ["group", "inner"]}, ("group", "inner"), "inner", "group"),
    ],
)
def test_a_named_choice_is_only_drawn_if_a_limit_names_it(
    limits: dict[str, Any], left: tuple[str, ...], default: str, cheapest: str
) -> None:
    space = Space(Replay({}), limits=limits)
    assert space.categorical("mode", **MODES) == default
    asked = space.asked["mode"]
    assert (asked.choices, asked.default, asked.cheapest) == (left, default, cheapest)
    for seed in range(20):
        assert Space(Draw(seed), limits=limits).categorical("mode", **MODES) in left


def test_a_recipe_may_use_a_named_choice_unless_the_job_excludes_it() -> None:
    replay = Replay({"mode": "scatter"})
    assert Space(replay).categorical("mode", **MODES) == "scatter"
    with pytest.raises(InvalidRecipe, match=r"^mode cannot be 'scatter': inner \| group$"):
        Space(replay, limits={"mode": ["inner", "group"]}).categorical("mode", **MODES)


def test_an_error_about_an_unknown_choice_lists_the_named_ones() -> None:
    with pytest.raises(LimitError, match=r"it takes inner \| group \(or scatter, where a job names it\)"):
        Space(Replay({}), limits={"mode": "scater"}).categorical("mode", **MODES)


def test_a_limit_without_group_is_for_all_groups_and_the_longest_name_wins() -> None:
    space = Space(Fixed(), limits={"ghost.ratio": 4, "ghost.ratio.layer3": [1, 2], "ghost.ratios": 9, "ghost.r": 9})
    ghost = space.scope("ghost")
    values = [ghost.integer(f"ratio.{group}", 1, 4, default=2) for group in ("layer1", "layer2", "layer3")]
    assert values == [4, 4, 2]
    assert space.asked["ghost.ratio.layer3"].choices == (1, 2)
    assert space.matched == {"ghost.ratio", "ghost.ratio.layer3"}


def test_scopes_share_chosen_values() -> None:
    space = Space(Fixed(), limits={"a.x": 1})
    space.scope("a").categorical("x", [1, 2], default=2)
    assert space.matched == {"a.x"}
    assert "a.x" in space.asked


@pytest.mark.parametrize(
    ("limit", "left"),
    [
        ({"low": 2}, (2, 8)),
        ({"high": 3}, (1, 3)),
        ({"low": 2, "high": 3}, (2, 3)),
    ],
)
def test_a_range_is_restricted(limit: dict[str, int], left: tuple[int, int]) -> None:
    parameter = narrow(Parameter("n", 5, low=1, high=8, cheapest=8), limit)
    assert (parameter.low, parameter.high) == left
    assert parameter.default == min(5, left[1])
    assert parameter.cheapest == left[1]
    assert parameter.is_integer


@pytest.mark.parametrize(
    ("parameter", "limit"),
    [
        (Parameter("n", 2, low=1, high=8), 9),
        (Parameter("n", 2, low=1, high=8), {"low": 0}),
        (Parameter("n", 2, low=1, high=8), {"low": 5, "high": 3}),
        (Parameter("n", 2, low=1, high=8), {"lo": 3}),
        (Parameter("n", 2, low=1, high=8), []),
        (Parameter("n", 2, low=1, high=8), None),
        (Parameter("n", 2, low=1, high=8), True),
        (Parameter("n", 2, low=1, high=8), 2.5),
        (Parameter("n", 2, low=1, high=8), {"low": 1.5}),
        (Parameter("f", 0.5, low=0.0, high=1.0), "half"),
        (Parameter("c", "a", choices=("a", "b")), "c"),
        (Parameter("c", "a", choices=("a", "b")), ["a", "c"]),
        (Parameter("c", "a", choices=("a", "b")), {"low": 1}),
        (Parameter("c", 1, choices=(1, 2)), True),
    ],
)
def test_a_limit_that_does_not_fit_is_refused(parameter: Parameter, limit: Any) -> None:
    with pytest.raises(LimitError) as caught:
        narrow(parameter, limit)
    assert caught.value.name == parameter.name


def test_default_and_cheapest_are_within_limits() -> None:
    parameter = Parameter("bits", "quantize:8", choices=("none", "quantize:8", "quantize:4"), cheapest="quantize:4")
    left = narrow(parameter, ["none", "quantize:8"])
    assert left.choices == ("none", "quantize:8")
    assert (left.default, left.contains(left.cheapest)) == ("quantize:8", True)
    assert narrow(Parameter("n", 4, low=1, high=8), [1, 3, 8]).default == 3


@given(st.integers(-5, 5), st.integers(0, 9), st.integers(-5, 14), st.integers(-5, 14))
def test_restricting_an_integer_keeps_the_common_values(low: int, width: int, start: int, end: int) -> None:
    parameter = Parameter("n", low, low=low, high=low + width, cheapest=low + width)
    if not low <= start <= end <= low + width:
        with pytest.raises(LimitError):
            narrow(parameter, {"low": start, "high": end})
        return
    left = narrow(parameter, {"low": start, "high": end})
    for value in range(-6, 16):
        assert left.contains(value) == (start <= value <= end)
    assert left.contains(left.default)
    assert left.contains(left.cheapest)


@given(st.lists(st.text(max_size=3) | st.integers(0, 3) | st.booleans(), min_size=1, max_size=5), st.data())
def test_restricting_choices_keeps_the_common_values(choices: list[Value], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(choices), min_size=1))
    parameter = Parameter("c", choices[0], choices=tuple(choices), cheapest=choices[-1], neutral=choices[0])
    left = narrow(parameter, chosen)
    for value in choices:
        inside = any(value == kept and type(value) is type(kept) for kept in chosen)
        assert left.contains(value) == inside
    assert all(left.contains(value) for value in (left.default, left.cheapest, left.neutral))


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_two_restrictions_keep_the_common_values(low: float, high: float, value: float) -> None:
    assume(low <= high)
    parameter = Parameter("f", 0.5, low=0.0, high=1.0)
    left = narrow(narrow(parameter, {"low": low}), {"high": high})
    assert left == narrow(parameter, {"low": low, "high": high}) or left.default in (low, high)
    assert left.contains(value) == (low <= value <= high)


def test_descriptions_and_neutral_values() -> None:
    assert Parameter("c", 2, choices=(2, 3)).describe() == "2 | 3"
    assert Parameter("f", 0.1, low=0.0, high=0.7, log=True).describe() == "0.0 .. 0.7 (log)"
    assert Parameter("c", "a", choices=("a", "none")).leaves_alone() == "none"
    assert Parameter("n", 4, low=1, high=8, neutral=1).leaves_alone() == 1
    assert Parameter("n", 4, low=1, high=8).leaves_alone() == 4


def test_groups_follow_the_granularity() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    assert Space(Fixed(), "model").groups(model) == ["model"]
