"""Accessibility of the page: contrast, headings, labels, and use without a script.

``test_axe.py`` checks more with axe-core, which cannot judge the contrast of text in pictures.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from example_run import write_run

from autocompress import results
from autocompress.report.page import render

CSS = (Path(results.__file__).parent.parent / "report" / "templates" / "report.css").read_text(encoding="utf-8")
TEXT = ("ink", "soft", "front", "baseline", "failed", "met")
GROUNDS = ("page", "card")
LEAST_CONTRAST = 4.5
"""Minimum contrast of text by WCAG 2.2, level AA."""


class Page(HTMLParser):
    """Headings, controls, names and identifiers of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.headings: list[int] = []
        self.ids: list[str] = []
        self.labelled: set[str] = set()
        self.unnamed: list[str] = []
        self.headers_without_scope = 0
        self.focusable: list[str] = []
        self._label_depth = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if known.get("id"):
            self.ids.append(str(known["id"]))
        if tag == "label":
            self._label_depth += 1
            self.labelled.add(str(known.get("for")))
        if tag in ("input", "select") and not self._label_depth and known.get("id") not in self.labelled:
            self.unnamed.append(str(known.get("id")))
        if tag == "svg" and known.get("aria-hidden") != "true" and not known.get("aria-label"):
            self.unnamed.append("svg")
        if known.get("tabindex") == "0":
            self.focusable.append(tag)
            if not known.get("aria-label"):
                self.unnamed.append(tag)
        self.headers_without_scope += tag == "th" and "scope" not in known
        if "scroll" in (known.get("class") or "").split() and known.get("tabindex") != "0":
            self.unnamed.append("a region that scrolls and cannot be reached by keyboard")

    def handle_endtag(self, tag: str) -> None:
        self._label_depth -= tag == "label"


def luminance(colour: str) -> float:
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_text_has_enough_contrast(mode: int) -> None:
    pairs = dict(re.findall(r"--(\w+): light-dark\(([^)]+)\);", CSS))
    colours = {name: told.split(", ")[mode] for name, told in pairs.items()}
    weak = [
        (text, ground, round(found, 2))
        for text in TEXT
        for ground in GROUNDS
        if (found := contrast(colours[text], colours[ground])) < LEAST_CONTRAST
    ]
    assert weak == []
    assert contrast("#ffffff", "#000000") == 21.0
    assert contrast("#777777", "#ffffff") < LEAST_CONTRAST


def test_headings_and_controls_can_be_navigated(tmp_path: Path) -> None:
    text = render(results.read(write_run(tmp_path)))
    page = Page(text)
    assert page.headings[:2] == [1, 2]
    assert page.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(page.headings, page.headings[1:], strict=False))
    assert len(page.ids) == len(set(page.ids))
    assert page.unnamed == []
    assert page.headers_without_scope == 0
    assert len(page.focusable) >= 5
    assert '<html lang="en">' in text


def test_a_missing_label_is_found() -> None:
    page = Page(
        '<h1>a</h1><input id="b"><svg></svg><div class="scroll">c</div><th>d</th><label><select></select></label>'
    )
    assert len(page.unnamed) == 3
    assert page.headers_without_scope == 1
