"""Times ONNX files on another machine; this source is sent there.

It needs Python 3.8, numpy and onnxruntime, and imports nothing of this package. It reads a line of
JSON from its input, then the files that the line announces, and writes one line of JSON. The files
are in a temporary folder, which is removed at the end, even after an error or a signal.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import statistics
import sys
import tempfile
import time
from typing import Any

ANSWER = "autocompress:"
LOCK = "autocompress-timing.lock"
BLOCK_SECONDS = 0.025
WARM_UP_RUNS = 2
FEWEST_RUNS = 8
RUNS_A_TURN = 4


class Refused(Exception):
    """The runtime cannot load a file."""


def facts() -> dict[str, Any]:
    """Processor, its features, system and versions, on which costs depend."""
    known = {
        "architecture": platform.machine(),
        "system": platform.system() + " " + platform.release(),
        "python": platform.python_version(),
        "processors": processors(),
    }
    cpu: dict[str, str] = {}
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            name, _, value = line.partition(":")
            cpu.setdefault(name.strip(), value.strip())
    known["processor"] = cpu.get("model name") or cpu.get("Model") or platform.processor() or platform.machine()
    known["flags"] = (cpu.get("flags") or cpu.get("Features") or "").split()
    for name in ("numpy", "onnxruntime"):
        try:
            known[name] = __import__(name).__version__
        except Exception as error:
            known[name] = None
            known["missing"] = name + ": " + str(error)
    return known


def processors() -> int:
    """Processors that this process may use; a container may have fewer than its machine."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError), open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
        quota, period = file.read().split()  # "max" is no number
        count = min(count, max(1, -(-int(quota) // int(period))))
    return count


def needs_exact(known: dict[str, Any]) -> bool:
    """Whether ONNX Runtime's int8 kernels overflow here: x86-64 without VNNI."""
    is_x86 = known["architecture"].lower() in ("x86_64", "amd64")
    return is_x86 and not {"avx512_vnni", "avx_vnni"} & set(known["flags"])


class Runner:
    """A session that runs one batch of random images when it is called."""

    def __init__(self, path: str, asked: dict[str, Any], profile: str | None = None) -> None:
        import numpy
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = asked["threads"]
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.x64quantprecision", "1" if needs_exact(facts()) else "0")
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = profile
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise Refused("ONNX Runtime %s cannot load the file: %s" % (onnxruntime.__version__, first_line(error)))
        found = self.session.get_inputs()[0]
        wanted = [asked["batch"], *asked["input_size"]]
        shape = [size if isinstance(size, int) else want for size, want in zip(found.shape, wanted)]
        images = numpy.random.default_rng(0).standard_normal(shape).astype(numpy.float32)
        self.feed, self.runs = {found.name: images}, 0

    def __call__(self) -> None:
        self.session.run(None, self.feed)
        self.runs += 1


def block(run: Any, clock: Any) -> float:
    """Median seconds of a run, over the runs of one block."""
    end = time.perf_counter() + BLOCK_SECONDS
    began = clock()
    for count in range(1, WARM_UP_RUNS + 1):
        run()
        if time.perf_counter() > end:
            return (clock() - began) / count
    runs: list[float] = []
    end, before = time.perf_counter() + BLOCK_SECONDS, clock()
    while not runs or time.perf_counter() < end:
        run()
        now = clock()
        runs.append(now - before)
        before = now
    return statistics.median(runs)


def sitting(paths: Any, asked: dict[str, Any], seconds: float, turn: int) -> Any:
    """Opens two files again and runs blocks of them in alternation: two lists of seconds."""
    clock = time.thread_time if asked["threads"] == 1 else time.perf_counter
    order = (1, 0) if turn else (0, 1)
    runs: dict[int, Any] = {}
    for place in order:
        runs[place] = Runner(paths[place], asked)
        runs[place]()
    found: Any = ([], [])
    end = time.perf_counter() + seconds
    while not found[0] or time.perf_counter() < end:
        for place in order:
            found[place].append(block(runs[place], clock))
        order = order[::-1]
    return found


def time_files(paths: Any, asked: dict[str, Any]) -> Any:
    """All sittings of a measurement."""
    count = asked["sittings"]
    return [sitting(paths, asked, asked["seconds"] / count, number % 2) for number in range(count)]


def profile_files(paths: Any, asked: dict[str, Any], folder: str) -> Any:
    """Returns for each file (name, seconds) of its operators, its seconds, and the first file's."""
    beside = [sitting([path, paths[0]], asked, asked["seconds"] / 2, 0) for path in paths]
    runners = [Runner(path, asked, os.path.join(folder, "profile%d" % i)) for i, path in enumerate(paths)]
    end = time.perf_counter() + asked["seconds"] * len(runners) / 2
    while runners[0].runs < FEWEST_RUNS or time.perf_counter() < end:
        for run in runners:
            for _ in range(RUNS_A_TURN):
                run()
    found = []
    for run, (own, reference) in zip(runners, beside):
        with open(run.session.end_profiling(), encoding="utf-8") as text:
            events = json.load(text)
        nodes = [
            (event["name"], event["dur"] * 1e-6)
            for event in events
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
        ]
        found.append({"nodes": nodes, "runs": run.runs, "seconds": own, "reference": reference})
    return found


def first_line(error: BaseException) -> str:
    """An error in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


@contextlib.contextmanager
def alone() -> Any:
    """Holds the lock of the machine, if the system has such locks."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            file = stack.enter_context(lock_file())
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def lock_file() -> Any:
    """The lock file, the same for all users. It can also be locked if it is open for reading."""
    path = os.path.join(tempfile.gettempdir(), LOCK)
    try:
        return open(path, "a")
    except PermissionError:  # another user made it
        return open(path)


def answer(asked: dict[str, Any], stream: Any) -> Any:
    """The answer to a request, as JSON values."""
    if asked["do"] == "facts":
        return facts()
    with tempfile.TemporaryDirectory(prefix="autocompress-") as folder:
        paths = []
        for number, size in enumerate(asked["sizes"]):
            paths.append(os.path.join(folder, "%d.onnx" % number))
            with open(paths[-1], "wb") as file:
                file.write(read(stream, size))
        with alone():
            if asked["do"] == "profile":
                return profile_files(paths, asked, folder)
            return time_files(paths, asked)


def read(stream: Any, size: int) -> bytes:
    """Exactly ``size`` bytes."""
    data = stream.read(size)
    if len(data) != size:
        raise EOFError("the connection broke while a file was copied")
    return data


def stop(*_: Any) -> None:
    """Ends the program as Ctrl-C does, so that the temporary folder is removed."""
    raise KeyboardInterrupt


def main() -> None:
    """Reads one request and writes one answer."""
    for name in ("SIGHUP", "SIGTERM"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), stop)
    stream = sys.stdin.buffer
    try:
        found = {"found": answer(json.loads(stream.readline().decode("utf-8")), stream)}
    except Refused as error:
        found = {"refused": str(error)}
    except Exception as error:
        found = {"failed": "%s: %s" % (type(error).__name__, first_line(error))}
    print("\n" + ANSWER + json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
