"""``ssh:HOST``: times files in ONNX Runtime on another machine, without autocompress there."""

from __future__ import annotations

import json
import re
import shutil
import statistics
import subprocess
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from autocompress.contract import Deployable, Device, LayerTimes
from autocompress.devices.machine import FEATURES
from autocompress.errors import TrialFailed, UserError
from autocompress.job import DeviceConfig

PREFIX = "ssh:"
ANY = "HOST"
"""Placeholder for a host in lists of devices."""
HOST = re.compile(r"(?:[A-Za-z0-9_][\w.-]*@)?(?:[A-Za-z0-9][\w.:-]*|\[[0-9A-Fa-f:.%\w]+\])")
SCRIPT = Path(__file__).with_name("remote_timing.py")
LOADER = "import sys; s = sys.stdin.buffer; exec(s.read(int(s.readline())))"
"""Code on the command line of the remote Python; it reads the program from its input."""
ANSWER = "autocompress:"
CONNECT_SECONDS = 10
COPY_BYTES_A_SECOND = 1e5
"""Speed of the slowest supported connection."""


class Options(BaseModel):
    """Options of the connection; other settings come from the user's ssh configuration."""

    model_config = ConfigDict(extra="forbid")
    port: int | None = Field(default=None, ge=1, le=65535)
    identity: Path | None = None
    config: Path | None = None
    python: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_./~+-]+$")] = "python3"


class Ssh(Device):
    """Another machine, reached by the command ``ssh`` without a password.

    A stand-alone program (``remote_timing``) and the files are sent over one connection, and
    removed afterwards. Candidate and baseline alternate there; interval and noise are computed
    here.

    Args:
        host: as ``ssh`` takes it: a name, ``USER@NAME``, or an entry of its configuration.
    """

    Options = Options
    is_local: ClassVar[bool] = False

    def __init__(self, host: str = ANY) -> None:
        self.name = PREFIX + host  # type: ignore[misc]
        self.host = host

    def named(self, name: str) -> Device | None:
        """The device for a host.

        Raises:
            UserError: if the name of the host is invalid.
        """
        if name == self.name:
            return self
        if self.host != ANY or not name.startswith(PREFIX):
            return None
        host = name.removeprefix(PREFIX)
        if not HOST.fullmatch(host):
            raise UserError(f"'{host}' is not the name of a host", "write ssh:NAME or ssh:USER@NAME")
        return Ssh(host)

    def describe(self) -> str:
        """One line for lists."""
        return "the exported file in ONNX Runtime on another machine, which needs numpy and onnxruntime"

    def check(self, config: DeviceConfig) -> list[str]:
        """Checks that the host answers, has numpy and ONNX Runtime, and enough processors."""
        if self.host == ANY:
            return ["name the machine: ssh:NAME or ssh:USER@NAME"]
        if shutil.which("ssh") is None:
            return ["the command 'ssh' is not installed"]
        try:
            known = self._facts(config)
        except TrialFailed as error:
            return [str(error)]
        if known.get("missing"):
            return [f"{self.host} lacks {known['missing']} (pip install numpy onnxruntime there)"]
        if config.threads > known["processors"]:
            return [f"{config.threads} threads are asked for, but {self.host} has {known['processors']} processors"]
        return []

    def environment(self, config: DeviceConfig) -> dict[str, Any]:
        """Processor, features, system and versions of the other machine."""
        known = self._facts(config)
        told = {name: known[name] for name in ("processor", "architecture", "processors", "system", "python")}
        features = [feature for feature in FEATURES if feature in known["flags"]]
        return {"host": self.host, **told, "features": features, "runtime": f"onnxruntime {known['onnxruntime']}"}

    def open(self, deployable: Deployable, images: np.ndarray, config: DeviceConfig) -> Callable[[], object]:
        """Not supported: :meth:`time_elsewhere` runs both models on the host."""
        del deployable, images, config
        raise TrialFailed(f"'{self.name}' runs no model here")

    def time_elsewhere(
        self, candidate: Deployable, baseline: Deployable, config: DeviceConfig, seconds: float, sittings: int
    ) -> list[tuple[list[float], list[float]]]:
        """Copies both files, runs them in alternation, and removes them.

        Raises:
            TrialFailed: if the host does not answer, or its runtime refuses a file.
        """
        asked = {**self._run(candidate, config), "do": "time", "seconds": seconds, "sittings": sittings}
        files = [candidate.file.read_bytes(), baseline.file.read_bytes()]
        return [(own, other) for own, other in self._asked(asked, files, config, 10 * seconds)]

    def layer_times(
        self, deployables: Sequence[Deployable], layers: Collection[str], config: DeviceConfig
    ) -> list[LayerTimes]:
        """Times of layers by the profiler of ONNX Runtime on the host."""
        from autocompress.devices.profiling import charged, named_bytes

        files = [named_bytes(deployable.file, layers) for deployable in deployables]
        asked = {**self._run(deployables[0], config), "do": "profile", "seconds": 0.6}
        found = self._asked(asked, files, config, 60.0 * len(files))
        reference = min(value for each in found for value in each["reference"])
        return [
            LayerTimes(
                charged([(name, seconds) for name, seconds in each["nodes"]], each["runs"]),
                reference * statistics.median(each["seconds"]) / statistics.median(each["reference"]),
            )
            for each in found
        ]

    def _facts(self, config: DeviceConfig) -> dict[str, Any]:
        return _facts_of(self.host, Options.model_validate(config.options).model_dump_json())

    def _run(self, deployable: Deployable, config: DeviceConfig) -> dict[str, Any]:
        size = deployable.input_size
        if config.input_size is not None:
            size = (size[0], config.input_size, config.input_size)
        return {"threads": config.threads, "batch": config.batch, "input_size": list(size)}

    def _asked(self, asked: dict[str, Any], files: Sequence[bytes], config: DeviceConfig, seconds: float) -> Any:
        return ask(self.host, Options.model_validate(config.options), asked, files, seconds)


@lru_cache(maxsize=16)
def _facts_of(host: str, options: str) -> dict[str, Any]:
    found: dict[str, Any] = ask(host, Options.model_validate_json(options), {"do": "facts"}, [], 30.0)
    return found


def command(host: str, options: Options) -> list[str]:
    """The command that starts Python on the host; no part of it comes from a file or a model."""
    found = ["ssh", "-T", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_SECONDS}"]
    if options.config is not None:
        found += ["-F", str(options.config)]
    if options.port is not None:
        found += ["-p", str(options.port)]
    if options.identity is not None:
        found += ["-i", str(options.identity), "-o", "IdentitiesOnly=yes"]
    return [*found, "--", host, f"{options.python} -u -c '{LOADER}'"]


def ask(host: str, options: Options, asked: dict[str, Any], files: Sequence[bytes], seconds: float) -> Any:
    """Sends one request to the host and returns its answer.

    Args:
        host: see :class:`Ssh`.
        options: how to reach it.
        asked: the request (``remote_timing``).
        files: ONNX files.
        seconds: maximum seconds for the work of the host, without connecting and copying.

    Raises:
        TrialFailed: if the host cannot do the work; the message names the host and the cause.
    """
    program = SCRIPT.read_bytes()
    request = json.dumps({**asked, "sizes": [len(file) for file in files]}).encode() + b"\n"
    sent = b"".join([b"%d\n" % len(program), program, request, *files])
    limit = CONNECT_SECONDS + seconds + len(sent) / COPY_BYTES_A_SECOND
    try:
        done = subprocess.run(command(host, options), input=sent, capture_output=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired as error:
        raise TrialFailed(f"{host} did not answer within {limit:.0f} seconds") from error
    except OSError as error:
        raise TrialFailed(f"ssh cannot be started: {error.strerror}") from error
    text = done.stdout.decode(errors="replace")
    told = next((line for line in reversed(text.splitlines()) if line.startswith(ANSWER)), None)
    if told is None:
        raise TrialFailed(_fault(host, options, done.returncode, done.stderr.decode(errors="replace")))
    answer = json.loads(told.removeprefix(ANSWER))
    if "refused" in answer:
        raise TrialFailed(f"{host}: {answer['refused']}")
    if "failed" in answer:
        raise TrialFailed(f"{host} could not measure: {answer['failed']}")
    return answer["found"]


def _fault(host: str, options: Options, code: int, errors: str) -> str:
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    last = lines[-1] if lines else f"exit code {code}"
    if "Permission denied" in errors:
        return f"{host} refuses the key ({last}): 'ssh {host}' must work without a password"
    if "Host key verification failed" in errors:
        return f"the key of {host} is not known or has changed: connect once by 'ssh {host}' and check it"
    if code == 255:
        return f"{host} does not answer: {last}"
    if code in (126, 127):
        return f"{host} has no '{options.python}' ({last}): name one by device.options.python"
    return f"{host} could not measure: {last}"
