"""Pages of the site that are made from the code: the job, budget files, methods, Python, commands.

``pages()`` gives their Markdown. ``hooks.py`` adds them to a build of MkDocs; the tests read them
without it.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

import autocompress
from autocompress import models
from autocompress.authoring.reference import plain_signature
from autocompress.checking.limits import Limits
from autocompress.cli.app import app
from autocompress.cli.catalogue import EXAMPLE_MODEL, EXAMPLE_SIZE
from autocompress.contract import Manager, Method, Parameter, Space
from autocompress.contract.device import Device
from autocompress.contract.space import Chooser
from autocompress.job import Bound, Job, load_job
from autocompress.recipes.parameters import every_parameter
from autocompress.recipes.recipe import compose

GENERATED = "This page is made from the code of autocompress."

ENGINE = {
    "source": "The data source that makes the images, in jobs without training data.",
    "prune.method": "The pruner that orders the channels; `none` removes no channel.",
    "prune.mode": "Which channels may go: `inner` those inside blocks, `group` those that residual "
    "additions couple, too. `scatter` removes other channels in each layer of a coupling.",
    "prune.multiple": "Channel counts are multiples of this number; the default is the device's.",
    "prune.keep": "Share of the channels that a coupling keeps, one value for each group.",
    "repair.fit": "How layers are refitted that read removed channels: `one-shot`, `sequential`, `none`; "
    "`auto` chooses ([repair](../repair.md)).",
    "repair.images": "Images for the moments of a refit.",
    "recover.epochs": "Epochs of training after channels were removed or layers replaced.",
    "recover.lr": "Highest learning rate of that training.",
    "recover.distill": "Weight of the baseline's outputs as targets; the rest are the labels.",
    "bits.weight": "Quantizer and bits of the weights of a group; `none` leaves the group in float.",
    "bits.activation": "Bits of the activations of a group.",
    "qat.epochs": "Epochs of training with quantization simulated.",
    "qat.lr": "Highest learning rate of that training.",
    "qat.norm": "Batch norm meanwhile: `corrected` to long-term statistics, or `frozen` from the start.",
    "qat.norm_freeze": "Share of the training after which statistics of batch norm stay.",
    "qat.range_freeze": "Share of the training after which ranges of activations stay.",
    "qat.delay": "Share of the training before activations are quantized.",
    "qat.distill": "Weight of the baseline's outputs as targets.",
}
"""What the parameters of the engine's own stages decide, by name without the group."""


FUNCTIONS = ["search", "resume", "read", "load", "export_model", "check", "compare", "compare_files", "debug"]
"""Public functions, in the order in which a reader meets them."""


def pages() -> dict[str, str]:
    """Markdown of the generated pages, by path on the site."""
    return {
        "reference/job.md": job_page(),
        "reference/budget.md": budget_page(),
        "reference/methods.md": methods_page(),
        "reference/python.md": python_page(),
        "reference/flags.md": flags_page(),
    }


# --- the job and budget files ---------------------------------------------------------------------


def job_page() -> str:
    """Every key of a job file."""
    head = (
        "# Job file\n\n"
        f"{GENERATED} A job file is YAML. Its keys are also the keyword arguments of "
        "`autocompress.search`, and flags of `autocompress search` "
        "([commands](flags.md)); `--set budget.trials=20` sets any of them.\n"
    )
    return head + "".join(_section_tables(Job, ""))


def budget_page() -> str:
    """Every key of a budget file."""
    head = f"# Budget file\n\n{GENERATED} `autocompress check` reads it ([CI](../ci.md)).\n"
    return head + "".join(_section_tables(Limits, "", skip={"DataConfig", "DeviceConfig"}))


def _section_tables(model: type[BaseModel], key: str, skip: set[str] = frozenset()) -> Iterator[str]:  # type: ignore[assignment]
    title = f"`{key}`" if key else "Keys"
    yield f"\n## {title}\n\n{_first_paragraph(model)}\n\n| key | values | default | what it says |\n|---|---|---|---|\n"
    inner: list[tuple[str, type[BaseModel]]] = []
    for name, field in model.model_fields.items():
        section = _section_of(field)
        values = "a section, below" if section else _values(field)
        if section and section.__name__ in skip:
            values = "as in a [job](job.md)"
        elif section:
            inner.append((f"{key}.{name}" if key else name, section))
        yield f"| `{name}` | {values} | {_default(field, section)} | {_cell(field.description or '')} |\n"
    for full, section in inner:
        yield from _section_tables(section, full, skip)


def _section_of(field: FieldInfo) -> type[BaseModel] | None:
    """The section that a key holds, where it holds one; also of a list of them only the name."""
    found = [one for one in _parts(field.annotation) if isinstance(one, type) and issubclass(one, BaseModel)]
    found = [one for one in found if not issubclass(one, Bound)] if isinstance(Bound, type) else found
    return found[0] if found and "tuple" not in str(field.annotation) else None


def _parts(annotation: Any) -> list[Any]:
    """The annotation and everything inside it."""
    inside = getattr(annotation, "__args__", ())
    return [annotation, *(part for one in inside for part in _parts(one))]


def _values(field: FieldInfo) -> str:
    """The values of a key as a reader writes them."""
    annotation = str(field.annotation)
    words = [str(one) for part in _parts(field.annotation) for one in _literals(part)]
    kinds = {"bool": "true or false", "int": "whole number", "float": "number", "Path": "path", "Bound": "a bound"}
    plain = [text for kind, text in kinds.items() if re.search(rf"\b{kind}\b", annotation)]
    if "dict" in annotation:
        plain = ["name, path or mapping" if "str |" in annotation else "mapping"]
    if "tuple" in annotation:
        return "list" if not words else f"list of {', '.join(f'`{word}`' for word in words)}"
    if not plain and not words:
        plain = ["text"]
    limits = [f"{sign} {value:g}" for sign, value in _limits(field)]
    return " or ".join([*(f"`{word}`" for word in words), *plain]) + (f", {', '.join(limits)}" if limits else "")


def _literals(part: Any) -> tuple[Any, ...]:
    return part.__args__ if "Literal" in str(getattr(part, "__origin__", "")) else ()


def _limits(field: FieldInfo) -> Iterator[tuple[str, float]]:
    for rule in field.metadata:
        for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<")):
            if (value := getattr(rule, name, None)) is not None:
                yield sign, value


def _default(field: FieldInfo, section: type[BaseModel] | None) -> str:
    if field.is_required():
        return "required"
    if field.default is PydanticUndefined or section:
        return ""
    value = field.default
    if value is None or value == () or value == {}:
        return "—"
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"`{text.lower() if isinstance(value, bool) else text}`"


# --- methods --------------------------------------------------------------------------------------


def methods_page() -> str:
    """Every installed method with its paper, what it does, and its parameters."""
    plugins = Manager()
    job = load_job(settings={"model": EXAMPLE_MODEL, "data": "digits", "input_size": EXAMPLE_SIZE}, flags=True)
    model = models.reparameterise(models.create(job, None)).eval()
    parts = [
        "# Methods\n",
        f"{GENERATED} Names of parameters are those of recipes, of `space:` in a job, and of the columns of a "
        "comparison. `autocompress plugins --model NAME` shows the values for a network of your own, and whether a "
        f"method applies to it. The values here are those of {EXAMPLE_MODEL} with `granularity: model`. A value that "
        "is not searched is fixed at its default, unless the job gives another one:\n",
        "```yaml\nspace: {ghost: {ratio: [1, 2]}, bits: {weight.stem: none}}\n```\n",
        "## The engine's own parameters\n",
        _parameter_table(_engine_parameters(plugins, model), ENGINE),
    ]
    for method in plugins.methods():
        parts += _method_parts(method, _asked(lambda space, m=method: m.search_space(space.scope(m.name), model)))
    return "\n".join(parts) + "\n## Devices\n\n" + _device_table(plugins)


def _method_parts(method: Method, parameters: Mapping[str, Parameter]) -> list[str]:
    stage = getattr(method, "stage", None)
    kind = f"*{method.kind}*" + (f", stage {stage}" if stage else "")
    parts = [f"\n## {method.name}\n", f"{kind}. {_cited(method.reference)}\n"]
    parts.append(prose(_without_parameters(inspect.getdoc(type(method)) or "")) + "\n")
    if parameters:
        parts.append(_parameter_table(parameters, definitions_of(method)))
    return parts


def definitions_of(method: Method) -> dict[str, str]:
    """What the docstrings of a method say of its parameters, by full name without the group.

    The method's class says it, or a class of settings in its package.
    """
    package = type(method).__module__.partition(".")[0]
    texts = [inspect.getdoc(kind) or "" for kind in _settings_classes(importlib.import_module(package))]
    found: dict[str, str] = {}
    for text in [*texts, inspect.getdoc(type(method)) or ""]:
        found |= _definitions(text)
    return {f"{method.name}.{name}": words for name, words in found.items()}


def _settings_classes(package: ModuleType) -> list[type]:
    names = [one.name for one in pkgutil.iter_modules(getattr(package, "__path__", []))]
    modules = [importlib.import_module(f"{package.__name__}.{name}") for name in names]
    return [kind for module in modules for name, kind in vars(module).items() if name.endswith("Settings")]


def _definitions(text: str) -> dict[str, str]:
    """``    name, other: what`` of a docstring, with the lines that go on."""
    found: dict[str, str] = {}
    pattern = r"^    ([a-z_0-9]+(?:\.<group>)?(?:, [a-z_0-9]+)*): (.*(?:\n     +.*)*)"
    for names, words in re.findall(pattern, text, flags=re.MULTILINE):
        for name in names.split(", "):
            found[name.replace(".<group>", "")] = " ".join(words.split())
    return found


def _without_parameters(text: str) -> str:
    """A docstring without its lists of parameters and arguments."""
    pattern = r"^(?:Parameters?\b.*|Args|Attributes|Not searched .*):?\n(?:\n?    .*\n?|.+\n)*?(?=\n\S|\Z)"
    return re.sub(pattern, "", text + "\n", flags=re.MULTILINE).strip()


def _engine_parameters(plugins: Manager, model: Any) -> dict[str, Parameter]:
    every = plugins.methods()
    sourceless = [method for method in every if method.kind != "data source"]
    found: dict[str, Parameter] = {}
    for acting in (every, sourceless):
        found |= _asked(lambda space, m=acting: compose(space, model, m, 2), but={one.name for one in every})
    return {name: one for name, one in found.items() if name.partition(".")[0] not in {m.name for m in every}}


def _asked(ask: Callable[[Space], object], but: set[str] = frozenset()) -> dict[str, Parameter]:  # type: ignore[assignment]
    """Every parameter that ``ask`` asks for; those of methods in ``but`` are left out."""

    def run(chooser: Chooser) -> Space:
        space = Space(chooser, "model")
        ask(space)
        space.asked = {name: one for name, one in space.asked.items() if name.partition(".")[0] not in but}
        return space

    return every_parameter(run)


def general(name: str) -> str:
    """The name of a parameter without its group: ``bits.weight.model`` is ``bits.weight``."""
    return ".".join(name.split(".")[:2])


def _parameter_table(parameters: Mapping[str, Parameter], words: Mapping[str, str]) -> str:
    rows: dict[str, str] = {}
    for name, one in parameters.items():
        shown = general(name) + (".GROUP" if name != general(name) else "")
        values = "not searched" if len(one.choices) == 1 else _cell(one.describe())
        text = _cell(_begun(words.get(general(name), "")))
        rows.setdefault(shown, f"| `{shown}` | {values} | `{one.default}` | {text} |")
    return "\n".join(["| parameter | values | default | what it decides |", "|---|---|---|---|", *rows.values(), ""])


def _begun(text: str) -> str:
    """With a capital where a plain word begins it."""
    return text[:1].upper() + text[1:] if re.match(r"[a-z]{2,} ?(?!_)", text) else text


def _device_table(plugins: Manager) -> str:
    rows = [f"| `{one.name}` | {', '.join(sorted(one.measures))} | {_device_text(one)} |" for one in plugins.devices()]
    return "\n".join(["| device | gives | what it is |", "|---|---|---|", *rows, ""])


def _device_text(device: Device) -> str:
    return _cell(device.describe() or (inspect.getdoc(type(device)) or "").partition("\n")[0])


def _cited(reference: str) -> str:
    """A reference with its arXiv number as a link."""
    return re.sub(r"arXiv (\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", reference).rstrip(".") + "."


# --- Python and commands --------------------------------------------------------------------------


def python_page() -> str:
    """The public names of the package."""
    parts = [f"# Python\n\n{GENERATED} These names are the public interface.\n\n```python\nimport autocompress\n```\n"]
    order = [*FUNCTIONS, *(name for name in autocompress.__all__ if name not in FUNCTIONS)]
    for name in order:
        thing = getattr(autocompress, name)
        if name in ("__version__", "Job"):
            continue
        parts.append(f"\n## autocompress.{name}\n\n{_documented(thing, name)}")
        if inspect.isclass(thing) and not issubclass(thing, Exception):
            parts += [_member(thing, member) for member in vars(thing) if not member.startswith("_")]
    parts.append(
        "\n## autocompress.Job\n\nThe job that a search was asked for; `SearchResult.job` has it. "
        "Its attributes are the [keys of a job file](job.md).\n"
    )
    return "".join(parts)


def _member(owner: type, name: str) -> str:
    found = inspect.getattr_static(owner, name)
    thing = found.fget if isinstance(found, property) else found
    if isinstance(thing, (classmethod, staticmethod)):
        thing = thing.__func__
    text = inspect.getdoc(thing)
    if not callable(thing) or not text:
        return ""
    shown = name if isinstance(found, property) else f"{name}{_signature(thing)}"
    return f"\n### {owner.__name__}.{name}\n\n```python\n{shown}\n```\n\n{sections(text)}\n"


def _documented(thing: Any, name: str) -> str:
    called = "" if inspect.isclass(thing) else f"```python\n{name}{_signature(thing)}\n```\n\n"
    return f"{called}{sections(inspect.getdoc(thing) or '')}\n"


def _signature(thing: Callable[..., Any]) -> str:
    text = str(plain_signature(thing))
    text = re.sub(r"\b(?:pathlib|pandas(?:\.\w+)*|collections\.abc|typing|torch\.nn)\.", "", text)
    return text if len(text) < 80 else text.replace("(", "(\n    ", 1).replace(", ", ",\n    ")


def flags_page() -> str:
    """Every command with its arguments and flags."""
    group = typer.main.get_command(app)
    parts = [
        f"# Commands and flags\n\n{GENERATED} [Commands and what they leave](../commands.md) has the exit codes.\n"
    ]
    assert isinstance(group, click.Group) or hasattr(group, "commands")
    for path, command in _commands(group, "autocompress"):
        parts.append(f"\n## {path}\n\n{prose(inspect.cleandoc(command.help or ''))}\n")
        rows = [_flag_row(one) for one in command.params if not getattr(one, "hidden", False) and one.name != "help"]
        if rows:
            parts.append("\n| argument or flag | what it does |\n|---|---|\n" + "".join(rows))
    return "".join(parts)


def _commands(group: Any, path: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{path} {name}")
        elif not command.hidden:
            yield f"{path} {name}", command


def _flag_row(parameter: Any) -> str:
    spelled = [*parameter.opts, *parameter.secondary_opts]
    is_flag = any(word.startswith("-") for word in spelled)
    name = ", ".join(f"`{word}`" for word in spelled) if is_flag else f"`{parameter.metavar or parameter.name.upper()}`"
    return f"| {name} | {_cell(getattr(parameter, 'help', None) or '')} |\n"


# --- docstrings as Markdown -----------------------------------------------------------------------


def tidied(text: str) -> str:
    """Docstring marks as Markdown: double backquotes and roles are code."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text)
    return re.sub(r"``([^`]+)``", r"`\1`", text)


def prose(text: str) -> str:
    """A docstring without sections; what stands indented stays a block of code."""
    return "\n\n".join(
        part if part.startswith("    ") else tidied(part) for part in re.split(r"\n\s*\n", textwrap.dedent(text))
    )


def sections(text: str) -> str:
    """A docstring with Google's sections as Markdown: arguments are a list, examples code."""
    head, *rest = re.split(r"^(Args|Attributes|Returns|Raises|Yields|Examples?)::?\n", text, flags=re.MULTILINE)
    parts = [prose(head.strip("\n"))]
    for title, body in zip(rest[::2], rest[1::2], strict=True):
        block, after = _indented(body)
        parts.append(f"**{title}**")
        if title.startswith("Example"):
            parts.append(f"```python\n{textwrap.dedent(block).strip()}\n```")
        else:
            parts.append("\n".join(_items(textwrap.dedent(block))))
        parts += [prose(after)] if after else []
    return "\n\n".join(part for part in parts if part.strip())


def _indented(body: str) -> tuple[str, str]:
    """The indented block at the start of a section's text, and what follows it."""
    lines = body.splitlines()
    end = next((n for n, line in enumerate(lines) if line.strip() and not line.startswith("    ")), len(lines))
    return "\n".join(lines[:end]), "\n".join(lines[end:]).strip()


def _items(block: str) -> Iterator[str]:
    """``name: what`` with lines that go on, as items of a list."""
    for item in re.split(r"\n(?=\S)", block.strip()):
        words = tidied(" ".join(item.split()))
        name, colon, what = words.partition(": ")
        simple = colon and re.fullmatch(r"[\w, *.]+", name)
        yield f"- `{name}`: {what}" if simple else f"- {words}"


def _first_paragraph(model: type) -> str:
    text = inspect.getdoc(model) or ""
    return tidied(text.partition("\n\nMake one with")[0].replace("\n\n", "\n\n"))


def _cell(text: str) -> str:
    """Text that fits into one cell of a table."""
    return tidied(" ".join(text.split())).replace("|", "\\|")


ROOT = Path(__file__).parents[2]
