"""Profiles of cost models: the cost of one operation on some hardware, with sources.

A profile is a YAML file. Those in ``profiles/`` belong to the package, and users write their own:

    description: one line
    units:
      multiply-add:
        8x8: {per_second: 1.0e11, joules: 3.0e-13, source: who published it, table, year}
        float: {per_second: 1.0e10, joules: 4.6e-12, source: ...}
    float_as: 8x8                     # for kinds without a float unit

or, in place of units, ``bit_operations: {per_second: 1.0e12, source: ..., kinds: {multiply-add:
product}}``.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from autocompress.errors import UserError, did_you_mean
from autocompress.files import digest
from autocompress.job.yamlfile import Document, read_yaml

FLOAT_BITS = 32
"""Operands of this width are float; for hardware without float units, see ``float_as``."""
SUFFIXES = (".yaml", ".yml")

_Positive = Annotated[float, Field(gt=0)]
_Text = Annotated[str, Field(min_length=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Unit(_Section):
    """The cost of one operation at a pair of widths: operations a second, joules an operation."""

    per_second: _Positive | None = None
    joules: _Positive | None = None
    source: _Text


class BitOperations(_Section):
    """A cost that is proportional to bit operations.

    ``kinds`` gives the number of bit operations of one operation: the product of its widths, or the
    larger width.
    """

    per_second: _Positive
    source: _Text
    kinds: Annotated[dict[str, Literal["product", "widest"]], Field(min_length=1)]


@dataclass(frozen=True)
class Cost:
    """The cost of one operation; None where the profile has no such figure.

    ``ran_as`` is the unit on which it ran.
    """

    seconds: float | None
    joules: float | None
    ran_as: str


class Profile(_Section):
    """Costs of operations, by kind and by widths of weights and activations.

    ``units`` has, for each operator kind, units by widths: ``<weight bits>x<activation bits>``, or
    ``float``.
    """

    description: _Text
    sources: dict[str, str] = Field(default_factory=dict)
    units: dict[str, dict[str, Unit]] = Field(default_factory=dict)
    float_as: str | None = None
    bit_operations: BitOperations | None = None

    @model_validator(mode="after")
    def _check(self) -> Profile:
        for kind, units in self.units.items():
            for widths in units:
                if widths != "float" and _widths(widths) is None:
                    raise _Wrong(f"units.{kind}.{widths}", "is no pair of widths", "write 4x8 (weights x activations)")
        if self.float_as is not None and _widths(self.float_as) is None:
            raise _Wrong("float_as", f"cannot be '{self.float_as}'", "write 8x8 (weights x activations)")
        if self.units and self.bit_operations is not None:
            raise _Wrong("bit_operations", "cannot stand beside 'units'", "make two profiles")
        if "multiply-add" not in self.kinds:
            raise _Wrong("units", "have no 'multiply-add', which every network needs")
        for figure in ("per_second", "joules"):
            given = {where: getattr(unit, figure) is not None for where, unit in self._all_units()}
            if len(set(given.values())) > 1:
                lacking = next(where for where, has in given.items() if not has)
                raise _Wrong(lacking, f"has no '{figure}', which other units have", "give it to all units or to none")
        if not self.measures:
            raise _Wrong("units", "have neither 'per_second' nor 'joules'")
        for kind in self.kinds:
            if self._unit(kind, FLOAT_BITS, FLOAT_BITS) is None:
                where = "float_as" if self.float_as else f"units.{kind}"
                hint = f"add a unit 'float' to '{kind}', or 'float_as' with widths that one of its units takes"
                raise _Wrong(where, f"leaves float operands of '{kind}' without a unit", hint)
        return self

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """The operator kinds in the profile."""
        return tuple(sorted({*self.units, *(self.bit_operations.kinds if self.bit_operations else ())}))

    @cached_property
    def measures(self) -> frozenset[str]:
        """Latency if it has operations per second, energy if it has joules."""
        units = [unit for _, unit in self._all_units()]
        latency = any(unit.per_second is not None for unit in units) or self.bit_operations is not None
        found = {"latency": latency, "energy": any(unit.joules is not None for unit in units)}
        return frozenset(name for name, has in found.items() if has)

    @cached_property
    def key(self) -> str:
        """Digest of the whole profile."""
        return digest(self.model_dump(mode="json"))

    def cost(self, kind: str, weight_bits: int, activation_bits: int) -> Cost | None:
        """The cost of one operation; None for a kind that the profile lacks.

        Operands run on the smallest unit that takes both widths. If one of them is float (32 bits)
        or wider than all units, they run on the float unit, or without a float unit on that of
        ``float_as``.
        """
        bits = self.bit_operations
        if bits is not None and kind in bits.kinds:
            widths = (weight_bits, activation_bits)
            count = math.prod(widths) if bits.kinds[kind] == "product" else max(widths)
            return Cost(count / bits.per_second, None, f"{weight_bits}x{activation_bits}")
        name = self._unit(kind, weight_bits, activation_bits)
        if name is None:
            return None
        unit = self.units[kind][name]
        return Cost(None if unit.per_second is None else 1 / unit.per_second, unit.joules, name)

    def _unit(self, kind: str, weight_bits: int, activation_bits: int) -> str | None:
        """The unit on which an operation runs; None if the kind has none."""
        if self.bit_operations is not None and kind in self.bit_operations.kinds:
            return f"{weight_bits}x{activation_bits}"
        units = self.units.get(kind, {})
        if FLOAT_BITS in (weight_bits, activation_bits):
            fitting = None
        else:
            fitting = _smallest(units, weight_bits, activation_bits)
        if fitting is not None or "float" in units:
            return fitting or "float"
        as_integers = _widths(self.float_as) if self.float_as is not None else None
        return None if as_integers is None else _smallest(units, *as_integers)

    def _all_units(self) -> list[tuple[str, Unit]]:
        """Every unit, with its key in the file."""
        return [(f"units.{kind}.{name}", unit) for kind, units in self.units.items() for name, unit in units.items()]


class _Wrong(ValueError):
    """An invalid value of one key of a profile."""

    def __init__(self, key: str, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.key, self.hint = key, hint


def load_profile(path: Path) -> Profile:
    """Reads a profile; the loader only makes plain values.

    Raises:
        UserError: naming file, line and key, if the file cannot be read or is not a profile.
    """
    document = read_yaml(path, "cost-model profile")
    try:
        return Profile.model_validate(document.values)
    except ValidationError as error:
        raise _sentence(document, error.errors()[0]) from None


def built_in_profiles() -> dict[str, Profile]:
    """The profiles that come with the package, by name."""
    with resources.as_file(resources.files("autocompress.devices") / "profiles") as folder:
        return {path.stem: load_profile(path) for path in sorted(folder.glob("*.yaml"))}


def _sentence(document: Document, problem: Any) -> UserError:
    wrong = problem.get("ctx", {}).get("error")
    if isinstance(wrong, _Wrong):
        return document.source.error(wrong.key, str(wrong), wrong.hint)
    key = ".".join(str(part) for part in problem["loc"] if part != "[key]")
    if problem["type"] == "missing":
        return document.source.error(key, "is missing", "every number has its source" if key.endswith("source") else "")
    if problem["type"] == "extra_forbidden":
        parent = len(problem["loc"]) - 1
        fields = (Profile, BitOperations)[parent] if parent < 2 else Unit
        return document.source.error(key, "is no key of a cost-model profile", did_you_mean(
            str(problem["loc"][-1]), fields.model_fields
        ))  # fmt: skip
    text = problem["msg"].removeprefix("Input should be ")
    return document.source.error(key, f"must be {text}, not {problem['input']!r}")


def _widths(text: str) -> tuple[int, int] | None:
    """(weight bits, activation bits) of ``4x8``; None for anything else."""
    found = re.fullmatch(r"([1-9]\d?)x([1-9]\d?)", text)
    return None if found is None else (int(found[1]), int(found[2]))


def _smallest(units: dict[str, Unit], weight_bits: int, activation_bits: int) -> str | None:
    """The narrowest unit that takes both operands."""
    fitting = []
    for name in units:
        widths = _widths(name)
        if widths is not None and widths[0] >= weight_bits and widths[1] >= activation_bits:
            fitting.append((widths[0] * widths[1], widths, name))
    return min(fitting)[2] if fitting else None
