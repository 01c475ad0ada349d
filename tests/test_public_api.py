"""The names of ``import autocompress``, and the time that importing it takes."""

from __future__ import annotations

import inspect
import os
import pydoc
import subprocess
import sys

import pytest
from patience import patient, slowness

import autocompress
from autocompress.searching.study import Study

PUBLIC = (
    *("Job", "SearchResult", "UserError", "__version__"),
    *("check", "compare", "compare_files", "debug", "export_model", "load", "read", "resume", "search"),
)


def fresh(code: str) -> str:
    """The output of ``code`` in a new process."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=patient(120)
    )
    return done.stdout.strip()


def test_dir_lists_the_public_names_before_they_are_used() -> None:
    listed = fresh("import autocompress; print(*dir(autocompress))").split()
    assert set(PUBLIC) <= set(listed)
    assert set(autocompress.__all__) == set(PUBLIC)


def test_every_public_name_is_importable() -> None:
    for name in PUBLIC:
        assert getattr(autocompress, name) is not None, name


def test_search_is_a_plain_function_with_its_own_help() -> None:
    # Importing the package of the search must not hide the function.
    assert Study.__module__ == "autocompress.searching.study"
    for function in (autocompress.search, autocompress.resume, autocompress.load, autocompress.read):
        assert inspect.isfunction(function)
        text = pydoc.render_doc(function, renderer=pydoc.plaintext)
        assert f"{function.__name__}(" in text
        assert "package" not in text.splitlines()[0]
    assert "Raises:" in (autocompress.search.__doc__ or "")


def test_importing_autocompress_imports_nothing_heavy() -> None:
    loaded = fresh("import sys, autocompress; print(*sys.modules)").split()
    heavy = {"torch", "timm", "ray", "optuna", "pandas", "numpy", "pydantic", "typer", "rich"}
    assert not heavy & {name.partition(".")[0] for name in loaded}


@pytest.mark.slow
def test_listing_plugins_imports_no_exporter_and_no_plotting() -> None:
    loaded = fresh(
        "import io, sys\n"
        "from rich.console import Console\n"
        "from autocompress.cli import catalogue\n"
        "catalogue.show(None, 'model', Console(file=io.StringIO()))\n"
        "print(*sys.modules)"
    ).split()
    # Each of these takes a tenth of a second or more.
    heavy = {"ray", "optuna", "onnx", "onnxscript", "onnxruntime", "sklearn", "pandas", "matplotlib", "numba"}
    heavy |= {"scipy.optimize", "scipy.special", "scipy.stats"}
    assert not heavy & set(loaded)


@pytest.mark.parametrize(
    ("arguments", "seconds"),
    [(["-c", "import autocompress"], 0.1), (["-m", "autocompress.cli", "--help"], 0.5)],
)
@pytest.mark.timing
def test_start_up_is_quick(arguments: list[str], seconds: float) -> None:
    bare, spent = (min(cpu_seconds(code) for _ in range(3)) for code in (["-c", ""], arguments))
    # Twice, because a busy machine counts more time for the same work.
    assert spent - bare < 2 * seconds * slowness()


def cpu_seconds(arguments: list[str]) -> float:
    """Processor time of a new Python process."""
    before = os.times()
    subprocess.run([sys.executable, *arguments], capture_output=True, check=True, timeout=patient(120))
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system
