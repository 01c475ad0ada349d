"""The command line: thin. Every command imports what it needs when it runs, so that ``--help`` is quick."""

from __future__ import annotations

import sys

from autocompress.cli.app import app
from autocompress.errors import UserError

__all__ = ["app", "main"]


def main() -> None:
    """Entry point of ``autocompress``. What the user can put right is one line on stderr and exit code 2."""
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
