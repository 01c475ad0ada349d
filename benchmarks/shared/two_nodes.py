"""Two real nodes of Ray on this machine, started as a user starts them.

Other Ray processes of the machine are not affected: ``ray stop`` is not called, because it ends all
Ray processes by their names.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

RAY = Path(sys.executable).with_name("ray")
COMMON = ("--object-store-memory=104857600", "--disable-usage-stats", "--block")
STORE_BYTES = 100 * 2**20
PORTS = range(20_000, 32_000)
"""Ports that the system gives to nobody by itself, beyond those of Ray's workers (to 19,999)."""


def free_port() -> int:
    """A free port of the loopback interface.

    No other process takes it before a server does, unless that process asks for this very port.
    """
    while True:
        port = random.SystemRandom().choice(PORTS)  # tests set the seed of other random numbers
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port


class TwoNodes:
    """A head and further nodes, each with processes of its own.

    Args:
        environment: environment variables of the nodes and of the workers on them.
        processors: number of processors of each node in Ray.
    """

    def __init__(self, environment: Mapping[str, str], processors: int = 1) -> None:
        # Short, because the paths of sockets are limited.
        self.folder = Path(tempfile.mkdtemp(prefix="ac2-", dir="/tmp"))
        token = self.folder / "token"
        token.touch(mode=0o600)
        token.write_text("0123456789abcdef" * 2)
        self.environment = {
            **os.environ,
            **environment,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_health_check_initial_delay_ms": "1000",
            "RAY_health_check_period_ms": "1000",
            # A node that is gone refuses at once. A node on a busy machine answers late.
            "RAY_health_check_timeout_ms": "10000",
            "RAY_health_check_failure_threshold": "3",
            "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
        }
        self.processors = processors
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._started = 0
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}

    def start_head(self, resources: Mapping[str, float] | None = None) -> None:
        """Starts the head, on the same port each time."""
        ports = [f"--port={self.port}", "--node-ip-address=127.0.0.1", f"--ray-client-server-port={free_port()}"]
        self._start("head", ["--head", "--include-dashboard=false", *ports], resources)

    def start(self, name: str, resources: Mapping[str, float] | None = None) -> None:
        """Starts a node that joins the head; it waits for the head by itself."""
        self._start(name, [f"--address={self.address}"], resources)

    def _start(self, name: str, options: list[str], resources: Mapping[str, float] | None) -> None:
        self._started += 1
        scratch = self.folder / f"{self._started}"
        own = [f"--num-cpus={self.processors}", "--num-gpus=0", f"--resources={json.dumps(dict(resources or {}))}"]
        if "--head" in options:
            own.append(f"--temp-dir={scratch}")
        if shutil.disk_usage("/dev/shm").free < 3 * STORE_BYTES:
            own.append(f"--plasma-directory={self.folder}")
        with (self.folder / f"{name}.log").open("ab") as log:
            self.nodes[name] = subprocess.Popen(
                [str(RAY), "start", *options, *own, *COMMON, "--min-worker-port=0", "--max-worker-port=0"],
                env=self.environment,
                stdout=log,
                stderr=log,
            )

    def kill(self, name: str) -> None:
        """Kills all processes of a node at once, like a loss of power."""
        process = self.nodes.pop(name)
        own = psutil.Process(process.pid)
        for one in [own, *own.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                one.kill()
        process.wait()

    def wait(self, seconds: float = 60.0) -> None:
        """Waits until the head answers.

        Raises:
            TimeoutError: if it does not.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            time.sleep(0.1)
        raise TimeoutError(self.log("head"))

    def start_again(self) -> None:
        """Starts ended nodes again, as an operator of a cluster would."""
        for name, process in list(self.nodes.items()):
            if process.poll() is not None:
                del self.nodes[name]
                if name == "head":
                    self.start_head()
                else:
                    self.start(name)

    def has_started(self, name: str) -> bool:
        """Whether a node has started for the first time, and has told the head."""
        return "Ray runtime started" in self.log(name)

    def log(self, name: str) -> str:
        """The log of a node."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def stop(self) -> None:
        """Ends all nodes, and removes their files."""
        for process in self.nodes.values():
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 10
        for name in list(self.nodes):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.nodes[name].wait(timeout=max(0.1, deadline - time.monotonic()))
            if self.nodes[name].poll() is None:
                self.kill(name)
        shutil.rmtree(self.folder, ignore_errors=True)
