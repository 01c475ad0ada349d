"""timm's model names, read from its source, because importing timm takes seconds."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from autocompress.errors import did_you_mean
from autocompress.job.schema import Job

PLUGIN_GROUP = "autocompress"
"""The group of entry points through which plugins are found."""
ELSEWHERE = ("hf-hub:", "hf_hub:", "local-dir:")
"""Prefixes of models on a hub or in a folder, which timm does not list."""

_MODULE = re.compile(r"^from \.(\w+) import \*", re.MULTILINE)
_MODEL = re.compile(r"^@register_model\b.*\n(?:(?:@|\s*#).*\n)*def (\w+)", re.MULTILINE)
_DEPRECATED = re.compile(r"^register_model_deprecations\(__name__, \{(.*?)^\}\)", re.MULTILINE | re.DOTALL)
_KEY = re.compile(r"""['"](\w+)['"]\s*:""")
_WEIGHTS = re.compile(r"""['"](\w+\.[\w.-]+)['"]\s*:""")


@dataclass(frozen=True)
class ModelNames:
    """The names of timm's models.

    Attributes:
        architectures: current names, as they are defined.
        deprecated: former names that timm still knows.
        weights: all ``architecture.tag`` of a model; none if timm computes the tags. Some of these
            weights have no file.
    """

    architectures: tuple[str, ...]
    deprecated: frozenset[str]
    weights: tuple[str, ...]


@cache
def model_names() -> ModelNames | None:
    """The names in the source of the installed timm; None if the source has another form."""
    spec = importlib.util.find_spec("timm")  # does not import it
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "models"
    found: list[str] = []
    weights: list[str] = []
    deprecated: set[str] = set()
    try:
        for module in _MODULE.findall((folder / "__init__.py").read_text(encoding="utf-8")):
            text = (folder / f"{module}.py").read_text(encoding="utf-8")
            found += _MODEL.findall(text)
            weights += _WEIGHTS.findall(text)
            for block in _DEPRECATED.findall(text):
                deprecated.update(_KEY.findall(block))
                deprecated.update(name.partition(".")[0] for name in _WEIGHTS.findall(block))
    except OSError:
        return None
    if not found or not weights:
        return None
    return ModelNames(tuple(sorted(found)), frozenset(deprecated), tuple(sorted(set(weights))))


def check_model_name(job: Job) -> None:
    """Refuses a model that timm certainly does not have, without importing timm.

    It checks nothing if timm is imported already, or if other plugins are installed, which may add
    models to timm's registry. :func:`autocompress.job.validate` then asks timm.

    Raises:
        UserError: if timm has no such model; the hint gives the closest names.
    """
    if job.model.startswith(ELSEWHERE) or "timm" in sys.modules or job.plugins or other_plugins():
        return
    names = model_names()
    if names is None:
        return
    name, _, tag = job.model.partition(".")
    if name not in names.architectures and name not in names.deprecated:
        raise unknown_model(job, names.architectures)
    # timm computes the tags of a few models, so they cannot be checked here.
    own = [full for full in names.weights if full.startswith(f"{name}.")]
    if tag and own and job.model not in own and name not in names.deprecated:
        raise unknown_weights(job, own)


def unknown_model(job: Job, known: Iterable[str]) -> Exception:
    """The error for a model that timm does not have."""
    if "/" in job.model:
        hint = f"for a model of the Hugging Face hub write hf-hub:{job.model}, for a folder local-dir:{job.model}"
    else:
        hint = did_you_mean(job.model.partition(".")[0], known)
    return job.source.error("model", f"names no timm model: '{job.model}'", hint)


def unknown_weights(job: Job, known: Iterable[str]) -> Exception:
    """The error for weights that timm does not have."""
    return job.source.error("model", f"names unknown weights: '{job.model}'", did_you_mean(job.model, known))


def other_plugins() -> bool:
    """Whether plugins are installed that do not come with autocompress."""
    points = importlib.metadata.entry_points(group=PLUGIN_GROUP)
    return any(point.dist is None or point.dist.name != "autocompress" for point in points)
