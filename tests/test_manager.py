"""The manager: plugins through entry points, broken ones named and skipped, methods in order."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from autocompress.contract import DataSource, Manager, Method, Params, Quantizer, Space, Stage, Transform, hookimpl
from autocompress.contract.manager import order
from autocompress.errors import UserError

Install = Callable[[str, str], None]

WORKING = """
    from autocompress.contract import Stage, Transform, hookimpl

    class Shrink(Transform):
        name = "shrink"
        version = "1"
        reference = "nobody, nowhere"
        stage = Stage.PRUNE

        def search_space(self, space, model):
            return {"rate": space.float("rate", 0.0, 0.5, default=0.0)}

        def apply(self, model, params, context):
            return model, {}

        def rebuild(self, model, plan):
            return model

    @hookimpl
    def autocompress_methods():
        return [Shrink()]
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a module with an entry point, as pip would: a module and its dist-info on sys.path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    made: list[str] = []

    def make(name: str, code: str) -> None:
        made.append(name)
        (tmp_path / f"{name}.py").write_text(dedent(code))
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[autocompress]\n{name} = {name}\n")
        importlib.invalidate_caches()

    yield make
    for name in made:
        sys.modules.pop(name, None)


def names(methods: list[Method]) -> list[str]:
    return [method.name for method in methods]


def reasons(found: Manager) -> list[str]:
    """Why ``broken_plugin`` was skipped."""
    return [broken.reason for broken in found.broken if broken.name == "broken_plugin"]


def test_an_installed_plugin_is_found_by_its_entry_point(install: Install) -> None:
    assert "shrink" not in names(Manager().methods())
    install("a_plugin", WORKING)
    found = Manager()
    assert "shrink" in names(found.methods())
    assert found.method("shrink").reference == "nobody, nowhere"
    assert "shrink" not in names(Manager(entry_points=False).methods())


def test_a_plugin_that_fails_at_import_is_named_and_skipped(install: Install, caplog: pytest.LogCaptureFixture) -> None:
    install("broken_plugin", "raise RuntimeError('no licence')")
    install("z_plugin", WORKING)
    found = Manager()
    assert "shrink" in names(found.methods())
    assert reasons(found) == ["RuntimeError: no licence"]
    assert "plugin 'broken_plugin' is skipped: RuntimeError: no licence" in caplog.text


def test_a_plugin_that_imports_what_is_missing_is_skipped(install: Install) -> None:
    install("broken_plugin", "import a_module_that_nobody_has")
    (found,) = reasons(Manager())
    assert found.startswith("ModuleNotFoundError")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise ValueError('bad day')", "ValueError: bad day"),
        ("return ['shrink']", "TypeError: autocompress_methods gave a str, not a Method"),
        ("return None", "TypeError"),
    ],
)
def test_a_plugin_that_fails_in_a_hook_is_named_once_and_skipped(install: Install, body: str, reason: str) -> None:
    code = f"""
        from autocompress.contract import hookimpl

        @hookimpl
        def autocompress_methods():
            {body}
    """
    install("broken_plugin", code)
    install("z_plugin", WORKING)
    found = Manager()
    for _ in range(2):
        assert "shrink" in names(found.methods())
    (told,) = reasons(found)
    assert told.startswith(reason)


def test_two_methods_of_one_name_are_refused(install: Install) -> None:
    install("a_plugin", WORKING)
    install("b_plugin", WORKING)
    with pytest.raises(UserError, match="two plugins offer a method named 'shrink'"):
        Manager().methods()


def test_an_unknown_name_brings_the_nearest(install: Install) -> None:
    install("a_plugin", WORKING)
    with pytest.raises(UserError, match=r"unknown method 'shrnik' \(did you mean 'shrink'\?\)"):
        Manager().method("shrnik")
    with pytest.raises(UserError, match="unknown device 'abacus'"):
        Manager(entry_points=False).device("abacus")


def test_a_logger_that_fails_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[dict[str, Any]] = []

    class Bad:
        @hookimpl
        def autocompress_trial_finished(self) -> None:
            raise OSError("disk full")

    class Good:
        @hookimpl
        def autocompress_trial_finished(self, trial: dict[str, Any]) -> None:
            heard.append(trial)

    found = Manager([Good(), Bad()], entry_points=False)
    found.tell("autocompress_trial_finished", job=None, trial={"trial": 3})
    assert heard == [{"trial": 3}]
    assert "disk full" in caplog.text


def test_a_registered_plugin_can_be_taken_out() -> None:
    plugin = SimpleNamespace()
    plugin.autocompress_methods = hookimpl(lambda: [fake(Transform, "one", stage=Stage.PRUNE)])
    found = Manager(entry_points=False)
    found.register(plugin)
    assert names(found.methods()) == ["one"]
    found.unregister(plugin)
    assert found.methods() == []


# --- order ------------------------------------------------------------------------------------------------------------


def fake(kind: type[Method], name: str, **attributes: Any) -> Method:
    """A method of ``kind`` with nothing but a name and the attributes given."""

    def search_space(self: Method, space: Space, model: nn.Module) -> Params:
        del self, space, model
        return {}

    tags = {key: frozenset(value) if isinstance(value, set) else value for key, value in attributes.items()}
    made = type(name, (kind,), {"name": name, "version": "1", "reference": "", "search_space": search_space, **tags})
    made.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]
    return made()


def test_kinds_and_stages_come_in_the_order_of_a_recipe() -> None:
    methods = [
        fake(Quantizer, "a"),
        fake(Transform, "b", stage=Stage.PRUNE),
        fake(Transform, "c", stage=Stage.SUBSTITUTE),
        fake(DataSource, "d"),
    ]
    assert names(order(methods)) == ["d", "c", "b", "a"]


def test_takers_come_after_providers_whatever_their_names() -> None:
    adder = fake(Transform, "adder", stage=Stage.SUBSTITUTE, takes={"convolution"})
    ghost = fake(Transform, "ghost", stage=Stage.SUBSTITUTE, provides={"convolution"})
    last = fake(Transform, "able", stage=Stage.SUBSTITUTE, takes={"sums"})
    between = fake(Transform, "bridge", stage=Stage.SUBSTITUTE, takes={"convolution"}, provides={"sums"})
    assert names(order([adder, ghost])) == ["ghost", "adder"]
    ordered = names(order([last, adder, between, ghost]))
    assert ordered.index("ghost") < ordered.index("bridge") < ordered.index("able")
    assert ordered.index("ghost") < ordered.index("adder")


def test_a_circle_of_tags_still_gives_every_method_once() -> None:
    a = fake(Transform, "a", stage=Stage.SUBSTITUTE, takes={"x"}, provides={"y"})
    b = fake(Transform, "b", stage=Stage.SUBSTITUTE, takes={"y"}, provides={"x"})
    assert sorted(names(order([b, a]))) == ["a", "b"]


def test_tags_do_not_reach_over_stages() -> None:
    early = fake(Transform, "early", stage=Stage.SUBSTITUTE, takes={"x"})
    late = fake(Transform, "late", stage=Stage.PRUNE, provides={"x"})
    assert names(order([late, early])) == ["early", "late"]
