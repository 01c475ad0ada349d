"""Hooks of MkDocs: generated pages, and what pages show from other folders of the repository."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))

from reference import ROOT, pages

PICTURE = re.compile(r"(!\[[^\]]*\]\()(?:\.\./)+([^)]+\))")
OUTSIDE = re.compile(r"(?<!!)\[([^\]]*)\]\(((?:\.\./)+|examples/)([^)#]+)(?:#[^)]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Adds the generated pages, and the pictures of results that pages show."""
    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    texts = [file.content_string for file in files.documentation_pages()]
    shown = {path.rstrip(")") for text in texts for _, path in PICTURE.findall(text)}
    for path in sorted(shown):
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to files of the repository become their paths; pictures come from this site."""
    if page.file.src_uri.startswith("reference/"):
        return markdown
    markdown = PICTURE.sub(r"\1\2", markdown)
    return OUTSIDE.sub(
        lambda found: _named(found[1], ("docs/" if found[2] == "examples/" else "") + found[3], found[2]), markdown
    )


def _named(text: str, path: str, start: str) -> str:
    path = path if start != "examples/" else f"docs/examples/{path.removeprefix('docs/')}"
    bare = text.strip("`")
    return f"`{path}`" if bare in (path, Path(path).name) else f"{text} (`{path}`)"
