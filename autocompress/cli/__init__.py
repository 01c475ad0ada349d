"""The command line: thin.

Every command imports what it needs when it runs, so that ``--help`` is quick.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from autocompress.cli import output
from autocompress.cli.app import app
from autocompress.errors import ExitCode, Terminated, UserError

__all__ = ["app", "main"]

THE_MACHINES_FAULT = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
"""Errors of the file system that are no bugs: no room left, or no permission."""


def main() -> None:
    """Entry point of ``autocompress``.

    What the user can put right is one line on stderr and exit code 2.
    """
    output.protect()
    _handle_sigterm()
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(ExitCode.WRONG_USE)
    except OSError as error:
        if error.errno not in THE_MACHINES_FAULT:
            raise
        where = f": {error.filename}" if error.filename else ""
        print(f"error: {error.strerror}{where}", file=sys.stderr)
        sys.exit(ExitCode.WRONG_USE)
    except SystemExit as ended:
        if ended.code in (ExitCode.TERMINATED, ExitCode.INTERRUPTED):
            _end_at_once(ExitCode(ended.code))
        raise


def _end_at_once(code: ExitCode) -> NoReturn:
    """What libraries do at exit may take longer than who sends SIGTERM waits."""
    sys.stdout.flush()
    sys.stderr.flush()
    if "autocompress.searching.stopping" in sys.modules:  # a search was running: its Ray must go too
        from autocompress.searching import stopping

        stopping.end_at_once(code)
    os._exit(code)


def _handle_sigterm() -> None:
    """SIGTERM ends every command like an error does, so that temporary files go."""

    def terminate(signal_number: int, frame: FrameType | None) -> None:
        del signal_number, frame
        raise Terminated

    try:
        if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
            signal.signal(signal.SIGTERM, terminate)
    except ValueError:  # not the main thread
        pass
