"""The order in which hooks are called, and in which methods act."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from fake_methods import fake, names

from autocompress.contract import DataSource, Manager, Pruner, Quantizer, Stage, Transform, hookimpl
from autocompress.contract.manager import order
from autocompress.data import DatasetProvider


def test_hooks_keep_the_order_and_the_wrappers_of_pluggy() -> None:
    def offers(name: str, **options: bool) -> SimpleNamespace:
        mark = hookimpl(**options)
        return SimpleNamespace(autocompress_datasets=mark(lambda: [Set(name)]))

    class Set(DatasetProvider):
        def __init__(self, name: str) -> None:
            self.name = name  # type: ignore[misc]

        def load(self, spec: str) -> Any:
            raise NotImplementedError

    class Without:
        @hookimpl(wrapper=True)
        def autocompress_datasets(self) -> Any:
            offered = yield
            return [[one for one in some if one.name != "second"] for some in offered]

    class Failing:
        @hookimpl(wrapper=True)
        def autocompress_datasets(self) -> Any:
            yield
            raise RuntimeError("no wrapping today")

    plugins = [offers("last", trylast=True), offers("first"), offers("second"), offers("zeroth", tryfirst=True)]
    found = Manager([*plugins, Without(), Failing()], entry_points=False)
    assert [one.name for one in found.datasets()] == ["zeroth", "first", "last"]
    assert [broken.reason for broken in found.broken] == ["RuntimeError: no wrapping today"]


def test_kinds_and_stages_come_in_the_order_of_a_recipe() -> None:
    methods = [
        fake(Quantizer, "a"),
        fake(Transform, "b", stage=Stage.PRUNE),
        fake(Transform, "c", stage=Stage.SUBSTITUTE),
        fake(DataSource, "d"),
    ]
    assert names(order(methods)) == ["d", "c", "b", "a"]


def test_methods_follow_those_that_provide_their_tags() -> None:
    adder = fake(Transform, "adder", stage=Stage.SUBSTITUTE, takes={"convolution"})
    ghost = fake(Transform, "ghost", stage=Stage.SUBSTITUTE, provides={"convolution"})
    last = fake(Transform, "able", stage=Stage.SUBSTITUTE, takes={"sums"})
    between = fake(Transform, "bridge", stage=Stage.SUBSTITUTE, takes={"convolution"}, provides={"sums"})
    assert names(order([adder, ghost])) == ["ghost", "adder"]
    ordered = names(order([last, adder, between, ghost]))
    assert ordered.index("ghost") < ordered.index("bridge") < ordered.index("able")
    assert ordered.index("ghost") < ordered.index("adder")


def test_with_a_cycle_of_tags_every_method_comes_once() -> None:
    a = fake(Transform, "a", stage=Stage.SUBSTITUTE, takes={"x"}, provides={"y"})
    b = fake(Transform, "b", stage=Stage.SUBSTITUTE, takes={"y"}, provides={"x"})
    assert sorted(names(order([b, a]))) == ["a", "b"]


def test_tags_do_not_change_the_order_of_stages() -> None:
    early = fake(Transform, "early", stage=Stage.SUBSTITUTE, takes={"x"})
    late = fake(Transform, "late", stage=Stage.PRUNE, provides={"x"})
    assert names(order([late, early])) == ["early", "late"]


def test_a_pruner_of_a_plugin_does_not_become_the_default() -> None:
    plugin = SimpleNamespace(autocompress_methods=hookimpl(tryfirst=True)(lambda: [fake(Pruner, "a_first")]))
    found = [one.name for one in Manager([plugin]).methods() if isinstance(one, Pruner) and one.searched]
    assert found[0] == "obs"
    assert found[-1] == "a_first"
