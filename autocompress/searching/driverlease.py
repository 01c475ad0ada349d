"""The lease of the driver of a run on a URL: one process at a time drives the run.

The driver renews an object, ``driver.json``, while it runs. Another process that wants to drive the
run waits for a renewal. If there is none, the last driver has died, and the process takes over.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from pathlib import Path

from autocompress.errors import UserError
from autocompress.files import warn_once
from autocompress.remote import Objects, RemoteError

DRIVER = "driver.json"
"""The object with the driver: its id, the time of the renewal, and whether it has ended."""
RENEWED_EVERY_S, LEASE_S = 10.0, 30.0
"""Seconds between renewals, and seconds without a renewal after which another driver takes over."""
RELEASED_WITHIN_S = 1.0
"""Maximum seconds that a release waits for a renewal."""
log = logging.getLogger("autocompress.search")


class DriverLease:
    """The lease of a run.

    Args:
        url: URL of the run, for messages.
        objects: objects of the run.
    """

    def __init__(self, url: str, objects: Objects) -> None:
        self._url, self._objects = url, objects
        self._owner = uuid.uuid4().hex
        self._ended = threading.Event()
        self._renewing = threading.Lock()

    @property
    def has_ended(self) -> bool:
        """Whether this process has released the lease."""
        return self._ended.is_set()

    def claim(self, wait_s: float | None = None) -> None:
        """Takes the lease, and renews it in a thread.

        Args:
            wait_s: seconds to wait for a renewal by the last driver, unless it released the lease;
                ``LEASE_S`` by default.

        Raises:
            UserError: if another driver renews it.
            RemoteError: if storage cannot be used.
        """
        wait_s = LEASE_S if wait_s is None else wait_s
        before = self._objects.read(DRIVER)
        if before is not None and not json.loads(before).get("done"):
            log.info("the last driver of %s did not release the run: waiting %.0f s for its renewal", self._url, wait_s)
            self._wait_for_renewal(before, wait_s)
        self._write(self._objects, done=False)
        threading.Thread(target=self._renew, daemon=True, name="lease").start()

    def _wait_for_renewal(self, before: bytes, wait_s: float) -> None:
        """Raises UserError if the lease is renewed within ``wait_s`` seconds."""
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline:
            time.sleep(min(1.0, wait_s / 4))
            if self._objects.read(DRIVER) != before:
                raise UserError(f"another process is running the search in {self._url}", "wait for it, or end it")

    def stop(self) -> None:
        """Ends the renewals."""
        self._ended.set()

    def release(self, objects: Objects) -> None:
        """Lets the next driver take the lease at once.

        Args:
            objects: objects of the run; their time limit is that of this call.

        Raises:
            RemoteError: if storage cannot be used.
        """
        self.stop()
        # A renewal that is under way must not come after the release.
        is_alone = self._renewing.acquire(timeout=RELEASED_WITHIN_S)
        try:
            self._write(objects, done=True)
        finally:
            if is_alone:
                self._renewing.release()

    def _renew(self) -> None:
        while not self._ended.wait(RENEWED_EVERY_S):
            with self._renewing:
                if self._ended.is_set():
                    return
                try:
                    self._write(self._objects, done=False)
                except RemoteError as error:
                    warn_once(Path(self._url), "does not take the renewals of the driver's lease", error)

    def _write(self, objects: Objects, *, done: bool) -> None:
        content = {"owner": self._owner, "at": time.time(), "done": done}
        objects.put_bytes(DRIVER, json.dumps(content).encode(), replace=True)
