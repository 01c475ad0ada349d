"""Recipe: the parameters of all methods for one trial, composed from what every stage asks of the
space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from autocompress.compression import prune, qat, recover, repair
from autocompress.compression.prune import Pruning
from autocompress.contract import (
    DataSource,
    Method,
    Parameter,
    Params,
    Preparing,
    Pruner,
    Quantizer,
    Space,
    Stage,
    Transform,
    Value,
)
from autocompress.contract.space import Chooser
from autocompress.errors import InvalidRecipe
from autocompress.files import canonical_json, digest


@dataclass(frozen=True)
class GroupBits:
    """What QUANTIZE does to one group: the weight quantizer and its width, the activation quantizer
    and its width.
    """

    weight_quantizer: str
    weight_bits: int
    activation_quantizer: str
    activation_bits: int


@dataclass(frozen=True)
class Recipe:
    """One point of the space.

    Attributes:
        values: every parameter by full name: what is stored, shown and replayed.
        structural: those of them that change the deployed structure.
        source: (name, parameters) of the data source; None where the user's images are used.
        transforms: (method name, parameters) of the transforms that act, in order.
        prune: what PRUNE is asked; None where no channel goes.
        repair: parameters of REPAIR; empty where nothing is pruned or substituted.
        recover: parameters of RECOVER.
        bits: by group; a group that stays in float is absent.
        quantizers: parameters of the quantizers that act, by name.
        qat: parameters of QUANTIZE's training.
    """

    values: Mapping[str, Value]
    structural: Mapping[str, Value] = field(default_factory=dict)
    source: tuple[str, Params] | None = None
    transforms: Sequence[tuple[str, Params]] = ()
    prune: Pruning | None = None
    repair: Params = field(default_factory=dict)
    recover: Params = field(default_factory=dict)
    bits: Mapping[str, GroupBits] = field(default_factory=dict)
    quantizers: Mapping[str, Params] = field(default_factory=dict)
    qat: Params = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Content key of the whole recipe."""
        return digest(dict(self.values))

    @property
    def trains(self) -> bool:
        """Whether making the candidate may take long: it trains, or a transform acts."""
        return bool(self.transforms or self.recover.get("epochs") or self.qat.get("epochs"))

    @property
    def structural_key(self) -> str:
        """Content key of the deployed structure: recipes that share it share their latency."""
        return digest(dict(self.structural))


def compose(space: Space, model: nn.Module, methods: Sequence[Method], epochs: int) -> Recipe:
    """Runs the whole define-by-run space once: data source, SUBSTITUTE, PRUNE, RECOVER, QUANTIZE.

    Args:
        space: where values come from; not scoped.
        model: the baseline.
        methods: those that apply, in the manager's order.
        epochs: the most that recovery may train.

    Raises:
        InvalidRecipe: for methods that exclude each other, that need more epochs than there are, or
            whose ``search_space`` does not give a mapping of JSON values.
    """
    source = compose_source(space, model, methods)
    labelled = source is None  # labels of made images are not trained on
    of_source = set(space.chosen)
    acting: list[tuple[Transform, Params]] = []
    for method in methods:
        if isinstance(method, Transform):
            params = params_of(method, space, model)
            if method.acts(params):
                acting.append((method, params))
    settings: Params = {}
    repaired: Params = {}
    impossible: InvalidRecipe | None = None
    pruning: Pruning | None = None
    pruners = [method for method in methods if isinstance(method, Pruner)]
    if pruners:
        try:
            pruning = prune.search_space(space, model, pruners)
        except InvalidRecipe as error:
            impossible = error
    changing: list[Preparing] = [method for method, _ in acting]
    changing += [method for method in pruners if pruning is not None and method.name == pruning.method]
    if changing:
        repaired = repair.search_space(space)
        try:
            refitted = not acting and repaired["fit"] != "none"
            settings = recover.search_space(
                space.scope("recover"), changing, epochs, labelled=labelled, refitted=refitted
            )
        except InvalidRecipe as error:
            impossible = error
    bits = _compose_bits(space.scope("bits"), model, [m for m in methods if isinstance(m, Quantizer)])
    used = {name for group in bits.values() for name in (group.weight_quantizer, group.activation_quantizer)}
    quantizers = [method for method in methods if isinstance(method, Quantizer) and method.name in used]
    quantizer_params = {method.name: params_of(method, space, model) for method in quantizers}
    training: Params = {}
    if quantizers:
        is_low = any(min(group.weight_bits, group.activation_bits) < 8 for group in bits.values())
        try:
            training = qat.search_space(space.scope("qat"), quantizers, epochs, is_low=is_low, labelled=labelled)
        except InvalidRecipe as error:
            impossible = error
    # Judged last, so that an invalid recipe, too, has asked for all of its parameters.
    if impossible is not None:
        raise impossible
    _reject_clashes([method for method, _ in acting], pruning)
    if not any(method.prepares for method, _ in acting):
        of_source = set()  # else scores made on the source's images decide the structure
    return Recipe(
        values=dict(space.chosen),
        structural={
            name: value for name, value in space.chosen.items() if space.asked[name].structural or name in of_source
        },
        source=source,
        transforms=[(method.name, params) for method, params in acting],
        prune=pruning,
        repair=repaired,
        recover=settings,
        bits=bits,
        quantizers=quantizer_params,
        qat=training,
    )


SOURCE = "source"
"""The parameter that names the data source; the source's own parameters have its name before them.
"""


def compose_source(space: Space, model: nn.Module, methods: Sequence[Method]) -> tuple[str, Params] | None:
    """The data source of a recipe, of those in ``methods``, and its parameters; None where there
    are none.
    """
    sources = {method.name: method for method in methods if isinstance(method, DataSource)}
    if not sources:
        return None
    # The first stands for all in starting points; the manager's order is as good as any.
    name = space.categorical(SOURCE, list(sources), default=next(iter(sources)), structural=False)
    return name, params_of(sources[name], space, model)


def params_of(method: Method, space: Space, model: nn.Module) -> Params:
    """The parameters that ``method`` takes from ``space``, which is not scoped.

    Raises:
        InvalidRecipe: if its ``search_space`` gives anything but a mapping of JSON values: they are
            part of the content key of a trial's results.
    """
    params: object = method.search_space(space.scope(method.name), model)
    if not isinstance(params, Mapping):
        gives = "nothing" if params is None else f"a {type(params).__name__}"
        raise InvalidRecipe(f"the search_space of '{method.name}' returns {gives} where a mapping is needed")
    try:
        canonical_json(params)
    except TypeError as error:
        raise InvalidRecipe(f"the search_space of '{method.name}' returns what is not JSON: {error}") from None
    return dict(params)


def _reject_clashes(acting: Sequence[Transform], pruning: Pruning | None) -> None:
    for method in acting:
        for other in acting:
            if method is not other and method.excludes & other.provides:
                raise InvalidRecipe(f"{method.name} cannot act together with {other.name}")
    pruners = [method.name for method in acting if method.stage is Stage.PRUNE]
    pruners += [] if pruning is None else [pruning.method]
    if len(pruners) > 1:
        raise InvalidRecipe(f"only one pruning method may act, not {' and '.join(pruners)}")


def _compose_bits(space: Space, model: nn.Module, quantizers: Sequence[Quantizer]) -> dict[str, GroupBits]:
    """Each group chooses "none" or a weight quantizer and its width, then the width of its
    activations.
    """
    activation_quantizer = next((q for q in quantizers if q.activation_bits), None)
    if not quantizers or activation_quantizer is None:
        return {}
    widths = {f"{q.name}:{bits}": (q, bits) for q in quantizers for bits in q.weight_bits}
    cheapest = min(widths, key=lambda choice: widths[choice][1])
    recommended = min(widths, key=lambda choice: (abs(widths[choice][1] - 8), choice))
    chosen: dict[str, GroupBits] = {}
    for group in space.groups(model):
        choice = space.categorical(
            f"weight.{group}",
            ["none", *widths],
            default=recommended,
            cheapest=cheapest,
            neutral="none",
            scope="group",
            axis="weight bits",
        )
        if choice == "none":
            continue
        quantizer, bits = widths[choice]
        of_activations = quantizer if quantizer.activation_bits else activation_quantizer
        offered = list(of_activations.activation_bits)
        activation_bits = space.categorical(
            f"activation.{group}",
            offered,
            default=max(offered),
            cheapest=min(offered),
            neutral=max(offered),
            scope="group",
            axis="activation bits",
        )
        chosen[group] = GroupBits(quantizer.name, bits, of_activations.name, activation_bits)
    return chosen


# --- choosers: where values come from when it is not Optuna ---------------------------------------


class Replay:
    """Gives the values of a finished recipe again; for a parameter that it lacks, the default."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        self._values = values

    def choose(self, parameter: Parameter) -> Value:
        return self._values.get(parameter.name, parameter.default)


class Fixed:
    """Gives some values wherever they are allowed, and leaves the rest to another chooser."""

    def __init__(self, values: Mapping[str, Value], otherwise: Chooser) -> None:
        self._values, self._otherwise = values, otherwise

    def choose(self, parameter: Parameter) -> Value:
        value = self._values.get(parameter.name)
        return value if value is not None and parameter.contains(value) else self._otherwise.choose(parameter)


class Policy:
    """Chooses by rule: "default", "cheapest" or "neutral".

    Args:
        rules: by first part of a parameter's name ("ghost", "bits", "recover").
        otherwise: for all the others.
        quantizer: the only one that weights may get.
        pruner: the one that PRUNE takes, where it is on offer and PRUNE acts.
    """

    def __init__(
        self,
        rules: Mapping[str, str],
        otherwise: str = "neutral",
        quantizer: str | None = None,
        pruner: str | None = None,
    ) -> None:
        self._rules, self._otherwise, self._quantizer, self._pruner = rules, otherwise, quantizer, pruner

    def choose(self, parameter: Parameter) -> Value:
        if parameter.name == "prune.method" and self._pruner in parameter.choices:
            return self._pruner
        rule = self._rules.get(parameter.name.partition(".")[0], self._otherwise)
        own = [choice for choice in parameter.choices if str(choice).startswith(f"{self._quantizer}:")]
        if rule == "cheapest" and own:
            return min(own, key=lambda choice: int(str(choice).partition(":")[2]))
        if rule == "cheapest" and parameter.cheapest is not None:
            return parameter.cheapest
        if rule == "neutral":
            return parameter.leaves_alone()
        return parameter.default


def every_parameter(compose_with: Callable[[Chooser], Space], most_runs: int = 400) -> dict[str, Parameter]:
    """Every parameter that a define-by-run space can ask for, conditional ones too.

    Walks the space by changing one choice at a time from the defaults, and again from each point
    that showed something new, so a parameter is found that depends on one choice, or on a chain of
    them.

    Args:
        compose_with: runs the space once with a chooser and returns the space; may raise
            InvalidRecipe.
        most_runs: bound on the number of runs.
    """
    found: dict[str, Parameter] = {}
    tied: dict[str, list[str]] = {}
    pending: list[dict[str, Value]] = [{}]
    tried: set[str] = set()
    runs = 0
    while pending and runs < most_runs:
        values = pending.pop(0)
        try:
            space = compose_with(Replay(values))
        except InvalidRecipe:
            continue
        finally:
            runs += 1
        new = [name for name in space.asked if name not in found]
        found.update({name: space.asked[name] for name in new})
        for name in new:
            tied.setdefault(space.asked[name].tie or name, []).append(name)
        for name in dict.fromkeys(tied[space.asked[name].tie or name][0] for name in new):
            for choice in _alternatives(found[name]):
                together = tied[found[name].tie or name]
                step = {**values, **dict.fromkeys(together, choice)}
                if (key := digest(step)) not in tried:
                    tried.add(key)
                    pending.append(step)
    return found


def _alternatives(parameter: Parameter) -> Iterator[Value]:
    if parameter.choices:
        yield from (choice for choice in parameter.choices if choice != parameter.default)
    else:
        yield from (end for end in (parameter.low, parameter.high) if end is not None and end != parameter.default)


def space_size(parameters: Mapping[str, Parameter]) -> float:
    """Number of recipes, counting ten steps for a continuous range and every conditional parameter
    as always asked: an upper bound. Parameters that are tied count once."""
    total = 1.0
    for parameter in {parameter.tie or name: parameter for name, parameter in parameters.items()}.values():
        if parameter.choices:
            total *= len(parameter.choices)
        elif parameter.is_integer:
            assert parameter.low is not None
            assert parameter.high is not None
            total *= (parameter.high - parameter.low) // (parameter.step or 1) + 1
        else:
            total *= 10
    return total
