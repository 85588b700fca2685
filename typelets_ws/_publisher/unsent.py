"""Messages that a publisher could not send, kept until Redis takes them.

Invariants: memory is bounded (`MOST_USERS`, `MOST_ORDERS`); beyond it the oldest is
forgotten and counted. A change that was not sent is replaced by `resync_required` for
its user: by then the event may be older than what the devices have. A revocation or a
disconnection has no such substitute and is sent again as it was. Threads may share an
`Outcomes`. Tested by tests/unit/_publisher/test_unsent.py.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import redis
from redis.exceptions import RedisClusterException

__all__ = [
    "FAILED",
    "Failure",
    "OnFailure",
    "Outcomes",
    "Publication",
    "reset_is_failure",
]

MOST_USERS: Final = 10_000
MOST_ORDERS: Final = 1_000
FAILED: Final = (redis.RedisError, RedisClusterException, OSError, TimeoutError)
"""Exceptions of a client when Redis did not take a command."""
RESET: Final = "the handler is closed"
_log: Final = logging.getLogger("typelets_ws.publisher")


@contextmanager
def reset_is_failure() -> Iterator[None]:
    """Raise `redis.ConnectionError` when a connection was reset before a write.

    uvloop refuses such a write with RuntimeError, and redis-py passes it on.
    """
    try:
        yield
    except RuntimeError as error:
        if RESET not in str(error):
            raise
        raise redis.ConnectionError("the connection was reset") from error


@dataclass(frozen=True, slots=True)
class Publication:
    """One publication. `revocation`: key and seconds, set before it is published.

    `is_order`: it must arrive, a `resync_required` does not replace it.
    """

    user_id: str
    event: str
    channel: str
    payload: bytes
    revocation: tuple[str, int] | None = None
    is_order: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """One event that Redis did not take. `error` is redis-py's, or a timeout."""

    user_id: str
    event: str
    error: Exception


OnFailure = Callable[[Failure], None]


class Outcomes:
    """Counts failures and keeps what must be made up for.

    `resync` makes the message that tells one user's devices to fetch again.
    """

    def __init__(
        self, resync: Callable[[str], Publication], on_failure: OnFailure | None
    ) -> None:
        self.failures = 0
        self.forgotten = 0
        self._resync = resync
        self._on_failure = on_failure
        self._lock = threading.Lock()
        self._users: dict[str, None] = {}
        self._orders: deque[Publication] = deque()
        self._order_was_last = False
        self._taken = False
        self._down = False

    @property
    def pending(self) -> int:
        """Users with a pending `resync_required`, and control events not sent yet.

        One that is being sent is counted until Redis has taken it.
        """
        return len(self._users) + len(self._orders) + self._taken

    def raise_if_down(self) -> None:
        """Raise `redis.ConnectionError` from a lost connection until Redis answers."""
        if self._down:
            raise redis.ConnectionError("redis did not answer a moment ago")

    def failed(self, message: Publication, error: BaseException) -> None:
        """Count a failure, keep what makes up for it, call `on_failure`."""
        with self._lock:
            self.failures += 1
            first = not self.pending
            # A refusal of one command says nothing about the next.
            if isinstance(error, FAILED) and not isinstance(error, redis.ResponseError):
                self._down = True
            self._keep(message)
        if first:
            _log.warning("redis did not take an event: %s", type(error).__name__)
        if self._on_failure is None or not isinstance(error, Exception):
            return
        try:
            self._on_failure(Failure(message.user_id, message.event, error))
        except Exception:
            _log.exception("on_failure failed")

    def sent(self) -> None:
        """Redis has taken the message."""
        self._taken = self._down = False

    def take(self) -> Publication | None:
        """The next message to send, until `sent` or `give_back`; None when all are.

        Orders and users take turns: one that is refused for ever delays no other.
        """
        with self._lock:
            self._taken = bool(self._orders or self._users)
            if self._orders and not (self._order_was_last and self._users):
                self._order_was_last = True
                return self._orders.popleft()
            self._order_was_last = False
            if not self._users:
                self._down = False
                return None
            user_id = next(iter(self._users))
            del self._users[user_id]
        return self._resync(user_id)

    def give_back(self, message: Publication) -> None:
        """Keep a message that was taken and not sent, behind the others."""
        with self._lock:
            self._taken = False
            self._keep(message)

    def _keep(self, message: Publication) -> None:
        if message.is_order:
            self._orders.append(message)
            if len(self._orders) > MOST_ORDERS:
                self._orders.popleft()
                self.forgotten += 1
        else:
            self._users[message.user_id] = None
            if len(self._users) > MOST_USERS:
                del self._users[next(iter(self._users))]
                self.forgotten += 1
