"""Rules that no linter checks.

The length of functions, and the length of prose lines in Markdown. ruff checks the length of lines
in docstrings and comments (``max-doc-length``).
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
MOST_LINES = 60
"""Maximum lines of a function from ``def`` to its end, without its docstring."""
MOST_COLUMNS = 100
GENERATED = ("results/papers/*/table.md", "results/reference/**/*.md", "results/data/*.md")
"""Markdown files that are written by programs."""


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = function.body[0]
    docstring = first.end_lineno - first.lineno + 1 if ast.get_docstring(function) is not None else 0
    return function.end_lineno - function.lineno + 1 - docstring


def long_functions(source: str) -> list[tuple[str, int]]:
    functions = [
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return [(one.name, lines) for one in functions if (lines := code_lines(one)) > MOST_LINES]


def test_no_function_is_too_long() -> None:
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


def long_prose(markdown: str) -> list[int]:
    """Numbers of the prose lines that are too long. Code and tables are skipped."""
    found, is_fenced = [], False
    for number, line in enumerate(markdown.splitlines(), start=1):
        if line.lstrip().startswith("```"):
            is_fenced = not is_fenced
        is_prose = not is_fenced and not line.startswith(("    ", "|", "<"))
        if is_prose and len(line) > MOST_COLUMNS and " " in line[:MOST_COLUMNS].strip():
            found.append(number)
    return found


def test_lines_of_prose_in_markdown_are_short() -> None:
    generated = {file for pattern in GENERATED for file in ROOT.glob(pattern)}
    files = {ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("results/**/*.md")} - generated
    assert len(files) > 10
    found = {
        f"{file.relative_to(ROOT)}:{number}"
        for file in files
        for number in long_prose(file.read_text(encoding="utf-8"))
    }
    assert not found


def test_long_prose_is_found_but_not_code_and_tables() -> None:
    line = "word " * 21
    assert long_prose(line) == [1]
    assert long_prose(f"short\n\n- {line}") == [3]
    assert long_prose(f"    {line}\n| {line} |\n```\n{line}\n```\n") == []
