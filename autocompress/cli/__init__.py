"""The command line. It only calls other packages.

Each command imports its modules when it runs, so that ``--help`` is fast.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from autocompress import heap
from autocompress.cli import output
from autocompress.cli.app import app
from autocompress.errors import ExitCode, Terminated, UserError
from autocompress.garbage import collect_seldom

__all__ = ["app", "main"]

THE_MACHINES_FAULT = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
"""Errors of the file system that are not bugs: no room left, or no permission."""
LONGEST = 2000
"""Maximum length of an error; paths and values may be long."""


def main() -> None:
    """Entry point of ``autocompress``.

    Errors that the user can correct are one line on stderr, with exit code 2.
    """
    collect_seldom()
    heap.keep_freed()
    output.protect()
    _handle_sigterm()
    try:
        app()
    except UserError as error:
        print(f"error: {_on_one_line(error)}", file=sys.stderr)
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


def _on_one_line(error: UserError) -> str:
    """The error, which may have names of files with line breaks or unseen characters."""
    from autocompress.report.markdown import plain

    return plain(error, LONGEST)


def _end_at_once(code: ExitCode) -> NoReturn:
    """Ends the process at once, because exit handlers of libraries may take too long."""
    sys.stdout.flush()
    sys.stderr.flush()
    if "autocompress.searching.stopping" in sys.modules:  # a search was running, so its Ray must end too
        from autocompress.searching import stopping

        stopping.end_at_once(code)
    os._exit(code)


def _handle_sigterm() -> None:
    """Handles SIGTERM like an error, so that temporary files are removed."""

    def terminate(signal_number: int, frame: FrameType | None) -> None:
        del signal_number, frame
        raise Terminated

    try:
        if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
            signal.signal(signal.SIGTERM, terminate)
    except ValueError:  # not the main thread
        pass
