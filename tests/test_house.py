"""Rules of the house that no linter holds: no function is longer than a screen."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
MOST_LINES = 60
"""Lines of a function from ``def`` to its end, without its docstring."""


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = function.body[0]
    docstring = first.end_lineno - first.lineno + 1 if ast.get_docstring(function) is not None else 0
    return function.end_lineno - function.lineno + 1 - docstring


def long_functions(source: str) -> list[tuple[str, int]]:
    functions = [
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return [(one.name, lines) for one in functions if (lines := code_lines(one)) > MOST_LINES]


def test_no_function_is_longer_than_a_screen() -> None:
    files = [*ROOT.glob("autocompress/**/*.py"), *ROOT.glob("plugins/**/*.py")]
    assert len(files) > 200
    found = {
        (file.relative_to(ROOT).as_posix(), name)
        for file in files
        for name, _ in long_functions(file.read_text(encoding="utf-8"))
    }
    assert not found


def test_a_long_function_is_found_and_its_docstring_does_not_count() -> None:
    head, body = 'def f():\n    """One.\n\n    Two."""\n', "    x = 1\n"
    assert long_functions(head + (MOST_LINES - 1) * body) == []
    assert long_functions(head + MOST_LINES * body) == [("f", MOST_LINES + 1)]
