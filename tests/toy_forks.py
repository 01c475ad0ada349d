"""Toy commands in processes that are forked from one with all imports.

Python takes seconds to import torch, timm and Ray. ``python toy_forks.py`` imports them once. Then
it reads orders from its standard input, a JSON line each, and answers each with a line.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from patience import Patience

LOADED_LATE = ("autocompress.report", "autocompress.searching", "matplotlib.pyplot", "rich.live")
"""Modules that a search imports while it runs."""


class ForkedProcess:
    """A command, with the methods of ``subprocess.Popen``."""

    def __init__(self, server: ForkServer, pid: int) -> None:
        self._server = server
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code when it has ended (negative: the number of a signal); None before."""
        if self.returncode is None:
            self.returncode = self._server.ask({"poll": self.pid})
        return self.returncode

    def wait(self, timeout: float = 60.0) -> int:
        """Waits for its end."""
        patience = Patience(timeout)
        while (code := self.poll()) is None:
            assert not patience.is_over, f"it has not ended within {timeout} s"
            time.sleep(0.01)
        return code

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """By SIGKILL."""
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """The process that forks."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, order: dict[str, Any]) -> Any:
        """Sends an order and returns the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(self, arguments: Sequence[str], folder: Path, out: Path, environment: Mapping[str, str]) -> ForkedProcess:
        """Starts ``autocompress ARGUMENTS`` in ``folder``; its output goes to ``out``."""
        out.write_bytes(b"")
        order = {"arguments": list(arguments), "folder": str(folder), "out": str(out), "environment": dict(environment)}
        return ForkedProcess(self, self.ask(order))

    def stop(self) -> None:
        """Ends the server. Its commands must have ended."""
        self._process.communicate("")


def serve() -> None:
    """Answers orders until there are no more."""
    import toy_cli

    for name in LOADED_LATE:
        importlib.import_module(name)
    for line in sys.stdin:
        order = json.loads(line)
        if "poll" in order:
            ended, status = os.waitpid(order["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if ended else None
        elif (answer := os.fork()) == 0:
            _become(order, toy_cli.start)
        print(json.dumps(answer), flush=True)


def _become(order: dict[str, Any], start: Any) -> NoReturn:
    """Makes the forked process like a new process of Python."""
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    sys.argv = ["autocompress", *order["arguments"]]
    with open(os.devnull) as nothing, open(order["out"], "ab") as out:  # noqa: PTH123
        os.dup2(nothing.fileno(), 0)
        for number in (1, 2):
            os.dup2(out.fileno(), number)
    encoding = order["environment"].get("PYTHONIOENCODING", "utf-8")
    sys.stdout = open(1, "w", encoding=encoding, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding=encoding, errors="backslashreplace", closefd=False)  # noqa: SIM115
    code: Any = 0
    try:
        start()
    except SystemExit as ended:
        code = ended.code
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code or 0)  # libraries would wait for threads that a forked process does not have


if __name__ == "__main__":
    serve()
