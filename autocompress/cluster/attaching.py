"""Connects to a Ray cluster that is already running."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray

from autocompress.cluster.signals import handlers_kept
from autocompress.compat import ray as compat
from autocompress.errors import Terminated, UserError
from autocompress.job import AUTO, ClusterConfig

ANSWERS_WITHIN_S = 5.0
"""Maximum seconds until the head of a cluster accepts a connection."""
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""The first bytes of a gRPC client: the preface and empty settings."""
HTTP2_SETTINGS = b"\4"
"""The fourth byte of the answer: the type of its first frame."""
START = "start one with 'ray start --head', or leave the address out to search on this machine"
log = logging.getLogger("autocompress.search")


def address_of(config: ClusterConfig) -> str:
    """HOST:PORT of the cluster that a job names.

    ``auto`` is the cluster in ``RAY_ADDRESS``, or the last one of ``ray start`` on this machine.
    Ray itself would take any cluster among the processes of the machine.

    Raises:
        UserError: if ``auto`` finds none.
    """
    if config.address != AUTO:
        return config.address
    found = os.environ.get("RAY_ADDRESS") or compat.address_of_this_machine()
    if not found or found == AUTO:
        raise UserError("'cluster.address: auto' finds no Ray cluster", START)
    if "://" in found:
        raise UserError(f"RAY_ADDRESS is {found}, which is no HOST:PORT", "set it to HOST:PORT of the cluster's head")
    return found


def check_answers(address: str) -> None:
    """Checks that the head of a cluster answers at HOST:PORT, and accepts the token.

    Raises:
        UserError: if it does not.
    """
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWERS_WITHIN_S) as connection:
            connection.sendall(HTTP2_PREFACE)
            # Ray's client ends this process if another program answers.
            if connection.recv(4)[3:] != HTTP2_SETTINGS:
                raise ConnectionError("the program that answers there is not the head of a cluster")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(f"no Ray cluster answers at {address}: {why}", START) from None
    compat.read_authentication()
    try:
        compat.ask_head(address, ANSWERS_WITHIN_S)
    except Exception as error:
        raise _connection_error(address, error, START) from None


@contextmanager
def attached(address: str, is_ending: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Within the block, this process is a driver of the cluster at HOST:PORT.

    Args:
        address: address of its head.
        is_ending: whether the process ends at once, so that it need not disconnect.

    Raises:
        UserError: if it cannot connect: wrong token, other versions, no node on this machine.
    """
    if ray.is_initialized():
        yield
        return
    with handlers_kept() as put_back:
        try:
            _connect(address)
            put_back()
            yield
        finally:
            if not is_ending():
                ray.shutdown()


def _connect(address: str) -> None:
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except SystemExit as error:  # from Ray's own handler of SIGTERM
        raise Terminated from error
    except Exception as error:
        log.info("cannot connect to %s", address, exc_info=True)
        raise _connection_error(address, error, "log.txt has the whole message") from error


def _connection_error(address: str, error: Exception, otherwise: str) -> UserError:
    """The error that tells a user why a connection failed.

    ``otherwise`` is the hint for an unknown reason.
    """
    lines = [line.strip() for one in _chain(error) for line in str(one).splitlines() if line.strip()]
    text = " ".join(lines)
    if isinstance(error, ray.exceptions.AuthenticationError):
        is_missing = "currently 'disabled'" in text
        what = "asks for a token, and this process has none" if is_missing else "refuses the token of this process"
        return UserError(
            f"the cluster at {address} {what}",
            "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the file with the token of its head",
        )
    if "Version mismatch" in text:
        which = text.partition("Version mismatch: ")[2]
        return UserError(
            f"the cluster at {address} runs other versions than this process: {which}",
            "install the same versions of Ray and Python, with the same patch numbers",
        )
    if "No node info found" in text or "node to connect" in text:
        return UserError(
            f"this machine is not a node of the cluster at {address}",
            f"run 'ray start --address={address}' here first, or start the search on a node of the cluster",
        )
    return UserError(
        f"cannot connect to the cluster at {address}: {lines[0] if lines else type(error).__name__}",
        otherwise,
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and its causes, because the outermost error of Ray does not tell the reason."""
    while error is not None:
        yield error
        error = error.__cause__
