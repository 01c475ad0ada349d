"""Rules for every method: its name, its check of a job, its space."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping

from torch import nn

from autocompress.contract import Method, Parameter, Params, Space, Transform, Value
from autocompress.contract.space import Chooser
from autocompress.errors import InvalidRecipe
from autocompress.job import Job
from autocompress.recipes.choosers import Policy
from autocompress.testing.networks import other_weights
from autocompress.testing.rules import fingerprint, require, same_tensors, through_json

RANDOM_RECIPES = 8
BRIEF = 12
"""The largest counts (images, iterations) in the recipe that checks a data source."""


def by_rule(rule: str) -> Chooser:
    """Chooses "default", "cheapest" or "neutral" everywhere."""
    return Policy({}, otherwise=rule)


class Draw:
    """Draws random values by a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def choose(self, parameter: Parameter) -> Value:
        if parameter.choices:
            return self._random.choice(parameter.choices)
        assert parameter.low is not None
        assert parameter.high is not None
        if parameter.is_integer:
            return self._random.randrange(int(parameter.low), int(parameter.high) + 1, int(parameter.step or 1))
        return self._random.uniform(parameter.low, parameter.high)


class Repeat:
    """Gives the values of an earlier run."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        self._values = values

    def choose(self, parameter: Parameter) -> Value:
        require(
            parameter.name in self._values,
            f"search_space must ask for the same parameters for the same values: {parameter.name} is new",
        )
        return self._values[parameter.name]


class _Checked:
    """Checks a parameter before a chooser gets it."""

    def __init__(self, chooser: Chooser) -> None:
        self._chooser = chooser

    def choose(self, parameter: Parameter) -> Value:
        _check_parameter(parameter)
        return self._chooser.choose(parameter)


def ask(
    method: Method, model: nn.Module, chooser: Chooser, limits: Mapping[str, Value] | None = None
) -> tuple[Params, Space]:
    """Runs the space of the method once, as the engine does, and checks each parameter.

    Args:
        limits: limits of a job, by full name.
    """
    space = Space(_Checked(chooser), limits=limits)
    inner = space.scope(method.name)
    params = method.search_space(inner, model)
    return params, space


def random_recipes(method: Method, model: nn.Module) -> Iterator[tuple[Params, Space]]:
    """A few random points of the space that the method accepts."""
    for seed in range(RANDOM_RECIPES):
        try:
            yield ask(method, model, Draw(seed))
        except InvalidRecipe:
            continue


def named_recipes(method: Method, model: nn.Module) -> Iterator[tuple[Params, Space]]:
    """The defaults with each value that samplers never draw (``named`` of a parameter)."""
    _, defaults = ask(method, model, by_rule("default"))
    for name, parameter in defaults.asked.items():
        for value in parameter.named:
            try:
                yield ask(method, model, by_rule("default"), {name: value})
            except InvalidRecipe:
                continue


def brief_recipe(method: Method, model: nn.Module) -> Params:
    """The defaults, with smaller whole numbers where only a job would change them.

    These are counts of images and iterations. With their defaults, a data source takes minutes.
    """
    params, space = ask(method, model, by_rule("default"))
    limits: dict[str, Value] = {}
    for name, value in space.chosen.items():
        if not isinstance(value, int) or isinstance(value, bool) or value <= BRIEF:
            continue
        if len(space.asked[name].choices) != 1:  # a search draws it
            continue
        try:
            params, _ = ask(method, model, by_rule("default"), {**limits, name: BRIEF})
        except (InvalidRecipe, ValueError):  # it is outside of the range
            continue
        limits[name] = BRIEF
    return params


def check_identity(method: Method) -> None:
    """Checks name, version and reference."""
    for attribute in ("name", "version", "reference", "kind"):
        value = getattr(method, attribute, None)
        require(
            isinstance(value, str) and bool(value),
            f"a method must have a {attribute} that is not empty",
        )
    require(
        method.name.isidentifier() and method.name == method.name.lower(),
        f"the name must have only lower-case letters, digits and underscores, as a prefix: {method.name!r}",
    )


def check_refusals(method: Method, model: nn.Module, job: Job) -> None:
    """Checks that ``check`` returns a list of reasons."""
    reasons = method.check(model, job)
    require(
        isinstance(reasons, list) and all(isinstance(reason, str) and reason for reason in reasons),
        f"check must return a list of reasons, not {reasons!r}",
    )
    require(not reasons, f"the method must apply to the model of this check, but: {reasons}")


def check_space(method: Method, model: nn.Module) -> None:
    """Checks that every point of the space is JSON and repeatable, and that nothing is changed."""
    before = fingerprint(model)
    points = [ask(method, model, by_rule(rule)) for rule in ("default", "cheapest", "neutral")]
    for params, space in [*points, *random_recipes(method, model), *named_recipes(method, model)]:
        through_json(params, "params")
        require(isinstance(params, dict), f"search_space must return a dict, not {type(params).__name__}")
        again, repeated = ask(method, model, Repeat(space.chosen))
        require(
            again == params and repeated.chosen == space.chosen,
            "search_space must return the same params for the same values",
        )
    require(same_tensors(before, fingerprint(model)), "search_space and check must leave the model as it is")
    _, asked = points[0]
    _, other = ask(method, other_weights(model), by_rule("default"))
    require(
        asked.asked == other.asked,
        "search_space must ask for the same parameters whatever the weights are: a recipe must fit every network of "
        "one structure",
    )
    if isinstance(method, Transform):
        require(
            not method.acts(copy.deepcopy(points[2][0])),
            "one choice must leave the model unchanged: acts() must be False where all parameters are neutral"
            " (give neutral=, or a choice 'none')",
        )
        require(method.acts(points[0][0]), "the defaults must have an effect, but acts() is False for them")


def _check_parameter(parameter: Parameter) -> None:
    for role, value in (
        ("default", parameter.default),
        ("cheapest", parameter.cheapest),
        ("neutral", parameter.neutral),
    ):
        drawn = parameter.contains(value) and value not in parameter.named
        require(
            value is None or drawn,
            f"{parameter.name}: its {role} value {value!r} is not one of {parameter.describe()}, which a search draws",
        )
    require(
        not parameter.named or bool(parameter.choices),
        f"{parameter.name}: values that only a job can name need choices that a search can draw",
    )
    require(
        not set(parameter.named) & set(parameter.choices),
        f"{parameter.name}: a value is either drawn or named by a job, not both",
    )
    require(
        all(isinstance(choice, str | int | float | bool) for choice in (*parameter.choices, *parameter.named)),
        f"{parameter.name}: choices must be text, numbers or booleans; 'none', not None",
    )
