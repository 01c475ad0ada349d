"""A recipe in plain words: the changes of operators, channels and numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from autocompress.report import words


def story(values: Mapping[str, Any], neutral: Mapping[str, Any] | None = None) -> list[tuple[str, str]]:
    """(step, description) of all changes of the recipe, in the order of the pipeline.

    Methods that have values in the recipe, but change nothing, are named at the end. ``neutral``
    has the values that leave the network unchanged, by name (``SearchResult.neutral``).

    Like :func:`words.recipe`, it uses only names of parameters, and depends on no method.
    """
    told = [("Operators", "; ".join(words.operators(values, neutral))), ("Channels", _channels(values))]
    if told[0][1] or told[1][1]:
        told.append(("Training", _training(values)))
    told.append(("Numbers", _numbers(values)))
    if values.get("source"):
        told.append(("Images", f"made by {values['source']}, because there were none to train on"))
    if idle := words.idle(values, neutral):
        verb = "does" if len(idle) == 1 else "do"
        told.append(("Unused", f"{words.join(idle)} {verb} nothing: the values leave the network as it is"))
    return [(what, how) for what, how in told if how]


def _channels(values: Mapping[str, Any]) -> str:
    told = words.kept(values)
    if told is None:
        return ""
    share, where = told
    return f"{share} of them are kept {where}, chosen by {values.get('prune.method', 'the pruner')}"


def _training(values: Mapping[str, Any]) -> str:
    epochs = [values.get(name) for name in ("recover.epochs", "qat.epochs")]
    spent = sum(count for count in epochs if isinstance(count, int | float) and not isinstance(count, bool))
    refitted = values.get("repair.fit", "none") != "none"
    if spent:
        text = f"{spent:g} epoch{'' if spent == 1 else 's'}, with the baseline as the teacher"
        return f"{text}, after weights were refitted" if refitted else text
    return "none in the recipe; the weights were refitted without it" if refitted else ""


def _numbers(values: Mapping[str, Any]) -> str:
    """Bits as text: ``8-bit integers everywhere but stem (float)``."""
    text = re.sub(r"\bint(\d+)\b", r"\1-bit integers", words.bits(values))
    return re.sub(r"\bW(\d+)A(\d+)\b", r"\1-bit weights and \2-bit activations", text)
