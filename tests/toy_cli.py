"""The command line with a toy job in place of a real one: ``python toy_cli.py search --model ...``.

``TOY_OPENING`` and ``TOY_CLOSING`` make it wait before it opens the job and before it scores the
test split. ``sleep`` waits in Python, ``moment`` for a short time, and ``block`` in C, where Python
runs no signal handlers.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np
from toy_search import OpenedToy, offer_toy_device, open_toy

from autocompress.cli import main
from autocompress.contract import Deployable
from autocompress.job import Job
from autocompress.searching import run


class SlowToy(OpenedToy):
    """Waits where the environment says so."""

    def accuracy(
        self, deployable: Deployable, split: Literal["val", "test"], pause: Callable[[], None] | None = None
    ) -> tuple[float, np.ndarray]:
        if split == "test":
            wait("TOY_CLOSING")
        return super().accuracy(deployable, split, pause)


def open_slow_toy(job: Job, progress: Callable[[float, str], None] | None = None) -> OpenedToy:
    plain = open_toy(job, progress)
    if progress is not None:  # the driver, not a worker
        wait("TOY_OPENING")
    return SlowToy(job, plain.folder)


def wait(name: str) -> None:
    how = os.environ.get(name)
    if how:
        print(f"waiting in {name}", flush=True)
    if how:
        time.sleep({"sleep": 600, "moment": 2}.get(how, 0))
    if how == "block":
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # many minutes, in one call


def start() -> None:
    """Runs the command in ``sys.argv``."""
    import toy_cli  # workers import it under this name

    offer_toy_device()
    run.search = partial(run.search, opener=toy_cli.open_slow_toy)  # type: ignore[assignment]
    run.resume = partial(run.resume, opener=toy_cli.open_slow_toy)  # type: ignore[assignment]
    main()


if __name__ == "__main__":
    start()
