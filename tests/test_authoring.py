"""New plugins: the scaffold conforms, and plugins in files work without an installation."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from typer.testing import CliRunner

import autocompress
from autocompress import contract
from autocompress.authoring import KINDS, check_plugin, module_of, new_plugin
from autocompress.authoring.reference import EXAMPLES, REFERENCE, pages
from autocompress.cli.app import app
from autocompress.contract import Manager, manager, manager_for
from autocompress.contract.registration import hooks
from autocompress.errors import ExitCode, UserError
from autocompress.job import load_job, validate
from autocompress.testing import ContractViolation, check_dataset, example_model
from autocompress.testing.tasks import tasks_in

BROKEN = """
from autocompress.contract import Coupling, Method, Pruner, hookimpl


class Broken(Pruner):
    name, version, reference = "broken", "1", "none"

    def order(self, coupling, params, context):
        return [0] * coupling.channels


@hookimpl
def autocompress_methods():
    return [Broken()]
"""


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return example_model()


@pytest.fixture
def pruner(tmp_path: Path) -> Path:
    """The file of a new pruner."""
    return new_plugin("norms", "pruner", tmp_path)[0]


@pytest.fixture(autouse=True)
def _manager_as_before() -> Any:
    """Removes the plugins of these tests from the manager afterwards."""
    known = set(manager()._pluggy.get_plugins())
    yield
    for plugin in set(manager()._pluggy.get_plugins()) - known:
        manager().unregister(plugin)


@pytest.mark.parametrize("kind", KINDS)
def test_every_example_conforms(kind: str, model: nn.Module) -> None:
    checked = check_plugin(importlib.import_module(f"autocompress.authoring.examples.{kind}"), model)
    assert checked


@pytest.mark.parametrize("kind", KINDS)
def test_an_example_is_at_most_thirty_lines_of_code(kind: str) -> None:
    """Imports, docstrings and blank lines do not count."""
    module = importlib.import_module(f"autocompress.authoring.examples.{kind}")
    assert module.__file__ is not None
    text = Path(module.__file__).read_text()
    others = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str))
    ]
    left_out = {line for node in others for line in range(node.lineno, (node.end_lineno or 0) + 1)}
    code = [line for number, line in enumerate(text.splitlines(), 1) if line.strip() and number not in left_out]
    assert len(code) <= 30


@pytest.mark.parametrize("page", [REFERENCE, EXAMPLES])
def test_the_pages_made_from_the_code_are_up_to_date(page: str) -> None:
    docs = Path(__file__).parents[1] / "docs"
    again = "python -m autocompress.authoring.reference docs"
    assert (docs / page).read_text(encoding="utf-8") == pages()[page], f"write them again: {again}"


def test_the_example_of_a_command_prints_the_models_of_a_front_and_not_the_baseline(
    capsys: pytest.CaptureFixture[str],
) -> None:
    example = importlib.import_module("autocompress.authoring.examples.command")
    run = Path(__file__).parent.parent / "results" / "reference" / "demo"
    example.example(run)
    told = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert told == [str(trial) for trial in autocompress.read(run).models["trial"]]


def test_the_reference_has_all_that_the_contract_exports() -> None:
    text = pages()[REFERENCE]
    others = {"FORMATS", "Params", "Plan", "Value", "hookimpl"}  # types and constants
    missing = [name for name in {*contract.__all__} - others if f"### {name}" not in text]
    assert not missing
    assert all(f"### {hook}" in text for hook in hooks())
    assert "scope: str = 'model', axis: str = ''" in text, "defaults are shown as they are written"
    assert "#### Context.progress" not in text, "the default of an attribute is no method"


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_plugin_is_valid_python_with_its_name(kind: str, tmp_path: Path) -> None:
    files = new_plugin("my_thing", kind, tmp_path)
    assert {file.name for file in files} == {
        "autocompress_my_thing.py",
        "pyproject.toml",
        "test_my_thing.py",
        "tests.yml",
        "README.md",
    }
    text, project = files[0].read_text(), files[1].read_text()
    assert "example" not in text.lower()
    assert ("entry-points" in project) == (kind != "task"), "a job names a task"
    if kind == "task":
        assert [task.__name__ for task in tasks_in(module_of(str(files[0])))] == ["MyThing"]
        return
    alone = Manager(entry_points=False)
    alone.add_file(files[0])
    offers = (alone.methods(), alone.devices(), alone.datasets(), alone.samplers(), alone.commands())
    names = [item.name.replace("-", "_") for items in offers for item in items]
    assert names == ([] if kind == "observer" else ["my_thing"])


@pytest.mark.slow
def test_the_test_of_a_new_plugin_passes(pruner: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."],
        cwd=pruner.parent,
        env={
            "PYTHONPATH": ":".join([str(pruner.parent), *sys.path]),
            "PATH": "/usr/bin:/bin",
            "HOME": str(pruner.parent),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("My-Thing", "pruner", "cannot name a plugin"),
        ("../evil", "pruner", "cannot name a plugin"),
        ("thing", "prunner", "unknown kind 'prunner'"),
        ("class", "command", "cannot name a plugin"),
        ("new_plugin", "command", "'new-plugin' cannot name a command, because the name is taken"),
        ("tpe", "sampler", "the name is taken"),
        ("digits", "dataset", "the name is taken"),
        ("obs", "pruner", "the name is taken"),
        ("prune", "transform", "the name is taken"),
    ],
)
def test_a_wrong_name_or_kind_is_refused(name: str, kind: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        new_plugin(name, kind, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_plugin_is_not_overwritten(tmp_path: Path) -> None:
    new_plugin("thing", "pruner", tmp_path)
    with pytest.raises(UserError, match="exists already"):
        new_plugin("thing", "device", tmp_path)


def test_check_plugin_prints_passed_and_broken_rules(pruner: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["check-plugin", str(pruner)])
    assert (done.exit_code, done.output.strip()) == (0, "checked: method norms")
    file = tmp_path / "broken.py"
    file.write_text(BROKEN)
    done = CliRunner().invoke(app, ["check-plugin", str(file)])
    assert done.exit_code == ExitCode.WRONG_USE
    assert "broken: method broken: an order must be nested" in done.output


def test_check_plugin_checks_the_tasks_of_a_file(tmp_path: Path) -> None:
    file = new_plugin("depth", "task", tmp_path)[0]
    done = CliRunner().invoke(app, ["check-plugin", str(file)])
    assert (done.exit_code, done.output.strip()) == (0, "checked: task Depth")
    texts = {
        "misspelt.py": ("metric_name", "metrc_name"),
        "nan.py": ("return 100.0 * float(", "return 0 * float('inf') * float("),
        "batches.py": ("(expected.exp() * (expected - got)).sum(1)", "(expected - got).square().sum(1) * len(got)"),
        "constant.py": ("outputs.log_softmax(1)", "outputs.detach().log_softmax(1)"),
    }
    words = [
        "has 'metrc_name', which is no member of a task (did you mean 'metric_name'?",
        "its metric is nan",
        "'divergences' of an image must not depend on the other images",
        "'divergences' must have a gradient",
    ]
    for (name, (right, wrong)), expected in zip(texts.items(), words, strict=True):
        (tmp_path / name).write_text(file.read_text().replace(right, wrong))
        done = CliRunner().invoke(app, ["check-plugin", str(tmp_path / name)])
        assert done.exit_code == ExitCode.WRONG_USE
        assert "broken: task Depth: " in done.output
        assert expected in done.output


def test_check_plugin_says_which_tasks_it_cannot_check(tmp_path: Path) -> None:
    file, told = new_plugin("depth", "task", tmp_path)[0], list[str]()
    text = file.read_text()
    file.write_text(text.replace("targets.ndim == 1", "targets.ndim == 3"))
    done = CliRunner().invoke(app, ["check-plugin", str(file)])
    assert done.exit_code == 0
    assert done.output.startswith("not checked: task Depth: the targets of 'digits' do not fit: it needs one class ")
    assert "\nchecked" not in done.output
    taking = text + "\n    def __init__(self, scale, power=2):\n        self.scale = scale\n"
    (tmp_path / "taking.py").write_text(taking)
    assert check_plugin(module_of(str(tmp_path / "taking.py")), tell=told.append) == []
    assert told[0].startswith("task Depth: its constructor needs 'scale'; a test can give options to ")
    (tmp_path / "lacking.py").write_text(taking.replace("def marks", "def mark"))
    with pytest.raises(ContractViolation, match="did you mean 'marks'"):
        check_plugin(module_of(str(tmp_path / "lacking.py")))


def test_a_task_is_checked_with_the_data_set_beside_it() -> None:
    file = Path(__file__).parents[1] / "docs" / "examples" / "segmentation" / "shapes.py"
    assert check_plugin(module_of(str(file))) == ["data set shapes", "task Segmentation"]


def test_a_package_is_named_by_its_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    file = tmp_path / "mine" / "__init__.py"
    file.write_text("x = 1\n")
    done = CliRunner().invoke(app, ["check-plugin", str(file)])
    assert "broken: the plugin 'mine' cannot be used: it implements no hook" in done.output
    file.write_text(BROKEN.replace("return [0] * coupling.channels", "raise KeyError('rank')"))
    done = CliRunner().invoke(app, ["check-plugin", str(file)])
    assert "mine/__init__.py" in done.output


def test_files_of_one_name_in_two_folders_are_two_plugins(tmp_path: Path, model: nn.Module) -> None:
    files = [tmp_path / folder / "own.py" for folder in ("one", "two")]
    for file in files:
        file.parent.mkdir()
        file.write_text(new_plugin(f"norms_{file.parent.name}", "pruner", tmp_path)[0].read_text())
        file.write_text(file.read_text().replace(f"norms_{file.parent.name}", "norms"))
    manager().add_file(files[0])
    with pytest.raises(ContractViolation, match=rf"called 'norms' is installed already \(plugin '{files[0]}'\)"):
        check_plugin(module_of(str(files[1])), model)
    assert check_plugin(manager().add_file(files[0]), model) == ["method norms"]


@pytest.mark.parametrize(("plugin", "words"), [("no_such", "no plugin 'no_such' is installed"), ("no.py", "no file")])
def test_a_missing_plugin_is_an_error(plugin: str, words: str) -> None:
    done = CliRunner().invoke(app, ["check-plugin", plugin])
    assert isinstance(done.exception, UserError)
    assert words in str(done.exception)


def test_a_plugin_without_a_hook_is_an_error() -> None:
    with pytest.raises(ContractViolation, match="implements no hook"):
        check_plugin(json)


def test_a_job_may_name_plugin_files(pruner: Path) -> None:
    job = load_job(model="test_resnet", data="digits", plugins=[str(pruner)], methods=["norms", "quantize"])
    validate(job, manager_for(job))
    assert manager_for(job).method("norms").name == "norms"
    assert manager_for(job) is manager(), "a file is added once"
    with pytest.raises(UserError, match="norms"):
        validate(load_job(model="test_resnet", data="digits", methods=["nroms"]), manager())


def test_a_job_may_name_imported_modules() -> None:
    from autocompress.authoring.examples import dataset

    job = load_job(model="test_resnet", data="digits", plugins=[dataset])
    assert job.plugins == (Path(str(dataset.__file__)),)


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, "names no Python file"), ("import nothing_there", "cannot be imported"), ("x = 1", "implements no hook")],
)
def test_a_plugin_file_that_cannot_be_used_gives_one_sentence(text: str | None, words: str, tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    if text is not None:
        file.write_text(text)
    job = load_job(model="test_resnet", data="digits", plugins=[file])
    with pytest.raises(UserError, match=words) as caught:
        validate(job, manager_for(job)) if text is not None else validate(job, manager())
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.usefixtures("search_here")
def test_a_pruner_and_an_observer_in_files_are_used_in_a_search(pruner: Path, tmp_path: Path) -> None:
    observer = new_plugin("lines", "observer", tmp_path)[0]
    found = autocompress.search(
        model="test_resnet",
        data="digits",
        plugins=[pruner, observer],
        methods=["norms"],
        device="cost-model:bitops",
        baseline={"epochs": 1},
        search={"tables": False, "proposals": False},
        trials=3,
        epochs=1,
        workers=1,
        results=tmp_path,
        name="own",
    )
    assert any(recipe.get("prune.method") == "norms" for recipe in found.trials["recipe"])
    assert len((tmp_path / "own" / "lines.jsonl").read_text().splitlines()) == len(found.trials) + 1
    assert str(pruner) in (tmp_path / "own" / "job.yaml").read_text()


def test_the_name_of_an_installed_method_is_refused(pruner: Path, model: nn.Module) -> None:
    pruner.write_text(pruner.read_text().replace('"norms"', '"obs"'))
    with pytest.raises(ContractViolation, match="a method called 'obs' is installed already \\(plugin 'obs'\\), so a"):
        check_plugin(Manager(entry_points=False).add_file(pruner), model)


# --- data sets ------------------------------------------------------------------------------------


def test_a_built_in_data_set_conforms() -> None:
    check_dataset(next(one for one in manager().datasets() if one.name == "digits"))


def test_mistakes_of_a_data_set_are_found() -> None:
    from autocompress.authoring.examples.dataset import Example
    from autocompress.data import DataInfo, Source, TensorSplit

    class Bad(Example):
        def claims(self, spec: str) -> bool:
            return True

        def load(self, spec: str) -> Source:
            import torch

            good = super().load(spec)
            assert isinstance(good.train, TensorSplit)
            info = DataInfo(2, 3, (16, 16), (0.5,) * 3, (0.25,) * 3, ("one",))
            split = TensorSplit(torch.randint(0, 255, (40, 3, 16, 16)).to(torch.uint8), torch.full((40,), 5), info)
            return Source(split, split, None, info)

    with pytest.raises(ContractViolation) as caught:
        check_dataset(Bad())
    text = "\n".join(caught.value.rules)
    for rule in (
        "claims must be False",
        "one name for each class",
        "same images each time",
        "lie between 0",
        "no two splits",
    ):
        assert rule in text
