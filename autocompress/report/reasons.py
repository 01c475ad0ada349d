"""Reasons that differ only in numbers, as one text with the range of each number."""

from __future__ import annotations

import re
from collections.abc import Sequence

_DIGITS = re.compile(r"[-−+]?\d+(\.\d+)?")
_WORD = re.compile(r"""[^\s,;:()\[\]{}='"]+""")
_DIGIT = re.compile(r"\d")
_NUMBER = re.compile(r"([-−+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?)[a-zA-Z%×µ]{0,3}\.?")
"""A number with its unit, maybe at the end of a sentence."""


def kind(reason: str) -> str:
    """The reason without its numbers; reasons of one kind are told together."""
    return _DIGITS.sub("0", reason)


def together(reasons: Sequence[str]) -> str:
    """Reasons of one kind as one text: ``latency 0.6581x to 0.9634x, at most 0.5x``.

    Where names differ, the text has the first of them: ``layer1.0.conv1 (and others)``.
    """
    columns = list(zip(*(_with_digits(reason) for reason in reasons), strict=True))
    words = iter([_told(column) for column in columns])
    return _WORD.sub(lambda word: next(words) if _DIGIT.search(word[0]) else word[0], reasons[0])


def _with_digits(reason: str) -> list[str]:
    """The words with a digit: numbers with their units, and names such as ``layer1.0.conv1``."""
    return [word for word in _WORD.findall(reason) if _DIGIT.search(word)]


def _told(words: Sequence[str]) -> str:
    first = words[0]
    if all(word == first for word in words):
        return first
    numbers = {word: match for word in words if (match := _NUMBER.fullmatch(word))}
    if len(numbers) < len(set(words)):
        return f"{first} (and others)"
    ordered = sorted(numbers, key=lambda word: float(numbers[word].group(1).replace("−", "-")))
    return f"{ordered[0].rstrip('.')} to {ordered[-1]}"
