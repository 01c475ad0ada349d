"""Loads each file in OpenVINO in a process of its own first, where a crash ends that process alone.

OpenVINO 2026.4 crashes while it loads some valid files, which ended the process that measures. The
process here serves all files, so a file costs the time to load it once more. This module is its
program, too, and imports neither torch nor ONNX.
"""

from __future__ import annotations

import json
import math
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autocompress.errors import NoAnswer, TrialFailed

MOST_SECONDS = 120.0
"""Seconds for loading a file; after a crash, a process sometimes waits for ever."""
PROGRAM = (sys.executable, "-P", "-m", "autocompress.devices.openvino_apart")
"""The command of the process."""
ENDING_SECONDS = 10.0
"""Seconds for the end of a process that no longer writes."""
CRASHES = frozenset({"SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL"})
"""Signals of a process that fails by itself. Others come from outside, as for lack of memory."""


class Apart:
    """Loads files in a process that starts with the first file, and again after a crash.

    Args:
        program: command of the process.
        most_seconds: maximum seconds for its start, and for each file.
    """

    def __init__(self, program: Sequence[str] = PROGRAM, most_seconds: float = MOST_SECONDS) -> None:
        self._program, self._most_seconds = program, most_seconds
        self._process: subprocess.Popen[str] | None = None
        self._owner, self._version = 0, ""
        self._one_at_a_time = threading.Lock()
        if hasattr(os, "register_at_fork"):  # a thread of the parent may hold it
            os.register_at_fork(after_in_child=self._unlock)

    def load(self, model: bytes, shape: Sequence[int], settings: Mapping[str, Any]) -> None:
        """Loads a model, and runs one batch.

        Args:
            model: an ONNX file.
            shape: shape of the batch.
            settings: of OpenVINO's CPU plugin.

        Raises:
            TrialFailed: if OpenVINO refuses the model or crashes.
            NoAnswer: if it cannot be started or does not answer, or the model cannot be written.
        """
        try:
            with self._one_at_a_time, tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "model.onnx"
                file.write_bytes(model)
                answer = self._asked({"file": str(file), "shape": list(shape), "settings": dict(settings)})
        except OSError as error:
            raise NoAnswer(f"OpenVINO cannot be asked in a process of its own: {error}") from error
        if answer:
            raise TrialFailed(f"OpenVINO {self._version} cannot load a file: {answer}")

    def end(self) -> None:
        """Ends the process."""
        if self._process is not None and self._owner == os.getpid():
            self._process.kill()
            self._process.communicate()
        self._process = None

    def _unlock(self) -> None:
        self._one_at_a_time = threading.Lock()

    def _asked(self, asked: Mapping[str, Any]) -> str:
        """The answer to a request; after an error, the process ends."""
        try:
            return self._answer(self._started(), asked)
        except BaseException:  # Ctrl-C too: the next file must not get the answer to this one
            self.end()
            raise

    def _started(self) -> subprocess.Popen[str]:
        """The process. A forked process starts its own, because answers are for one reader."""
        if self._process is not None and self._owner == os.getpid():
            return self._process
        path = os.pathsep.join(entry for entry in sys.path if entry)
        limit = math.ceil(self._most_seconds + 2 * ENDING_SECONDS)  # this process ends it earlier, if it can
        self._process = subprocess.Popen(
            [*self._program, str(limit)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
            process_group=0,  # Ctrl-C is for the search
        )
        self._owner = os.getpid()
        if (version := self._line(self._process)) is None:
            raise NoAnswer(f"OpenVINO cannot be started in a process of its own: {self._ending(self._process)[0]}")
        self._version = version
        return self._process

    def _answer(self, process: subprocess.Popen[str], asked: Mapping[str, Any]) -> str:
        """What is wrong with a file; empty if it was loaded.

        Raises:
            NoAnswer: if the process ended for another reason than a crash.
        """
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(asked) + "\n")
            process.stdin.flush()
            line = self._line(process)
        except BrokenPipeError:  # it ended before it could read
            line = None
        if line is not None:
            return str(json.loads(line))
        told, is_crash = self._ending(process)
        if not is_crash:
            raise NoAnswer(f"OpenVINO {self._version} cannot load a file: {told}")
        return told

    def _line(self, process: subprocess.Popen[str]) -> str | None:
        """The next line of the process; None if it has ended or does not answer."""
        assert process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(self._most_seconds):
                return None
        return process.stdout.readline().rstrip("\n") or None

    def _ending(self, process: subprocess.Popen[str]) -> tuple[str, bool]:
        """Ends the process, and tells how it ended and whether that was a crash."""
        try:
            code = process.wait(ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            self.end()
            return f"it did not answer within {self._most_seconds:g} seconds", False
        self.end()
        if code >= 0:
            return f"its process ended with exit code {code}", False
        name = signal.Signals(-code).name
        if name in CRASHES:
            return f"its process crashed ({name})", True
        return f"its process was ended ({name})", False


def main() -> None:
    """Writes the version, then for each line of its input what is wrong, which may be empty.

    Its argument is the maximum number of seconds for its start, and for each file. Then it ends, so
    that a process that hangs does not outlive the one that asks.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # messages of OpenVINO are no answers, nor are those of imports
    limit = int(sys.argv[1])
    signal.alarm(limit)
    import openvino

    print(openvino.__version__, file=answers, flush=True)
    signal.alarm(0)
    for line in sys.stdin:
        signal.alarm(limit)
        print(json.dumps(_tried(json.loads(line))), file=answers, flush=True)
        signal.alarm(0)


def _tried(asked: Mapping[str, Any]) -> str:
    """What is wrong with a file; the compiled model is freed before the next one."""
    import numpy as np
    import openvino

    try:
        compiled = load(openvino.Core(), asked["file"], asked["shape"], asked["settings"])
        compiled.create_infer_request().infer([np.zeros(asked["shape"], np.float32)])
    except MemoryError:  # it says nothing about the file
        raise
    except Exception as error:  # OpenVINO's exceptions are RuntimeErrors with many lines
        return last_line(error)
    return ""


def load(core: Any, model: bytes | str, shape: Sequence[int], settings: Mapping[str, Any]) -> Any:
    """The compiled model for batches of ``shape``.

    With a free batch axis, networks of many small operators take up to a third longer, and
    OpenVINO 2026.4 refuses linear layers of transformers (``ReshapeTransformation``).
    """
    read = core.read_model(model)
    read.reshape(list(shape))
    return core.compile_model(read, "CPU", dict(settings))


def last_line(error: Exception) -> str:
    """The line of an error that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


if __name__ == "__main__":
    main()
