"""The mirror of a run on a URL: the folder of the run on the local disk, and its objects.

Everything can be restored from the journal of the study. It is stored in numbered pieces, one
object for each finished trial, which are written once and never removed. If two drivers continue
one run, one of them cannot write its next piece, because the number is taken, and ends. A driver on
another machine restores the journal from the pieces.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autocompress.errors import UserError
from autocompress.files import warn_once, write_json
from autocompress.job import Job, folder_of
from autocompress.remote import Objects, RemoteError, checked_url, url_of
from autocompress.results import JOB_FILE, Row
from autocompress.searching.spool import SPOOL
from autocompress.searching.storing.opening import STUDY_FILE

PIECES, DRIVER, STATE = "journal", "driver.json", "mirror.json"
BEATS_EVERY_S, LEASE_S = 10.0, 30.0
"""Seconds between two signs of life of a driver, and seconds without one until a takeover."""
ENDS_WITHIN_S = 1.0
"""Most seconds for a last piece when the driver must end."""
SENT_WITHIN_S = 300.0
"""Most seconds for sending the results of a finished search."""
LOCAL = ("ray", SPOOL, "driver.lock", "study.lock", STUDY_FILE, STATE)
"""Names in the folder of a run that are not sent."""
log = logging.getLogger("autocompress.search")


class Mirror:
    """The objects of a run, and its folder.

    Args:
        url: of the run: ``<results>/<name>``.
        folder: of the run, on the local disk.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        self._objects = Objects(url)
        self._owner = uuid.uuid4().hex
        self._ended = threading.Event()
        self._sent: dict[str, tuple[int, int]] = {}

    # --- one driver -------------------------------------------------------------------------------

    def claim(self, wait_s: float | None = None) -> None:
        """Becomes the driver of the run.

        Args:
            wait_s: seconds to wait for a sign of life of the last driver; ``LEASE_S`` by default.

        Raises:
            UserError: if another driver is alive, or storage cannot be used.
        """
        wait_s = LEASE_S if wait_s is None else wait_s
        with self._told():
            before = self._objects.read(DRIVER)
            if before is not None and not json.loads(before).get("done"):
                log.info(
                    "the last driver of %s did not end by itself: waiting %.0f s for a sign of it", self.url, wait_s
                )
                deadline = time.monotonic() + wait_s
                while time.monotonic() < deadline:
                    time.sleep(min(1.0, wait_s / 4))
                    if self._objects.read(DRIVER) != before:
                        raise UserError(
                            f"another process is running the search in {self.url}", "wait for it, or end it"
                        )
            self._sign(done=False)
        threading.Thread(target=self._live, daemon=True, name="lease").start()

    def _sign(self, *, done: bool) -> None:
        sign = {"owner": self._owner, "at": time.time(), "done": done}
        self._objects.put_bytes(DRIVER, json.dumps(sign).encode(), replace=True)

    def _live(self) -> None:
        while not self._ended.wait(BEATS_EVERY_S):
            try:
                self._sign(done=False)
            except RemoteError as error:
                warn_once(Path(self.url), "does not take signs of life", error)

    # --- the study --------------------------------------------------------------------------------

    @property
    def exists(self) -> bool:
        """Whether the run exists on the URL."""
        with self._told():
            return self._objects.exists(JOB_FILE)

    def fetch_job(self) -> None:
        """Copies the job of the run into the folder.

        Raises:
            UserError: if storage cannot be used.
        """
        with self._told():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._objects.fetch(JOB_FILE, self.folder / JOB_FILE)

    def fetch(self) -> None:
        """Restores the folder from the objects, unless it is already up to date.

        Raises:
            UserError: if storage cannot be used.
        """
        with self._told():
            pieces = self._objects.read_all(PIECES)
            count, size = self._state()
            journal = self.folder / STUDY_FILE
            is_newer = count == len(pieces) and journal.exists() and journal.stat().st_size >= size
            self.fetch_job()
            if not is_newer and pieces:
                log.info("the study is made again of %d pieces of %s", len(pieces), self.url)
                for name in (SPOOL, "artifacts", "structures"):  # from a driver that lost the run
                    shutil.rmtree(self.folder / name, ignore_errors=True)
                journal.write_bytes(b"".join(pieces[name] for name in sorted(pieces)))
                self._keep_state(len(pieces), journal.stat().st_size)
            for name in self._objects.names("artifacts"):
                if not (file := self.folder / name).exists():
                    self._objects.fetch(name, file)

    def push(self) -> None:
        """Sends the part of the journal since the last piece.

        If storage is unreachable, it does not wait, and the next piece has this part too.

        Raises:
            UserError: if another driver continues the run.
        """
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
            is_mine = self._objects.put_bytes(f"{PIECES}/{count:08d}", piece)
            if not is_mine:
                # After an error, the object may still have been made. It then has the part that was
                # to be sent at that time, and this piece continues from there.
                stored = self._objects.read(f"{PIECES}/{count:08d}") or b""
                is_mine = stored != b"" and piece.startswith(stored)
                piece, rest = stored, len(piece) > len(stored)
        except RemoteError as error:
            warn_once(Path(self.url), "is away: results stay on this machine until it is back", error)
            return
        if not is_mine:
            raise UserError(f"another process continues the search in {self.url}", "this one ends")
        self._keep_state(count + 1, size + len(piece))
        if rest:
            self.push()

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
        """Sends the job; from now on the run exists, and the folder has its URL.

        Raises:
            UserError: if storage cannot be used.
        """
        self._keep_state(0, 0)
        with self._told():
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
            warn_once(Path(self.url), "is away: artifacts are sent at the end", error)

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

    def release(self) -> None:
        """Releases the run, so that another driver can continue at once."""
        if not self._ended.is_set():
            self._ended.set()
            quick = Mirror(self.url, self.folder)
            quick._objects, quick._owner = Objects(self.url, ENDS_WITHIN_S), self._owner
            try:
                quick.push()
                quick._sign(done=True)
            except (RemoteError, UserError, OSError) as error:
                log.warning("%s is not told that this driver ends: %s", self.url, error)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except RemoteError as error:
            raise UserError(f"the results cannot be used: {error}", "choose another --results") from None


def has_begun(job: Job) -> bool:
    """Whether the run of this job exists, in its folder or on its URL."""
    if job.run_url is None:
        return (job.folder / JOB_FILE).is_file()
    return Mirror(job.run_url, job.folder).exists


def home_of(place: Path) -> tuple[Path, str | None]:
    """The folder of a run on this machine, with its job, and the URL of the run where it has one.

    Args:
        place: the folder of a run, or its URL.

    Raises:
        UserError: if there is no run on the URL, or storage cannot be used.
    """
    url = url_of(place) or _url_in(place)
    if url is None:
        return place, None
    mirror = _mirror_of(url)
    mirror.fetch_job()
    return mirror.folder, url


def _mirror_of(url: str) -> Mirror:
    """The mirror of a run that exists.

    Raises:
        UserError: if it does not, or storage cannot be used.
    """
    try:
        results, _, name = checked_url(url).rpartition("/")
    except ValueError as error:
        raise UserError(f"the URL {error}") from None
    mirror = Mirror(url, folder_of(results, name))
    if not mirror.exists:
        raise UserError(f"{url} is not a run: it has no {JOB_FILE}", "give the URL that a search wrote")
    return mirror


@contextmanager
def mirrored(job: Job) -> Iterator[Mirror | None]:
    """The claimed mirror of a new run; None if results are in a folder.

    Raises:
        UserError: if the run exists already, another process drives it, or storage cannot be used.
    """
    if job.run_url is None:
        yield None
        return
    mirror = Mirror(job.run_url, job.folder)
    if mirror.exists:
        raise UserError(f"{mirror.url} exists already", f"'autocompress resume {mirror.url}' continues it")
    mirror.claim()
    try:
        yield mirror
    finally:
        mirror.release()


@contextmanager
def resumed(place: Path) -> Iterator[tuple[Path, Mirror | None]]:
    """The folder of a run; restored from objects if ``place`` is a URL or belongs to one.

    Raises:
        UserError: if there is no run, another process drives it, or storage cannot be used.
    """
    url = url_of(place) or _url_in(place)
    if url is None:
        yield place, None
        return
    mirror = _mirror_of(url)
    mirror.claim()
    try:
        mirror.fetch()
        yield mirror.folder, mirror
    finally:
        mirror.release()


def _url_in(folder: Path) -> str | None:
    """The URL of a mirrored folder."""
    try:
        return str(json.loads((folder / STATE).read_text(encoding="utf-8"))["url"])
    except (OSError, ValueError, KeyError):
        return None
