"""The budget file: the limits for a model, and how to check them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from autocompress.errors import HintedError, UserError, did_you_mean
from autocompress.job import Bound, Constraints, DataConfig, DeviceConfig, TaskConfig
from autocompress.job.load import sentence
from autocompress.job.yamlfile import read_yaml

_Names = Annotated[tuple[str, ...], Field(strict=False)]


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class LimitValues(Constraints):
    """Limits: those of a job's ``constraints``, and the least accuracy in percent."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    accuracy: float | None = Field(default=None, ge=0, le=100)
    """Minimum accuracy, in percent."""

    def relative(self) -> list[str]:
        """Names of the limits that are relative to a reference."""
        bounds = self.all_bounds()
        return [name for name, bound in bounds.items() if bound.relative or name == "accuracy_drop"]


class Operators(_Section):
    """The operators that a graph may contain, by name in ONNX or as ``domain::name``."""

    allowed: _Names | None = None
    """Only these operators may occur."""
    forbidden: _Names = ()
    """None of these operators may occur."""

    def told(self) -> str:
        """The rule as text."""
        only = [] if self.allowed is None else [f"only {', '.join(self.allowed) or 'none at all'}"]
        return "; ".join([*only, *([f"none of {', '.join(self.forbidden)}"] if self.forbidden else [])]) or "any"

    def faults(self, found: dict[str, int]) -> list[str]:
        """The forbidden operators in ``found``, with their numbers."""
        return [
            f"{count} {name}"
            for name, count in sorted(found.items())
            if name in self.forbidden or (self.allowed is not None and name not in self.allowed)
        ]


class Preprocessing(_Section):
    """Preprocessing of pictures, as in ``preprocessing.json``."""

    mean: tuple[float, ...] = Field(strict=False, min_length=1)
    """Mean to subtract: a number for each channel, of values from 0 to 1."""
    std: tuple[float, ...] = Field(strict=False, min_length=1)
    """Standard deviation to divide by: a number for each channel."""
    crop_pct: float = Field(default=1.0, gt=0, le=1)
    """Side of the crop as a share of the side of the resized picture."""
    crop_mode: str = "center"
    """timm's ``crop_mode``."""
    interpolation: str = "bilinear"
    """timm's ``interpolation``."""
    class_names: _Names | None = None
    """Names of the classes, in the order of the outputs."""


class Limits(_Section):
    """A budget file."""

    limits: LimitValues = LimitValues()
    """Bounds on quantities."""
    operators: Operators | None = None
    """The operators that the graph of the file may contain."""
    fused_operators: Operators | None = None
    """The operators in the graph that ONNX Runtime runs after its fusions."""
    data: DataConfig | None = None
    """Labelled images, for accuracy. One name gives its held-out images."""
    task: TaskConfig = TaskConfig()
    """What the labels are for; accuracy is its metric."""
    reference: Annotated[Path, Field(strict=False)] | None = None
    """The ONNX file for ratios and drops."""
    device: DeviceConfig = DeviceConfig()
    """How latency is measured."""
    preprocessing: Preprocessing | None = None
    """Preprocessing of pictures; without it, that in the metadata of the file."""
    seconds: float = Field(default=3.0, gt=0, le=3600)
    """Duration of one measurement of latency."""
    reruns: int = Field(default=2, ge=0, le=20)
    """Maximum number of further measurements of latency, while the limit lies within the interval.

    All measurements are then judged together.
    """

    def bounds(self) -> dict[str, Bound]:
        """All upper bounds by quantity."""
        return self.limits.all_bounds()


def read_limits(file: str | Path) -> Limits:
    """Reads a budget file.

    Raises:
        UserError: naming file, line and key; also if the file has no limit.
    """
    document = read_yaml(Path(file), "budget file")
    values: dict[str, Any] = dict(document.values)
    if isinstance(values.get("data"), str):  # a single name: only its held-out images
        values["data"] = {"test": values["data"]}
    try:
        limits = Limits.model_validate(values)
    except ValidationError as error:
        raise sentence(error, document.source, whole="a budget", hint=_known) from None
    except HintedError as error:
        raise UserError(f"{file}: {error}", error.hint) from None
    if not limits.bounds() and limits.limits.accuracy is None and not (limits.operators or limits.fused_operators):
        raise UserError(f"{file} limits nothing", "give it 'limits:', for example {latency: 0.5x}")
    return limits


def _known(path: list[str], value: Any, *, in_file: bool) -> str:
    """A hint with similar keys of the section, or with the section of the key."""
    del value, in_file
    *inside, key = path
    if not inside and key in LimitValues.model_fields:
        return "it belongs under 'limits:'"
    section: type[BaseModel] = Limits
    for name in inside:
        field = section.model_fields.get(name)
        kinds = _kinds(field.annotation if field else None)
        section = kinds[0] if kinds else Limits
    return did_you_mean(key, section.model_fields)


def _kinds(annotation: Any) -> list[type[BaseModel]]:
    candidates = getattr(annotation, "__args__", (annotation,))
    return [kind for kind in candidates if isinstance(kind, type) and issubclass(kind, BaseModel)]
