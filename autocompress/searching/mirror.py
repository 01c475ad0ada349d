"""The mirror of a run on a URL: sends the folder of the run there, and restores it from there.

The journal of the study is stored in numbered pieces, one object for each finished trial, which are
written once and never removed. All other files can be made again from it. If two drivers continue
one run, one of them cannot write its next piece, because the number is taken, and ends.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autocompress.errors import UserError
from autocompress.files import warn_once, write_json
from autocompress.remote import Objects, RemoteError
from autocompress.results import JOB_FILE, Row
from autocompress.searching.driverlease import DriverLease
from autocompress.searching.spool import SPOOL
from autocompress.searching.storing.names import STUDY_FILE

PIECES, STATE = "journal", "mirror.json"
ENDS_WITHIN_S = 1.0
"""Maximum seconds for storage operations when the driver must end."""
SENT_WITHIN_S = 300.0
"""Maximum seconds for sending the results of a finished search."""
LOCAL = ("ray", SPOOL, "driver.lock", "study.lock", STUDY_FILE, STATE)
"""Names in the folder of a run that are not sent."""
log = logging.getLogger("autocompress.search")


class Mirror:
    """The objects of a run, and its folder.

    Args:
        url: URL of the run: ``<results>/<name>``.
        folder: folder of the run, on the local disk.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        self._objects = Objects(url)
        self._lease = DriverLease(url, self._objects)
        self._sent: dict[str, tuple[int, int]] = {}

    def claim(self, wait_s: float | None = None) -> None:
        """Makes this process the driver of the run (see :meth:`DriverLease.claim`).

        Raises:
            UserError: if another driver is running, or storage cannot be used.
        """
        with _errors_for_users():
            self._lease.claim(wait_s)

    def release(self) -> None:
        """Sends the rest of the journal, and lets another driver continue at once.

        A second call does nothing. Errors are logged.
        """
        if self._lease.has_ended:
            return
        self._lease.stop()
        quick = Objects(self.url, ENDS_WITHIN_S)
        try:
            self._push(quick)
            self._lease.release(quick)
        except (RemoteError, UserError, OSError) as error:
            log.warning("%s is not told that this driver ends: %s", self.url, error)

    # --- the study --------------------------------------------------------------------------------

    @property
    def exists(self) -> bool:
        """Whether the run exists on the URL."""
        with _errors_for_users():
            return self._objects.exists(JOB_FILE)

    def fetch_job(self) -> None:
        """Copies the job of the run into the folder.

        Raises:
            UserError: if storage cannot be used.
        """
        with _errors_for_users():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._objects.fetch(JOB_FILE, self.folder / JOB_FILE)

    def fetch(self) -> None:
        """Restores the folder from the objects, unless it is already up to date.

        Raises:
            UserError: if storage cannot be used.
        """
        with _errors_for_users():
            pieces = self._objects.read_all(PIECES)
            count, size = self._state()
            journal = self.folder / STUDY_FILE
            is_up_to_date = count == len(pieces) and journal.exists() and journal.stat().st_size >= size
            self.fetch_job()
            if not is_up_to_date and pieces:
                log.info("the study is restored from %d pieces of %s", len(pieces), self.url)
                for name in (SPOOL, "artifacts", "structures"):  # left by a driver that was replaced
                    shutil.rmtree(self.folder / name, ignore_errors=True)
                journal.write_bytes(b"".join(pieces[name] for name in sorted(pieces)))
                self._keep_state(len(pieces), journal.stat().st_size)
            for name in self._objects.names("artifacts"):
                if not (file := self.folder / name).exists():
                    self._objects.fetch(name, file)

    def push(self) -> None:
        """Sends the part of the journal since the last piece.

        If storage is unreachable, nothing is sent now, and the next piece has this part too.

        Raises:
            UserError: if another driver continues the run.
        """
        self._push(self._objects)

    def _push(self, objects: Objects) -> None:
        if not (self.folder / STUDY_FILE).exists():
            return  # the baseline is not finished
        count, size = self._state()
        with (self.folder / STUDY_FILE).open("rb") as file:
            file.seek(size)
            piece = file.read()
        piece = piece[: piece.rfind(b"\n") + 1]
        if not piece:
            return
        rest = False
        try:
            is_mine = objects.put_bytes(f"{PIECES}/{count:08d}", piece)
            if not is_mine:
                # After an error, the object may still have been made. It then has the part that was
                # to be sent at that time, and this piece continues from there.
                stored = objects.read(f"{PIECES}/{count:08d}") or b""
                is_mine = stored != b"" and piece.startswith(stored)
                piece, rest = stored, len(piece) > len(stored)
        except RemoteError as error:
            warn_once(Path(self.url), "is unreachable: results stay on this machine until it is back", error)
            return
        if not is_mine:
            raise UserError(f"another process continues the search in {self.url}", "this one ends")
        self._keep_state(count + 1, size + len(piece))
        if rest:
            self._push(objects)

    def _state(self) -> tuple[int, int]:
        """Number of pieces, and number of bytes of the journal in them."""
        try:
            found: dict[str, Any] = json.loads((self.folder / STATE).read_text(encoding="utf-8"))
            return int(found["pieces"]), int(found["bytes"])
        except (OSError, ValueError, KeyError):
            return 0, 0

    def _keep_state(self, pieces: int, size: int) -> None:
        write_json(self.folder / STATE, {"pieces": pieces, "bytes": size, "url": self.url})

    # --- the other files --------------------------------------------------------------------------

    def begin(self) -> None:
        """Sends the job. After that, the run exists, and its folder has its URL.

        Raises:
            UserError: if storage cannot be used.
        """
        self._keep_state(0, 0)
        with _errors_for_users():
            self._objects.put_bytes(JOB_FILE, (self.folder / JOB_FILE).read_bytes(), replace=True)

    def keep(self, row: Row) -> None:
        """Sends a row of the study, and the files of its artifact.

        Raises:
            UserError: see :meth:`push`.
        """
        self.push()
        if not (artifact := str(row.get("artifact") or "")):
            return
        try:
            for file in sorted((self.folder / artifact).glob("*")):
                self._objects.put(f"{artifact}/{file.name}", file)
        except RemoteError as error:
            warn_once(Path(self.url), "is unreachable: artifacts are sent at the end", error)

    def finish(self) -> None:
        """Sends everything in the folder, and releases the run.

        Raises:
            UserError: if that does not succeed in time.
        """
        deadline = time.monotonic() + SENT_WITHIN_S
        while True:
            self.push()
            try:
                self._send_files()
                break
            except RemoteError as error:
                if time.monotonic() > deadline:
                    raise UserError(f"results cannot be sent: {error}", f"they are in {self.folder}") from None
            time.sleep(1.0)
        self.release()

    def _send_files(self) -> None:
        for file in sorted(self.folder.rglob("*")):
            name = file.relative_to(self.folder).as_posix()
            if not file.is_file() or name.split("/")[0] in LOCAL or file.name.startswith("."):
                continue
            mark = (file.stat().st_size, file.stat().st_mtime_ns)
            if self._sent.get(name) != mark:
                self._objects.put_bytes(name, file.read_bytes(), replace=True)
                self._sent[name] = mark


@contextmanager
def _errors_for_users() -> Iterator[None]:
    """Turns an error of the storage into one sentence."""
    try:
        yield
    except RemoteError as error:
        raise UserError(f"the results cannot be used: {error}", "choose another --results") from None


def stored_url(folder: Path) -> str | None:
    """The URL of the run in ``folder``; None if the run is only in this folder."""
    try:
        return str(json.loads((folder / STATE).read_text(encoding="utf-8"))["url"])
    except (OSError, ValueError, KeyError):
        return None
