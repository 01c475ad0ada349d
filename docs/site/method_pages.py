"""The page of installed methods and devices, with their parameters."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from docstrings import GENERATED, cell, prose

from autocompress import models
from autocompress.cli.catalogue import EXAMPLE_MODEL, EXAMPLE_SIZE
from autocompress.contract import Manager, Method, Parameter, Space
from autocompress.contract.device import Device
from autocompress.contract.space import Chooser
from autocompress.job import load_job
from autocompress.recipes.parameters import every_parameter
from autocompress.recipes.recipe import compose

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
        values = "not searched" if len(one.choices) == 1 else cell(one.describe())
        text = cell(_begun(words.get(general(name), "")))
        rows.setdefault(shown, f"| `{shown}` | {values} | `{one.default}` | {text} |")
    return "\n".join(["| parameter | values | default | what it decides |", "|---|---|---|---|", *rows.values(), ""])


def _begun(text: str) -> str:
    """With a capital where a plain word begins it."""
    return text[:1].upper() + text[1:] if re.match(r"[a-z]{2,} ?(?!_)", text) else text


def _device_table(plugins: Manager) -> str:
    rows = [f"| `{one.name}` | {', '.join(sorted(one.measures))} | {_device_text(one)} |" for one in plugins.devices()]
    return "\n".join(["| device | gives | what it is |", "|---|---|---|", *rows, ""])


def _device_text(device: Device) -> str:
    return cell(device.describe() or (inspect.getdoc(type(device)) or "").partition("\n")[0])


def _cited(reference: str) -> str:
    """A reference with its arXiv number as a link."""
    return re.sub(r"arXiv (\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", reference).rstrip(".") + "."
