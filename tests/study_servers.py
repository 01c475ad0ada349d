"""Real servers for studies: PostgreSQL and Redis on the loopback interface, each in a new folder.

They need Debian's packages ``postgresql`` and ``redis-server``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from patience import Patience

from shared.two_nodes import free_port

PASSWORD = "s3cr3t-of-the-study"


def _postgres_bin() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    where = str(found[-1]) if found else shutil.which("postgres")
    return Path(where).parent if where else None


POSTGRES, REDIS = _postgres_bin(), shutil.which("redis-server")
KINDS = [
    pytest.param(
        "redis", marks=pytest.mark.skipif(REDIS is None, reason="redis-server is not installed: apt-get install it")
    ),
    pytest.param(
        "postgresql",
        marks=[
            pytest.mark.slow,
            pytest.mark.skipif(POSTGRES is None, reason="PostgreSQL is not installed: apt-get install postgresql"),
        ],
    ),
]


class Server:
    """One server, which can be killed and started again with its data."""

    def __init__(self, url: str, command: list[str], folder: Path, user: str | None) -> None:
        self.url, self._command, self._folder, self._user = url, command, folder, user
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self._folder, stdout=log, stderr=log, user=self._user, start_new_session=True
            )

    def kill(self) -> None:
        """Ends all its processes at once."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def wait(self, is_ready: Callable[[], object]) -> None:
        patience = Patience(60)
        while True:
            try:
                is_ready()
                return
            except Exception:
                assert not patience.is_over, (self._folder / "server.log").read_text()
                time.sleep(0.05)


@contextmanager
def server(kind: str) -> Iterator[Server]:
    """A running server with a password.

    Its folder is in ``/tmp``, which every user may enter, because PostgreSQL does not run as root.
    """
    with TemporaryDirectory(dir="/tmp", prefix="study-server-", ignore_cleanup_errors=True) as folder:
        yield from _running(kind, Path(folder))


def _running(kind: str, folder: Path) -> Iterator[Server]:
    one = _redis(folder) if kind == "redis" else _postgresql(folder)
    one.start()
    try:
        one.wait(lambda: answers(one.url))
        yield one
    finally:
        one.kill()


def answers(url: str) -> object:
    """Raises an error if the server does not answer."""
    if url.startswith("redis"):
        import redis

        return redis.Redis.from_url(url, password=PASSWORD).ping()
    import psycopg

    with psycopg.connect(url, password=PASSWORD) as connection:
        return connection.execute("select 1")


def _redis(folder: Path) -> Server:
    port = free_port()
    assert REDIS is not None
    limits = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--requirepass", PASSWORD]
    return Server(f"redis://127.0.0.1:{port}/0", [REDIS, *limits, "--save", "", "--appendonly", "no"], folder, None)


def _postgresql(folder: Path) -> Server:
    port, data = free_port(), folder / "data"
    assert POSTGRES is not None
    user = "postgres" if os.getuid() == 0 else None  # PostgreSQL refuses to run as root
    secret = folder / "password"
    secret.write_text(PASSWORD)
    if user is not None:
        for path in (folder, secret):
            shutil.chown(path, user)
    make = ["-D", str(data), "-U", "searcher", "-A", "scram-sha-256", f"--pwfile={secret}", "--no-sync", "-E", "UTF8"]
    subprocess.run(
        [str(POSTGRES / "initdb"), *make, "--no-locale"], cwd=folder, user=user, check=True, capture_output=True
    )
    limits = ["-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", str(folder), "-F"]
    return Server(
        f"postgresql://searcher@127.0.0.1:{port}/postgres", [str(POSTGRES / "postgres"), *limits], folder, user
    )
