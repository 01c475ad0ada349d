"""Objects below a URL: written if absent, read as a whole, with a time limit for each call."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from autocompress.errors import UserError
from autocompress.files import atomic, sync

T = TypeVar("T")
LONGEST_S = 120.0
"""Longest time in seconds for one object."""
ANSWERS_WITHIN_S = 30.0
"""Longest time in seconds for an answer of storage before a search begins."""
SLOW_S = 2.0
"""Storage is slow if a small object takes this many seconds."""
_NAME = re.compile(r"[\w.-]+(/[\w.-]+)*")
_CREDENTIALS = re.compile(r"(?i)(AKIA|ASIA)[A-Z0-9]{8,}|(?<=[:/=])[^\s:/=@]+(?=@)")


class RemoteError(OSError):
    """Storage that cannot be reached, refuses, or is too slow. The message is one line."""

    def __init__(self, text: str) -> None:
        super().__init__(_CREDENTIALS.sub("...", " ".join(text.split()))[:300])

    def __str__(self) -> str:
        return str(self.args[0])


class Objects:
    """The objects below a URL.

    Args:
        url: such as ``s3://bucket/prefix``; checked by ``urls.checked_url`` before.
        longest: time limit of a call in seconds.

    Raises:
        UserError: if no package for its scheme is installed.
    """

    def __init__(self, url: str, longest: float = LONGEST_S) -> None:
        self.url, self._longest = url, longest
        scheme = url.partition("://")[0]
        try:
            from fsspec.core import url_to_fs

            # Cached listings would hide objects that other processes write.
            self._files, self._root = url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise UserError(
                f"{url} cannot be opened: {' '.join(str(error).split())}",
                f"install autocompress[cluster], or fsspec's package for {scheme}",
            ) from None

    def put(self, name: str, file: Path) -> bool:
        """Stores a file, unless an object has this name; returns whether it was stored.
        Raises:
            RemoteError: if it is not known whether the file was stored.
        """

        def write(path: str) -> None:
            if self._is_local:
                _linked(Path(path), lambda temporary: shutil.copyfile(file, temporary))
            else:
                self._files.put_file(str(file), path, mode="create")

        return self._create(write, name)

    def put_bytes(self, name: str, data: bytes, *, replace: bool = False) -> bool:
        """Puts bytes, see :meth:`put`; with ``replace``, an existing object is replaced."""

        def write(path: str) -> None:
            if not self._is_local:
                self._files.pipe_file(path, data, mode="overwrite" if replace else "create")
            elif replace:
                with atomic(Path(path)) as temporary:
                    temporary.write_bytes(data)
            else:
                _linked(Path(path), lambda temporary: temporary.write_bytes(data))

        return self._create(write, name)

    def _create(self, write: Callable[[str], None], name: str) -> bool:
        path = self._path(name)

        def create() -> bool:
            try:
                write(path)
            except FileExistsError:
                return False
            return True

        return self._called(create, f"{name} cannot be written to {self.url}")

    def fetch(self, name: str, file: Path) -> bool:
        """Copies an object to a local file, atomically; False if there is none.

        Raises:
            RemoteError: if it cannot be read.
        """

        def copy() -> bool:
            try:
                with atomic(file) as temporary:
                    self._files.get_file(self._path(name), str(temporary))
            except FileNotFoundError:
                return False
            return True

        return self._called(copy, f"{name} cannot be read from {self.url}")

    def read(self, name: str) -> bytes | None:
        """The bytes of an object; None if there is none."""

        def cat() -> bytes | None:
            try:
                return bytes(self._files.cat_file(self._path(name)))
            except FileNotFoundError:
                return None

        return self._called(cat, f"{name} cannot be read from {self.url}")

    def exists(self, name: str) -> bool:
        """Whether there is such an object."""
        return self._called(lambda: bool(self._files.exists(self._path(name))), f"{self.url} does not answer")

    def names(self, folder: str = "") -> list[str]:
        """The sorted names of all objects below ``folder``; by default of all objects.

        Objects with names that autocompress does not use, such as files of a user, are left out.
        """

        def find() -> list[str]:
            found = self._files.find(self._path(folder) if folder else self._root)
            names = (str(path).removeprefix(self._root).lstrip("/") for path in found)
            return sorted(name for name in names if _is_name(name))

        return self._called(find, f"{folder} cannot be listed in {self.url}")

    def read_all(self, folder: str) -> dict[str, bytes]:
        """The objects directly below ``folder`` by name."""
        root = self._path(folder)

        def cat() -> dict[str, bytes]:
            paths = self._files.find(root, maxdepth=1)
            found = self._files.cat(paths) if paths else {}
            return {str(path).rpartition("/")[2]: bytes(data) for path, data in found.items()}

        return self._called(cat, f"{folder} cannot be read from {self.url}")

    def remove(self, name: str) -> None:
        """Removes an object, if there is one."""

        def remove() -> None:
            try:
                self._files.rm_file(self._path(name))
            except FileNotFoundError:
                return

        self._called(remove, f"{name} cannot be removed from {self.url}")

    def check(self) -> float:
        """Writes, reads and removes a small object.

        Returns:
            The time in seconds.

        Raises:
            RemoteError: if it fails, or takes too long.
        """
        name, data = f".probe-{secrets.token_hex(8)}", secrets.token_bytes(1024)
        quick = Objects(self.url, min(self._longest, ANSWERS_WITHIN_S))
        began = time.monotonic()
        quick.put_bytes(name, data)
        is_same = quick.read(name) == data
        quick.remove(name)
        if not is_same:
            raise RemoteError(f"{self.url} does not return the bytes that were written to it")
        return time.monotonic() - began

    def _path(self, name: str) -> str:
        if not _is_name(name):
            raise ValueError(f"not the name of an object: {name!r}")
        return f"{self._root.rstrip('/')}/{name}"

    @property
    def _is_local(self) -> bool:
        """Whether it is a local folder, where fsspec would overwrite files in place."""
        return "file" in self._files.protocol

    def _called(self, call: Callable[[], T], what: str) -> T:
        """The result of ``call`` in another thread, which is abandoned if it takes too long."""
        done: list[T] = []
        failed: list[BaseException] = []

        def run() -> None:
            try:
                done.append(call())
            except BaseException as error:  # raised in the waiting thread
                failed.append(error)

        thread = threading.Thread(target=run, daemon=True, name="storage")
        thread.start()
        thread.join(self._longest)
        if failed:
            error = failed[0]
            if isinstance(error, ValueError):
                raise error
            raise RemoteError(f"{what}: {type(error).__name__}: {error}") from error
        if not done:
            raise RemoteError(f"{what}: no answer in {self._longest:g} s")
        return done[0]


def _is_name(name: str) -> bool:
    """Whether an object may have this name: it does not leave the prefix."""
    return _NAME.fullmatch(name) is not None and ".." not in name.split("/")


def _linked(path: Path, write: Callable[[Path], Any]) -> None:
    """Writes a file that is complete when it gets its name.

    Raises:
        FileExistsError: if there is one of this name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        write(temporary)
        sync(temporary)
        os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
