"""The pages of the documentation that follow from the code: the reference and the examples.

``python -m autocompress.authoring.reference docs`` writes them.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from enum import Enum
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from autocompress.authoring.scaffold import KINDS
from autocompress.contract import hookspecs
from autocompress.contract.registration import PREFIX
from autocompress.files import write_text

ROOMS = {
    "autocompress.contract": (
        "Method Transform Pruner Quantizer DataSource Preparing Stage Space Parameter Context TransferSet Callback "
        "Coupling coupling_scores LayerSpec TensorSpec FakeQuantizer Grid Hardened Device Deployable OperatorCount "
        "Measurement LayerTimes PlacementTable Task Sampler Command Manager manager manager_for"
    ),
    "autocompress.data": "DatasetProvider Source DataInfo LoadOptions Split TensorSplit",
    "autocompress.errors": "UserError TrialFailed NoAnswer InvalidRecipe",
    "autocompress.testing": (
        "check_plugin check_method check_transform check_pruner check_quantizer check_source check_device "
        "check_dataset check_sampler check_command check_observer check_task check_gpu ContractViolation example_model "
        "example_job example_context"
    ),
}
"""What authors import, in the order of the page."""
REFERENCE, EXAMPLES = "plugin-reference.md", "plugin-examples.md"
WIDTH = 100
"""Characters of a line of prose."""
HEAD = """\
# {title}

{text} This page is made from the code: `python -m autocompress.authoring.reference docs`.
"""


def pages() -> dict[str, str]:
    """The text of each page, by its name."""
    return {REFERENCE: reference(), EXAMPLES: examples()}


def examples() -> str:
    """The page of examples, one of each kind."""
    text = (
        "One example of each kind of plugin. `autocompress new-plugin NAME --kind KIND` writes it as a package, with "
        "a test."
    )
    parts = [_wrapped(HEAD.format(title="An example of each kind", text=text))]
    for kind in KINDS:
        code = resources.files("autocompress.authoring.examples").joinpath(f"{kind}.py").read_text(encoding="utf-8")
        title = ast.get_docstring(ast.parse(code)) or ""
        body = code.partition('"""\n\n')[2]
        parts.append(f"## {kind}\n\n{title}\n\n<!-- run by: tests/test_authoring.py -->\n```python\n{body}```\n")
    return "\n".join(parts)


def reference() -> str:
    """The page of reference: hooks, and all that authors import."""
    text = "What a plugin may implement, and what it may import, with the signature of each."
    parts = [_wrapped(HEAD.format(title="Reference for authors of plugins", text=text))]
    parts.append("## Hooks\n\nFunctions of a plugin, marked with `@autocompress.contract.hookimpl`.\n")
    parts += [_function(name, hook, "###") for name, hook in _hooks()]
    for room, names in ROOMS.items():
        parts.append(f"## {room}\n")
        module = importlib.import_module(room)
        for name in names.split():
            found = getattr(module, name)
            parts.append(_class(found) if inspect.isclass(found) else _function(name, found, "###"))
    return "\n".join(parts)


def _hooks() -> Iterator[tuple[str, Any]]:
    for name, found in vars(hookspecs).items():
        if name.startswith(PREFIX):
            yield name, found


def _class(kind: type) -> str:
    bases = ", ".join(base.__name__ for base in kind.__bases__ if base.__module__.startswith("autocompress"))
    parts = [f"### {kind.__name__}{f'({bases})' if bases else ''}\n\n{_documentation(kind)}\n"]
    for name, annotation, default, text in _attributes(kind):
        value = f" = {default}" if default else ""
        parts.append(_entry(f"- `{name}: {annotation}{value}`" + (f": {_one_line(text)}" if text else "")))
    if issubclass(kind, Enum):
        parts += [f"- `{kind.__name__}.{member.name}`" for member in kind]
    if len(parts) > 1:
        parts.append("")
    for name, function in vars(kind).items():
        is_default = name in vars(kind).get("__annotations__", {})  # a function that is an attribute's default
        if name.startswith("_") or is_default or not inspect.isroutine(inspect.unwrap(_plain(function))):
            continue
        parts.append(_function(name, _plain(function), "####", of=kind))
    return "\n".join(parts)


def _plain(function: Any) -> Any:
    """The function behind a static method, a class method or a property."""
    if isinstance(function, property):
        return function.fget
    if isinstance(function, cached_property):
        return function.func
    return getattr(function, "__func__", function)


def _function(name: str, function: Any, level: str, of: type | None = None) -> str:
    target = function if of is None else getattr(function, "__wrapped__", function)
    is_property = of is not None and isinstance(vars(of).get(name), property | cached_property)
    abstract = " (to implement)" if getattr(function, "__isabstractmethod__", False) else ""
    title = name if of is None else f"{of.__name__}.{name}"
    signature = "" if is_property else f"\n    {name}{_signature(target)}\n"
    return f"{level} {title}{abstract}\n{signature}\n{_documentation(function)}\n"


class _Written(str):
    """An annotation that is shown without quotes."""

    def __repr__(self) -> str:
        return str(self)


def plain_signature(function: Any) -> inspect.Signature:
    """The signature; annotations that are texts are shown without quotes, defaults with them."""

    def written(annotation: Any) -> Any:
        return _Written(annotation) if isinstance(annotation, str) else annotation

    found = inspect.signature(function)
    parameters = [one.replace(annotation=written(one.annotation)) for one in found.parameters.values()]
    return found.replace(parameters=parameters, return_annotation=written(found.return_annotation))


def _signature(function: Any) -> str:
    """Without ``self``, and with short names of types."""
    found = plain_signature(inspect.unwrap(function))
    parameters = [one for one in found.parameters.values() if one.name not in ("self", "cls")]
    text = str(found.replace(parameters=parameters))
    return re.sub(r"\b(?:[a-z_]+\.)+(?=[A-Z])", "", text)


def _attributes(kind: type) -> Iterator[tuple[str, str, str, str]]:
    """Name, type, default and documentation of each attribute, as they are written."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(tree, ast.ClassDef)
    for number, node in enumerate(tree.body):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name) or node.target.id[0] == "_":
            continue
        after = tree.body[number + 1] if number + 1 < len(tree.body) else None
        text = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            text = inspect.cleandoc(str(after.value.value))
        annotation = re.sub(r"^ClassVar\[(.*)\]$", r"\1", ast.unparse(node.annotation))
        yield node.target.id, annotation, "" if node.value is None else ast.unparse(node.value), text


def _documentation(item: Any) -> str:
    """The docstring as Markdown: sections in bold, their entries as lists."""
    lines = inspect.cleandoc(vars(item).get("__doc__") or "" if inspect.isclass(item) else item.__doc__ or "")
    text = lines.replace("``", "`").replace("::\n", ":\n")
    text = re.sub(r":(?:class|func|meth|mod):`~?([\w.]+)`", r"`\1`", text)
    return "\n".join(_sections(text.splitlines()))


def _sections(lines: list[str]) -> Iterator[str]:
    inside = False
    for line in lines:
        if re.fullmatch(r"(Args|Attributes|Returns|Raises|Example):", line):
            inside = True
            yield f"**{line}**\n"
        elif inside and re.match(r"    [\w, *]+: ", line):
            name, _, rest = line.strip().partition(": ")
            yield f"- `{name}`: {rest}"
        elif inside and line.startswith("    "):
            yield f"  {line.strip()}"
        else:
            inside = inside and not line.strip()
            yield line


def _one_line(text: str) -> str:
    return " ".join(text.replace("``", "`").split())


def _entry(text: str) -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _wrapped(text: str) -> str:
    """Paragraphs as lines of at most 100 characters."""
    parts = (part if part.startswith("#") else textwrap.fill(part, WIDTH) for part in text.strip().split("\n\n"))
    return "\n\n".join(parts) + "\n"


def main(folder: str) -> None:
    """Writes the pages into ``folder``."""
    for name, text in pages().items():
        write_text(Path(folder) / name, text)


if __name__ == "__main__":
    main(sys.argv[1])
