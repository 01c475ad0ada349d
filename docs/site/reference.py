"""Pages of the site that are made from the code: the job, budget files, methods, Python, commands.

``pages()`` gives their Markdown. ``hooks.py`` adds them to a build of MkDocs; the tests read them
without it.
"""

from __future__ import annotations

from pathlib import Path

from interface_pages import flags_page, python_page
from job_pages import budget_page, job_page
from method_pages import methods_page

ROOT = Path(__file__).parents[2]


def pages() -> dict[str, str]:
    """Markdown of the generated pages, by path on the site."""
    return {
        "reference/job.md": job_page(),
        "reference/budget.md": budget_page(),
        "reference/methods.md": methods_page(),
        "reference/python.md": python_page(),
        "reference/flags.md": flags_page(),
    }
