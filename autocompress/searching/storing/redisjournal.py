"""A study in Redis: Optuna's journal, in the format of its ``JournalRedisBackend``.

There are three differences. Optuna's backend also stores snapshots as pickles, and loads them. So
everybody who can write to the server could run code here; this journal has no snapshots. Logs are
added once, even if the answer to the first attempt is lost. And logs that the server has lost in a
crash are sent again.
"""

from __future__ import annotations

import json
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend

from autocompress.searching.storing.outages import StudyAway, away, insisted

REMEMBERED = 20_000
"""Number of logs that can be sent again: those of about a thousand trials."""
READ_AT_ONCE = 1000
TIMEOUT_S = 5.0
T = TypeVar("T")

_APPEND = """
local top = tonumber(redis.call('get', KEYS[1]) or '-1')
if redis.call('get', KEYS[2]) == ARGV[1] then return top end
if top + 1 < tonumber(ARGV[2]) then return top - 1000000000 end
for at = 4, #ARGV do
  top = top + 1
  redis.call('set', string.format('%s:log:%d', ARGV[3], top), ARGV[at])
end
redis.call('set', KEYS[1], top)
redis.call('set', KEYS[2], ARGV[1])
return top
"""
"""Appends all logs or none, and never a batch twice.

If the server has fewer logs than were read here, it appends none, and returns their number minus
10^9.
"""
_LOST = -(10**9)


class RedisJournal(BaseJournalBackend):
    """The journal of one study.

    Args:
        url: URL of the server, without a password.
        password: password of the server; None for none.
        name: name of the study; the prefix of all its keys.

    Raises:
        redis.RedisError: if the server does not answer, or refuses.
    """

    def __init__(self, url: str, password: str | None, name: str) -> None:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        self._url, self._name = url, name
        self._errors = (redis.ConnectionError, redis.TimeoutError, redis.exceptions.ReadOnlyError)
        self._all_errors = redis.RedisError
        self._refusals = (redis.AuthenticationError, redis.exceptions.NoPermissionError)
        given = {"password": password} if password else {}
        limits: dict[str, Any] = {"socket_timeout": TIMEOUT_S, "socket_connect_timeout": TIMEOUT_S}
        self._redis: Any = redis.Redis.from_url(
            url, decode_responses=True, retry=Retry(NoBackoff(), 0), **given, **limits
        )
        self._append = self._redis.register_script(_APPEND)
        self._redis.ping()  # at the start there is no waiting for the server
        self._next = 0
        self._tail: deque[str] = deque(maxlen=REMEMBERED)

    @property
    def is_kept(self) -> bool:
        """Whether the server writes each change to its disk; True if it does not say."""
        try:
            return self._redis.config_get("appendonly").get("appendonly") != "no"
        except Exception:  # managed servers do not say
            return True

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The logs from a number on."""
        last = self._last()
        if last + 1 < self._next:
            self._send_again(last)
            last = self._last()
        numbers = range(log_number_from, last + 1)
        for first in range(0, len(numbers), READ_AT_ONCE):
            some = numbers[first : first + READ_AT_ONCE]
            texts = self._texts(some)
            for number, text in zip(some, texts, strict=True):
                if text is None:
                    raise StudyAway(f"log {number} of the study {self._name} is not in {self._url}", "bring it back")
                if number >= self._next:
                    self._tail.append(text)
                    self._next = number + 1
                yield json.loads(text)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Appends all logs, or none."""
        texts = [json.dumps(log, separators=(",", ":")) for log in logs]
        batch = uuid.uuid4().hex
        while (top := self._sent(batch, self._next, texts)) < -1:
            self._send_again(top - _LOST)
        if top - len(texts) + 1 == self._next:  # otherwise other processes wrote too, and all logs are read first
            self._tail.extend(texts)
            self._next = top + 1

    def _last(self) -> int:
        """The number of the last log on the server."""
        found = self._asked(lambda: self._redis.get(f"{self._name}:log_number"))
        return -1 if found is None else int(found)

    def _send_again(self, top: int) -> None:
        """Sends logs again that the server has lost; its last log is ``top``."""
        missing = self._next - top - 1
        if missing > len(self._tail):
            raise StudyAway(
                f"{self._url} has lost {missing} changes of the study {self._name}",
                "switch its 'appendonly' on; 'autocompress resume' continues from the remaining study",
            )
        lost = list(islice(self._tail, len(self._tail) - missing, None))
        for first in range(0, len(lost), READ_AT_ONCE):
            self._sent(uuid.uuid4().hex, top + 1, lost[first : first + READ_AT_ONCE])

    def _sent(self, batch: str, expected: int, texts: list[str]) -> int:
        keys = [f"{self._name}:log_number", f"{self._name}:batch"]
        return int(self._asked(lambda: self._append(keys=keys, args=[batch, expected, self._name, *texts])))

    def _texts(self, numbers: Iterable[int]) -> list[str | None]:
        keys = [f"{self._name}:log:{number}" for number in numbers]
        found: list[str | None] = self._asked(lambda: self._redis.mget(keys))
        return found

    def _asked(self, action: Callable[[], T]) -> T:
        """The answer of the server; waits for it during an outage.

        Raises:
            StudyAway: if the server stays away, or refuses: its memory is full, for example.
        """
        try:
            return insisted(lambda _: action(), self._is_outage, self._url)
        except self._all_errors as error:
            raise away(self._url, error) from None

    def _is_outage(self, error: Exception) -> bool:
        return isinstance(error, self._errors) and not isinstance(error, self._refusals)


class RedisStorage(JournalStorage):
    """Optuna's storage in Redis; the arguments are those of :class:`RedisJournal`."""

    def __init__(self, url: str, password: str | None, name: str) -> None:
        self.journal = RedisJournal(url, password, name)
        super().__init__(self.journal)
