"""Recipe: the parameters of all methods for one trial, composed from those of each stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import nn

from autocompress.contract import (
    DataSource,
    Method,
    Params,
    Preparing,
    Pruner,
    Quantizer,
    Space,
    Stage,
    Transform,
    Value,
)
from autocompress.errors import InvalidRecipe
from autocompress.files import canonical_json, digest
from autocompress.recipes.bits import GroupBits, compose_bits
from autocompress.recipes.pruning import DEFAULT_MULTIPLE, Pruning, prune_space
from autocompress.recipes.settings import qat_space, recover_space, repair_space


@dataclass(frozen=True)
class Recipe:
    """One point of the space.

    Attributes:
        values: all parameters by full name, for storing, showing and replaying.
        structural: the values that change the deployed structure.
        source: (name, parameters) of the data source; None where images of the user are used.
        transforms: (method name, parameters) of the transforms that act, in order.
        prune: parameters of PRUNE; None where no channel is removed.
        repair: parameters of REPAIR; empty where nothing is pruned or substituted.
        recover: parameters of RECOVER.
        bits: quantizers and bits of each group; a group that stays in float is absent.
        quantizers: parameters of the quantizers that act, by name.
        qat: parameters of the training in QUANTIZE.
        rungs: parameters of the training of each rung above 0, in order (:mod:`recipes.rungs`).
            They are not part of ``values``: a recipe is the same on all rungs.
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
    rungs: Sequence[Params] = ()

    @property
    def key(self) -> str:
        """Content key of the whole recipe."""
        return digest(dict(self.values))

    @property
    def family(self) -> str:
        """The methods that change its layers, by name."""
        pruner = [] if self.prune is None else [self.prune.method]
        return "+".join([*(name for name, _ in self.transforms), *pruner])

    @property
    def trains(self) -> bool:
        """Whether making the candidate may take long, by training or a transform."""
        return bool(self.transforms or self.recover.get("epochs") or self.qat.get("epochs") or self.rungs)

    @property
    def structural_key(self) -> str:
        """Content key of the deployed structure; recipes with equal keys have equal latency."""
        return digest(dict(self.structural))


def compose(
    space: Space,
    model: nn.Module,
    methods: Sequence[Method],
    epochs: float,
    multiple: int = DEFAULT_MULTIPLE,
    *,
    labelled: bool = True,
) -> Recipe:
    """Runs the whole define-by-run space once.

    Asks for the parameters of the data source, SUBSTITUTE, PRUNE, REPAIR, RECOVER and QUANTIZE, in
    this order.

    Args:
        space: gives the values; without a prefix.
        model: the baseline.
        methods: the methods that apply, in the order of the manager.
        epochs: maximum number of epochs of recovery.
        multiple: the channel multiple of the device.
        labelled: the labels of the images of the user are meaningful.

    Raises:
        InvalidRecipe: for methods that exclude each other, that need more epochs than the budget
            has, or with a ``search_space`` that does not return a mapping of JSON values.
    """
    source = compose_source(space, model, methods)
    labelled = labelled and source is None  # labels of synthetic images are not used for training
    of_source = set(space.chosen)
    acting = _acting(space, model, methods)
    pruning: Pruning | None = None
    faults: list[InvalidRecipe] = []
    pruners = [method for method in methods if isinstance(method, Pruner)]
    if pruners:
        with _raised_later(faults):
            pruning = prune_space(space, model, pruners, multiple)
    changing: list[Preparing] = [method for method, _ in acting]
    changing += [method for method in pruners if pruning is not None and method.name == pruning.method]
    repair: Params = {}
    recover: Params = {}
    if changing:
        repair = repair_space(space)
        refitted = not acting and repair["fit"] != "none"
        with _raised_later(faults):
            recover = recover_space(space.scope("recover"), changing, epochs, labelled=labelled, refitted=refitted)
    bits = compose_bits(space.scope("bits"), model, [m for m in methods if isinstance(m, Quantizer)])
    quantizers = _used(bits, methods)
    quantizer_params = {method.name: params_of(method, space, model) for method in quantizers}
    qat: Params = {}
    if quantizers:
        is_low = any(min(group.weight_bits, group.activation_bits) < 8 for group in bits.values())
        with _raised_later(faults):
            qat = qat_space(space.scope("qat"), quantizers, epochs, is_low=is_low, labelled=labelled)
    if faults:
        raise faults[-1]
    _reject_clashes([method for method, _ in acting], pruning)
    if not any(method.prepares for method, _ in acting):
        of_source = set()  # otherwise scores on the images of the source decide the structure
    return Recipe(
        values=dict(space.chosen),
        structural={
            name: value for name, value in space.chosen.items() if space.asked[name].structural or name in of_source
        },
        source=source,
        transforms=[(method.name, params) for method, params in acting],
        prune=pruning,
        repair=repair,
        recover=recover,
        bits=bits,
        quantizers=quantizer_params,
        qat=qat,
    )


@contextmanager
def _raised_later(faults: list[InvalidRecipe]) -> Iterator[None]:
    """Collects an InvalidRecipe in ``faults``, so that it is raised after all parameters."""
    try:
        yield
    except InvalidRecipe as error:
        faults.append(error)


def _acting(space: Space, model: nn.Module, methods: Sequence[Method]) -> list[tuple[Transform, Params]]:
    """The transforms that change the model in this recipe, with their parameters."""
    asked = [(method, params_of(method, space, model)) for method in methods if isinstance(method, Transform)]
    return [(method, params) for method, params in asked if method.acts(params)]


def _used(bits: Mapping[str, GroupBits], methods: Sequence[Method]) -> list[Quantizer]:
    """The quantizers that at least one group uses."""
    names = {name for group in bits.values() for name in (group.weight_quantizer, group.activation_quantizer)}
    return [method for method in methods if isinstance(method, Quantizer) and method.name in names]


SOURCE = "source"
"""The parameter that names the data source; the name prefixes the parameters of the source."""


def compose_source(space: Space, model: nn.Module, methods: Sequence[Method]) -> tuple[str, Params] | None:
    """The data source of the recipe and its parameters; None where ``methods`` has no source."""
    sources = {method.name: method for method in methods if isinstance(method, DataSource)}
    if not sources:
        return None
    # Starting points use the first source, in the order of the manager.
    name = space.categorical(SOURCE, list(sources), default=next(iter(sources)), structural=False)
    return name, params_of(sources[name], space, model)


def params_of(method: Method, space: Space, model: nn.Module) -> Params:
    """The parameters of ``method`` from ``space``, which has no prefix.

    Raises:
        InvalidRecipe: if its ``search_space`` does not return a mapping of JSON values, which
            content keys need.
    """
    params: object = method.search_space(space.scope(method.name), model)
    if not isinstance(params, Mapping):
        gives = "nothing" if params is None else f"a {type(params).__name__}"
        raise InvalidRecipe(f"the search_space of '{method.name}' returns {gives} where a mapping is needed")
    try:
        canonical_json(params)
    except TypeError as error:
        raise InvalidRecipe(f"the search_space of '{method.name}' returns values that are not JSON: {error}") from None
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
