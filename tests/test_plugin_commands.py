"""Commands of plugins, and plugin files as arguments of any command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from autocompress.cli.app import app
from autocompress.contract import Command, Manager, hookimpl, manager
from autocompress.contract.command import OWN_COMMANDS
from autocompress.errors import UserError
from autocompress.testing import ContractViolation, check_command

PLUGIN = '''
import typer
from autocompress.contract import Command, hookimpl
from autocompress.errors import UserError

def greet(name: str, times: int = 1) -> None:
    """Greets somebody."""
    if name == "bug":
        raise ValueError("no such guest")
    if name == "wrong":
        raise UserError("nobody is called so", "another name")
    print(f"hello {name} " * times)

def unclear(what: list[list[int]]) -> None:
    """Takes what typer does not know."""

alone = typer.Typer(help="A group of one.")

@alone.command()
def only() -> None:
    """The only one."""
    print("only")

group = typer.Typer(help="Commands of a group.")

@group.command()
def one() -> None:
    """The first."""
    print("one")

@group.command()
def two() -> None:
    """The second."""

@hookimpl
def autocompress_commands():
    return [Command("greet", greet), Command("group", group), Command("plugins", greet),
            Command("alone", alone), Command("unclear", unclear)]
'''


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[str]:
    file = tmp_path / "greeting.py"
    file.write_text(PLUGIN)
    known = set(manager()._pluggy.get_plugins())
    yield str(file)
    for added in set(manager()._pluggy.get_plugins()) - known:
        manager().unregister(added)


def run(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


def test_a_command_of_a_plugin_file_is_run(plugin: str) -> None:
    done = run("--plugin", plugin, "greet", "bob", "--times", "2")
    assert (done.exit_code, done.output.strip()) == (0, "hello bob hello bob")
    assert run("--plugin", plugin, "group", "one").output == "one\n"
    assert run("--plugin", plugin, "alone", "only").output == "only\n"
    assert "Greets somebody." in run("--plugin", plugin, "greet", "--help").output


def test_help_lists_commands_of_plugins_only_if_there_are_some(plugin: str) -> None:
    assert "greet" not in run("--help").output
    shown = run("--plugin", plugin, "--help").output
    assert "Commands of plugins" in shown
    assert "Greets somebody." in shown
    assert "Commands of a group." in shown


def test_a_command_that_typer_cannot_make_is_named_and_the_others_work(
    plugin: str, caplog: pytest.LogCaptureFixture
) -> None:
    shown = run("--plugin", plugin, "--help")
    assert shown.exit_code == 0
    assert "greet" in shown.output
    assert "unclear" not in shown.output
    (told,) = [record.getMessage() for record in caplog.records if "unclear" in record.getMessage()]
    assert told.startswith(f"the command 'unclear' of plugin '{plugin}' is skipped: ")
    assert "No such command 'unclear'" in run("--plugin", plugin, "unclear").output


def test_a_built_in_command_is_never_replaced(plugin: str) -> None:
    assert "List the installed methods" in run("--plugin", plugin, "plugins", "--help").output


def test_a_command_that_fails_names_its_plugin(plugin: str) -> None:
    done = run("--plugin", plugin, "greet", "bug")
    assert isinstance(done.exception, ValueError)
    assert done.exception.__notes__ == [f"the command 'greet' belongs to the plugin '{plugin}', not to autocompress"]
    wrong = run("--plugin", plugin, "greet", "wrong")
    assert isinstance(wrong.exception, UserError)
    assert not hasattr(wrong.exception, "__notes__")
    assert run("--plugin", plugin, "greet").exit_code == 2, "a missing argument is an error of the user"


@pytest.mark.parametrize("command", ["plugins", "measure", "check", "synthesize", "similarity", "search"])
def test_commands_that_use_plugins_accept_files(command: str) -> None:
    assert "--plugin" in run(command, "--help").output


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, "--plugin names no file"), ("import nothing_there", "cannot be imported"), ("x = 1", "implements no hook")],
)
def test_a_file_that_cannot_be_used_gives_one_sentence(text: str | None, words: str, tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    if text is not None:
        file.write_text(text)
    for place in (["--plugin", str(file), "plugins"], ["plugins", "--plugin", str(file)]):
        done = run(*place)
        assert isinstance(done.exception, UserError)
        assert words in str(done.exception)


@pytest.mark.parametrize("command", ["submit", "resume"])
def test_a_file_for_a_command_that_ignores_it_is_refused(command: str, plugin: str) -> None:
    done = run("--plugin", plugin, command, "anything")
    assert isinstance(done.exception, UserError)
    assert f"{command} takes no --plugin: " in str(done.exception)


def test_a_file_before_the_command_is_also_in_the_job(plugin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load(file: Any, settings: Any, **_: Any) -> None:
        asked.append(settings.get("plugins"))
        raise UserError("enough")

    monkeypatch.setattr("autocompress.cli.commands.search.load_job", load)
    search = ("search", "--model", "test_resnet", "--data", "digits")
    run("--plugin", plugin, *search)
    run("--plugin", plugin, *search, "--plugin", "other.py", "--plugin", plugin)
    run(*search)
    assert asked == [[Path(plugin)], [Path(plugin), Path("other.py")], None]


# --- registration and conformance -----------------------------------------------------------------


def hello() -> None:
    """Says hello."""


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (Command("Say_Hello", hello), "the command 'Say_Hello' has an invalid name: a name has lower-case letters"),
        (Command("", hello), "the command Command has no name"),
        (Command("say", 3), "the command 'say' has 3 as run: it must be a function or a typer.Typer"),  # type: ignore[arg-type]
        (Command("say", typer.Typer), "the command 'say' has <class 'typer.main.Typer'> as run"),
        (Command("search", hello), "the command 'search' has the name of a command of autocompress"),
        (hello, "autocompress_commands gives a function, not a Command"),
        (Command, "autocompress_commands gives the class Command, not an instance of it"),
    ],
)
def test_an_invalid_command_is_named(command: Any, reason: str) -> None:
    sound = Command("sound", hello)
    plugin = SimpleNamespace(autocompress_commands=hookimpl(lambda: [command, sound]))
    found = Manager([plugin], entry_points=False)
    assert found.commands() == [sound]
    assert found.broken[0].reason.startswith(reason)


def silent() -> None: ...


def unclear(what: list[list[int]]) -> None:
    """Has a parameter of a type that typer does not support."""


@pytest.mark.parametrize(
    ("function", "rule"),
    [
        (silent, "a command must have a help text"),
        (unclear, "a plugin must not raise"),
    ],
)
def test_a_mistake_of_a_command_is_found(function: Callable[..., Any], rule: str) -> None:
    with pytest.raises(ContractViolation, match=rule):
        check_command(Command("say", function))


def test_reserved_names_are_those_of_the_command_line() -> None:
    assert set(typer.main.get_command(app).commands) == OWN_COMMANDS  # type: ignore[attr-defined]
