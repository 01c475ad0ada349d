"""Chromium without a window, and axe-core in it, for tests of pages."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from patience import patient

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium here: the charts of the page are not drawn")
SWITCHES = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--enable-logging=stderr"),
    "--window-size=1300,2000",
)


def dumped(page: Path, profile: Path, milliseconds: int = 3000) -> str:
    """The DOM that a browser makes of ``page`` in so much of the page's own time.

    Fails if a script of the page fails.
    """
    command = [str(BROWSER), *SWITCHES, f"--user-data-dir={profile}", f"--virtual-time-budget={milliseconds}"]
    command += ["--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=patient(120), check=True)
    assert "Uncaught" not in done.stderr, done.stderr
    assert "Content Security Policy" not in done.stderr, done.stderr
    return done.stdout


def axe_core() -> Path | None:
    """The file of axe-core (npm), as ``AXE_CORE`` names it or where npm has installed it."""
    if named := os.environ.get("AXE_CORE"):
        return Path(named)
    folders = [Path(__file__).parent.parent / "node_modules"]
    if npm := shutil.which("npm"):
        told = subprocess.run([npm, "root", "-g"], capture_output=True, text=True, timeout=patient(60), check=False)
        folders += [Path(told.stdout.strip())] if told.returncode == 0 else []
    files = [folder / "axe-core" / "axe.min.js" for folder in folders]
    return next((file for file in files if file.is_file()), None)


@dataclass(frozen=True)
class Fault:
    """A rule of axe-core that an element breaks.

    Attributes:
        page: name of the page.
        width: of the page, in pixels.
        scheme: "light" or "dark".
        impact: "minor", "moderate", "serious" or "critical".
        rule: its identifier.
        element: a selector.
        told: what is wrong.
    """

    page: str
    width: int
    scheme: str
    impact: str
    rule: str
    element: str
    told: str


WATCHED = """
addEventListener("load", async () => {
  const found = [];
  for (const details of document.querySelectorAll("details")) details.open = true;
  for (const scheme of ["light", "dark"]) {
    document.documentElement.style.colorScheme = scheme;
    const {violations} = await axe.run(document, {resultTypes: ["violations"]});
    for (const {id, impact, nodes} of violations)
      for (const node of nodes) found.push([scheme, impact, id, node.target.join(" "), node.failureSummary]);
  }
  const wide = [...document.querySelectorAll(":root, .scroll")].filter((one) => one.scrollWidth > one.clientWidth);
  parent.postMessage([NAME, innerWidth, found, wide.map((one) => one.getAttribute("aria-label") ?? "page")], "*");
});
"""
COLLECTED = """
addEventListener("message", ({data}) => {
  const told = document.createElement("pre");
  told.textContent = JSON.stringify(data);
  document.body.append(told);
});
"""


@dataclass(frozen=True)
class Looked:
    """A page in a browser: its width, the names of what scrolls sideways, and faults."""

    page: str
    width: int
    sideways: list[str]
    faults: list[Fault]


def looked_at(pages: dict[str, str], axe: Path, folder: Path, widths: Sequence[int] = (390, 1280)) -> list[Looked]:
    """axe-core's faults of pages by name, in light and in dark, with everything unfolded.

    One browser has all pages as frames of these widths.
    """
    library = axe.read_text(encoding="utf-8").replace("</script", "<\\/script")
    frames = []
    for name, text in pages.items():
        script = f"<script>{library}</script><script>{WATCHED.replace('NAME', json.dumps(name))}</script></body>"
        told = html.escape(text.replace("</body>", script))
        frames += [f'<iframe width="{width}" height="2000" srcdoc="{told}"></iframe>' for width in widths]
    harness = folder / "harness.html"
    harness.write_text(f"<!doctype html><body><script>{COLLECTED}</script>{''.join(frames)}</body>", encoding="utf-8")
    dom = dumped(harness, folder / "profile", milliseconds=60_000)
    found = []
    for text in re.findall(r"<pre>(\[.*?\])</pre>", dom.rpartition("</iframe>")[2]):
        name, width, faults, sideways = json.loads(html.unescape(text))
        found.append(Looked(name, width, sideways, [Fault(name, width, *fault) for fault in faults]))
    assert sorted((one.page, one.width) for one in found) == sorted((name, width) for name in pages for width in widths)
    return found
