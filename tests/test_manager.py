"""The manager: plugins through entry points, broken ones named and skipped."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

import pytest
from fake_methods import fake, names

from autocompress.contract import Manager, Method, Stage, Transform, hookimpl
from autocompress.errors import Terminated, UserError

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
    """Installs a module with an entry point, as pip would, in a folder of sys.path."""
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


def reasons(found: Manager) -> list[str]:
    """The reasons why ``broken_plugin`` was skipped."""
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


def test_a_plugin_with_a_missing_import_is_skipped(install: Install) -> None:
    install("broken_plugin", "import a_module_that_nobody_has")
    (found,) = reasons(Manager())
    assert found.startswith("ModuleNotFoundError")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise ValueError('bad day')", "ValueError: bad day"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("return ['shrink']", "autocompress_methods gives a str, not a Method"),
        ("return None", "autocompress_methods must return a list, and returns nothing"),
        ("return 'shrink'", "autocompress_methods must return a list, and returns a str"),
        ("yield 'shrink'", "autocompress_methods must return a list, and returns a generator"),
        ("return {'shrink': 1}", "autocompress_methods must return a list, and returns a dict"),
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


def test_of_two_methods_with_one_name_the_second_is_refused(install: Install) -> None:
    install("a_plugin", WORKING)
    install("broken_plugin", WORKING)
    found = Manager()
    assert names(found.methods()).count("shrink") == 1
    assert "ghost" in names(found.methods())
    assert reasons(found) == ["its 'shrink' has a name that plugin 'a_plugin' uses already"]


def test_a_file_is_one_plugin_by_whatever_path_it_is_named(tmp_path: Path) -> None:
    file = tmp_path / "shrink.py"
    file.write_text(textwrap.dedent(WORKING))
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.py").symlink_to(file)
    found = Manager(entry_points=False)
    one = found.add_file(file)
    assert found.add_file(tmp_path / "folder" / ".." / "shrink.py") is one
    assert found.add_file(tmp_path / "link.py") is one
    assert names(found.methods()) == ["shrink"]
    assert not found.broken


@pytest.mark.parametrize("marker", ["@hookimpl", "@hookimpl(tryfirst=True)"])
def test_no_plugin_replaces_a_method_of_the_engine(install: Install, marker: str) -> None:
    code = WORKING.replace('"shrink"', '"ghost"').replace("@hookimpl", marker)
    install("broken_plugin", code)
    found = Manager()
    assert type(found.method("ghost")).__module__ == "autocompress_ghost.method"
    assert reasons(found) == ["its 'ghost' has a name that plugin 'ghost' uses already"]


def test_a_plugin_with_two_methods_of_one_name_is_refused(install: Install) -> None:
    install("broken_plugin", WORKING.replace("[Shrink()]", "[Shrink(), Shrink()]"))
    found = Manager()
    assert names(found.methods()).count("shrink") == 1
    (told,) = reasons(found)
    assert told == "its hook autocompress_methods gives two items called 'shrink'; the first is used"


def test_interrupts_do_not_count_as_faults_of_a_plugin() -> None:
    class Interrupted:
        @hookimpl
        def autocompress_methods(self) -> list[Method]:
            raise Terminated

    with pytest.raises(Terminated):
        Manager([Interrupted()], entry_points=False).methods()


# --- a plugin that would be ignored, or that breaks later, is named when it is loaded -------------

HEAD = WORKING[: WORKING.index("    @hookimpl")]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            "@hookimpl\ndef autocompress_method(): return [Shrink()]",
            "'autocompress_method' is not a hook of autocompress (did you mean 'autocompress_methods'?)",
        ),
        (
            "@hookimpl\ndef autocompress_dataset(): return []",
            "'autocompress_dataset' is not a hook of autocompress (did you mean 'autocompress_datasets'?)",
        ),
        ("@hookimpl\ndef methods(): return []", "'methods' is not a hook of autocompress (did you mean 'auto"),
        (
            "@hookimpl(specname='autocompress_devises')\ndef mine(): return []",
            "'autocompress_devises' is not a hook of autocompress (did you mean 'autocompress_devices'?)",
        ),
        (
            "def autocompress_methods(): return [Shrink()]",
            "'autocompress_methods' is not marked as a hook; write @hookimpl above it",
        ),
        (
            "def autocompress_metods(): return [Shrink()]",
            "'autocompress_metods' is not a hook of autocompress (did you mean 'autocompress_methods', marked with",
        ),
        (
            "@hookimpl\ndef autocompress_methods(job): return [Shrink()]",
            "'autocompress_methods' has the argument 'job', which the hook does not give (it takes none)",
        ),
        (
            "@hookimpl\ndef autocompress_trial_finished(row): pass",
            "'autocompress_trial_finished' has the argument 'row', which the hook does not give (it may take job",
        ),
        (
            "@hookimpl(hookwrapper=True)\ndef autocompress_methods(): yield",
            "'autocompress_methods' is an old-style wrapper; write @hookimpl(wrapper=True)",
        ),
        ("", "it implements no hook; there are autocompress_commands, autocompress_datasets, autocompress_devices"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise ValueError('one\\ntwo')", "ValueError: one"),
    ],
)
def test_a_plugin_that_would_be_ignored_is_named_and_the_others_work(install: Install, code: str, reason: str) -> None:
    install("broken_plugin", dedent(HEAD) + code + "\n")
    install("z_plugin", WORKING)
    found = Manager()
    assert "shrink" in names(found.methods())
    (told,) = reasons(found)
    assert told.startswith(reason)
    assert "\n" not in told


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("del Shrink.name", "the method Shrink has no name: set Shrink.name to a text"),
        ("Shrink.name = ''", "the method Shrink has no name"),
        ("Shrink.name = 3", "the method Shrink has no name"),
        ("Shrink.name = 'a.b'", "the method 'a.b' has an invalid name: a name has letters"),
        (
            "Shrink.name = 'recover'",
            "the method 'recover' has an invalid name: 'recover.' begins parameters",
        ),
        ("del Shrink.version", "the method 'other' has no version: it must be a text"),
        ("Shrink.version = 2", "the method 'other' has 2 as version: it must be a text"),
        ("del Shrink.reference", "the method 'other' has no reference: it must be a text"),
        ("del Shrink.stage", "the method 'other' has no stage: it must be Stage.SUBSTITUTE or Stage.PRUNE"),
        ("Shrink.stage = 'prune'", "the method 'other' has 'prune' as stage: it must be Stage.SUBSTITUTE or Stage"),
        ("Shrink.takes = 'convolution'", "the method 'other' has 'convolution' as takes: it must be a set of texts"),
        ("Shrink.layers = [3]", "the method 'other' has [3] as layers: it must be a list of LayerSpec instances"),
        ("Shrink.__new__ = lambda cls: cls", "autocompress_methods gives the class Shrink, not an instance of it"),
        ("Shrink.apply = abstractmethod(Shrink.apply); update_abstractmethods(Shrink)", "TypeError: Can't instantiate"),
    ],
)
def test_a_method_that_cannot_be_used_is_named_and_the_others_work(install: Install, change: str, reason: str) -> None:
    first = "from abc import abstractmethod, update_abstractmethods\n"
    hook = "@hookimpl\ndef autocompress_methods(): return [Shrink()]\n"
    install("broken_plugin", first + dedent(HEAD) + f"Shrink.name = 'other'\n{change}\n" + hook)
    install("z_plugin", WORKING)
    found = Manager()
    assert names(found.methods()) == names(Manager().methods())
    assert "shrink" in names(found.methods())
    assert "other" not in names(found.methods())
    (told,) = reasons(found)
    assert told.startswith(reason)


def test_the_valid_methods_of_a_plugin_are_used_beside_a_faulty_one(install: Install) -> None:
    more = "class Bad(Shrink):\n    name = 'bad'\n    version = None\n"
    hook = "@hookimpl\ndef autocompress_methods(): return [Bad(), Shrink()]\n"
    install("broken_plugin", dedent(HEAD) + more + hook)
    found = Manager()
    assert "shrink" in names(found.methods())
    assert reasons(found) == ["the method 'bad' has no version: it must be a text"]


@pytest.mark.parametrize(("hook", "base"), [("devices", "Device"), ("datasets", "DatasetProvider")])
def test_a_device_or_data_set_without_a_name_is_named(install: Install, hook: str, base: str) -> None:
    code = f"""
        from autocompress.contract import Device, hookimpl
        from autocompress.data import DatasetProvider

        class Mine({base}):
            pass

        Mine.__abstractmethods__ = frozenset()

        @hookimpl
        def autocompress_{hook}():
            return [Mine()]
    """
    install("broken_plugin", code)
    found = Manager()
    assert all(one.name for one in getattr(found, hook)())
    (told,) = reasons(found)
    assert told.startswith(f"the {'device' if hook == 'devices' else 'data set'} Mine has no name")


def test_a_direct_subclass_of_method_is_refused() -> None:
    plugin = SimpleNamespace(autocompress_methods=hookimpl(lambda: [fake(Method, "odd")]))
    found = Manager([plugin], entry_points=False)
    assert found.methods() == []
    assert (
        found.broken[0].reason
        == "the method 'odd' is neither a Transform nor a Pruner nor a Quantizer nor a DataSource"
    )


def test_a_faulty_plugin_registered_by_hand_is_refused_at_once() -> None:
    class Misspelt:
        @hookimpl
        def autocompress_method(self) -> list[Method]:
            return []

    found = Manager(entry_points=False)
    with pytest.raises(UserError, match=r"the plugin 'Misspelt' cannot be used: 'autocompress_method' is not a hook"):
        found.register(Misspelt())
    with pytest.raises(UserError, match="the class Misspelt is registered where an instance or a module is needed"):
        found.register(Misspelt)
    assert found.methods() == []


def test_a_logger_hook_may_take_some_arguments_and_have_defaults() -> None:
    heard: list[Any] = []

    class Logger:
        @hookimpl
        def autocompress_trial_finished(self, trial: Any, job: Any = "none") -> None:
            heard.append((job, trial))

    Manager([Logger()], entry_points=False).tell("autocompress_trial_finished", job="j", trial=7)
    assert heard == [("j", 7)]


def test_an_unknown_name_suggests_the_nearest(install: Install) -> None:
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

    class Leaving:
        @hookimpl
        def autocompress_trial_finished(self) -> None:
            raise SystemExit(3)

    class Good:
        @hookimpl
        def autocompress_trial_finished(self, trial: dict[str, Any]) -> None:
            heard.append(trial)

    found = Manager([Good(), Bad(), Leaving()], entry_points=False)
    found.tell("autocompress_trial_finished", job=None, trial={"trial": 3})
    assert heard == [{"trial": 3}]
    assert "disk full" in caplog.text
    assert "SystemExit: 3" in caplog.text


def test_a_registered_plugin_can_be_removed() -> None:
    plugin = SimpleNamespace()
    plugin.autocompress_methods = hookimpl(lambda: [fake(Transform, "one", stage=Stage.PRUNE)])
    found = Manager(entry_points=False)
    found.register(plugin)
    assert names(found.methods()) == ["one"]
    found.unregister(plugin)
    assert found.methods() == []
