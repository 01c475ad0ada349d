"""Ray's job server: sends jobs to a cluster, and follows them."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autocompress.errors import UserError
from autocompress.submission.order import Order, command
from autocompress.submission.parcel import packed

RUN, RESULTS = "autocompress", "autocompress.results"
"""Keys of the metadata of a job: the name of its run, and where its results are."""
OVER = frozenset({"STOPPED", "SUCCEEDED", "FAILED"})
STOPPED_WITHIN_S = 30.0
READY_WITHIN_S = 60.0
_NOT_READY = "No available agent"
_ADDRESS = re.compile(r"https?://[^\s/@]+(/\S*)?")


@dataclass(frozen=True)
class Sent:
    """A job on a cluster.

    Attributes:
        id: id of the submission.
        run: name of its run.
        results: folder on the nodes, or URL.
        status: status in Ray: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED.
        message: Ray's message about the status.
        since: start time, in seconds since the epoch.
    """

    id: str
    run: str
    results: str
    status: str
    message: str
    since: float

    @property
    def is_over(self) -> bool:
        """Whether it ended."""
        return self.status in OVER


class JobServer:
    """The job server of a cluster.

    Args:
        address: address of its dashboard: ``http://HEAD:8265``.
        token: file with the token of the cluster. By default ``RAY_AUTH_TOKEN_PATH`` or
            ``RAY_AUTH_TOKEN`` is used; without any, the cluster must need no token.

    Raises:
        UserError: if there is no answer, or the token is missing or wrong.
    """

    def __init__(self, address: str, token: Path | None = None) -> None:
        if not _ADDRESS.fullmatch(address):
            raise UserError(f"'{address}' is not the address of a job server", "write it like http://HEAD:8265")
        self.address = address
        headers = {"Authorization": f"Bearer {found}"} if (found := _token(token)) else {}
        try:
            from ray.job_submission import JobSubmissionClient
        except ImportError:
            raise UserError("jobs cannot be sent: ray[default] is not installed", _INSTALL) from None
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.ERROR)
        with self._told():
            self._client = JobSubmissionClient(address, headers=headers)
            self._client.list_jobs()  # checks the token, which the line above does not

    def jobs(self, run: str | None = None) -> list[Sent]:
        """The jobs of autocompress, or of one run, the oldest first."""
        with self._told():
            found = [_sent(job) for job in self._client.list_jobs() if RUN in (job.metadata or {})]
        return sorted((job for job in found if run in (None, job.run)), key=lambda job: job.since)

    def latest(self, run: str) -> Sent:
        """The last job of a run.

        Raises:
            UserError: if there is none.
        """
        if not (jobs := self.jobs(run)):
            known = ", ".join(dict.fromkeys(job.run for job in self.jobs())) or "there is none"
            raise UserError(f"no run '{run}' was sent to {self.address}", f"known: {known}")
        return jobs[-1]

    def submit(self, order: Order, python: str = "python") -> Sent:
        """Sends a job. A run that was stopped or lost continues.

        Args:
            order: the job and its resources.
            python: the interpreter on the nodes.

        Raises:
            UserError: if the run is running or queued already, or the job cannot be sent.
        """
        before = self.jobs(order.job.name)
        if before and not before[-1].is_over:
            raise UserError(
                f"the run '{order.job.name}' is under way on {self.address}",
                f"'autocompress cluster stop {order.job.name}' ends it",
            )
        number = len(before) + 1
        # Two simultaneous submissions get the same name, so that Ray refuses one of them.
        name = order.job.name if number == 1 else f"{order.job.name}-{number}"
        with tempfile.TemporaryDirectory(prefix="ac-job-") as folder:
            plugins = packed(order, Path(folder))
            words = [shlex.join(command("job.yaml", "auto", (python, "-m", "autocompress.cli")))]
            if order.job.plugins:
                quoted = shlex.quote(str(plugins))
                words = [f"mkdir -p {quoted}", f"cp plugins/* {quoted}", *words]
            self._send(
                entrypoint=" && ".join(words),
                submission_id=name,
                runtime_env={"working_dir": folder, "env_vars": {"AUTOCOMPRESS_CACHE": order.cache}},
                metadata={RUN: order.job.name, RESULTS: order.results},
            )
        return self.latest(order.job.name)

    def _send(self, **job: Any) -> None:
        """Sends a job. Sending is repeated while a new head node accepts no jobs yet."""
        deadline = time.monotonic() + READY_WITHIN_S
        with self._told():
            while True:
                try:
                    self._client.submit_job(**job)
                    return
                except RuntimeError as error:
                    if _NOT_READY not in str(error) or time.monotonic() > deadline:
                        raise
                time.sleep(1.0)

    def logs(self, job: Sent) -> str:
        """The output of the job so far."""
        with self._told():
            return str(self._client.get_job_logs(job.id))

    def follow(self, job: Sent) -> Iterator[str]:
        """Yields the output of the job until it ends."""
        with self._told():
            lines = self._client.tail_job_logs(job.id)
            with asyncio.Runner() as runner:
                while (text := runner.run(_next(lines))) is not None:
                    yield text

    def stop(self, job: Sent, wait_s: float = STOPPED_WITHIN_S) -> Sent:
        """Stops a job: its search saves its state and ends.

        Returns:
            The job after at most ``wait_s`` seconds.
        """
        with self._told():
            self._client.stop_job(job.id)
        deadline = time.monotonic() + wait_s
        while not (now := self.latest(job.run)).is_over and time.monotonic() < deadline:
            time.sleep(0.5)
        return now

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turns errors of the client into errors for users."""
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            is_missing = "missing" in str(error).lower()
            what = "requires a token" if is_missing else "refuses this token"
            hint = "name the file of the token with --token, or RAY_AUTH_TOKEN_PATH"
            raise UserError(f"the cluster at {self.address} {what}", hint) from None
        except (requests.RequestException, ConnectionError) as error:
            why = type(error).__name__
            raise UserError(f"no job server answers at {self.address} ({why})", "is it http://HEAD:8265?") from None
        except RuntimeError as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            said = lines[-1].strip()[:300] if lines else type(error).__name__
            raise UserError(f"the cluster at {self.address} refused the request: {said}") from None


_TALKATIVE = ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk", "ray._private.runtime_env")
_INSTALL = "pip install 'autocompress[cluster]'"


async def _next(lines: Any) -> str | None:
    return await anext(lines, None)


def _token(file: Path | None) -> str:
    """The token; empty if there is none. It must not be printed, or be passed on a command line."""
    named = file or (Path(path) if (path := os.environ.get("RAY_AUTH_TOKEN_PATH")) else None)
    if named is None:
        return os.environ.get("RAY_AUTH_TOKEN", "").strip()
    try:
        return named.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UserError(f"the token in {named} cannot be read: {why}") from None


def _sent(job: Any) -> Sent:
    metadata = job.metadata or {}
    return Sent(
        id=str(job.submission_id),
        run=str(metadata.get(RUN, "")),
        results=str(metadata.get(RESULTS, "")),
        status=str(getattr(job.status, "value", job.status)),
        message=" ".join(str(job.message or "").split()),
        since=float(job.start_time or 0) / 1000,
    )
