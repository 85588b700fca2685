"""Faults on demand for `dev`: closes, refusals, a Redis that is down.

`Faults.attach` puts `FaultyStore` between the handlers and the daemon's store. So a
refusal on demand passes the same code as a real one.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from typing import Final

from ..daemon import Daemon
from ..ports import Conflict, FieldChanges, Missing, Store, VersionedRow
from ..protocol.errors import ClientError, CloseCode, Code
from .redis import RedisServer, RedisServerError
from .rest import HttpError

__all__ = ["Faults", "FaultyStore", "Query", "given"]

RETRY_AFTER_MS: Final = 1_000
MAX_TIMES: Final = 1_000
NOT_STARTED: Final = "typelets-ws dev is still starting"

Query = Mapping[str, str]


class FaultyStore:
    """A store that raises the codes of `refusals` for a user's next updates."""

    def __init__(self, store: Store, refusals: Mapping[str, deque[Code]]) -> None:
        self._store = store
        self._refusals = refusals

    async def update_note(
        self, user_id: str, note_id: str, changes: FieldChanges
    ) -> VersionedRow | Missing:
        """As the store, or `ClientError`."""
        self._refuse(user_id)
        return await self._store.update_note(user_id, note_id, changes)

    async def update_note_based(
        self, user_id: str, note_id: str, changes: FieldChanges, base: str
    ) -> VersionedRow | Missing | Conflict:
        """As the store, or `ClientError`."""
        self._refuse(user_id)
        return await self._store.update_note_based(user_id, note_id, changes, base)

    async def note_owner(self, note_id: str) -> str | None:
        """As the store."""
        return await self._store.note_owner(note_id)

    async def folder_owner(self, folder_id: str) -> str | None:
        """As the store."""
        return await self._store.folder_owner(folder_id)

    def _refuse(self, user_id: str) -> None:
        waiting = self._refusals.get(user_id)
        if waiting:
            code = waiting.popleft()
            retry = RETRY_AFTER_MS if code is Code.RATE_LIMITED else None
            raise ClientError(code, f"{code} on demand", retry_after_ms=retry)


class Faults:
    """Causes faults for the page and for tests of apps."""

    def __init__(self, redis: RedisServer | None = None) -> None:
        self._redis = redis
        self._daemon: Daemon | None = None
        self._refusals: defaultdict[str, deque[Code]] = defaultdict(deque)

    def attach(self, daemon: Daemon) -> None:
        """Cause them in this daemon from now on."""
        self._daemon = daemon
        context = daemon.state.context
        context.store = FaultyStore(context.store, self._refusals)

    @property
    def redis_is_stopped(self) -> bool:
        """Whether Redis is stopped on demand."""
        return self._redis is not None and not self._redis.is_running

    def cause(self, query: Query) -> Mapping[str, str]:
        """Cause the fault `kind`; return a sentence about it. Raises `HttpError`."""
        kinds: dict[str, Callable[[Query], str]] = {
            "close": self._close, "error": self._error, "redis": self._switch_redis,
        }  # fmt: skip
        return {"done": kinds[_choice(query, "kind", kinds)](query)}

    def _close(self, query: Query) -> str:
        """Close a user's connections with a code."""
        codes = {str(code.value): code for code in CloseCode}
        text = _choice(query, "code", codes)
        user = given(query, "user")
        if self._daemon is None:
            raise HttpError(503, NOT_STARTED)
        devices = self._daemon.relay.hub.devices_of(user)
        for device in devices:
            device.close(codes[text], "on_demand")
        return f"closed {len(devices)} connections of {user} with {text}"

    def _error(self, query: Query) -> str:
        """Refuse a user's next note updates with a code."""
        code = Code(_choice(query, "code", {code.value: code for code in Code}))
        user, times = given(query, "user"), query.get("times", "1")
        if not times.isdecimal() or not 1 <= int(times) <= MAX_TIMES:
            raise HttpError(400, f"times must be a number from 1 to {MAX_TIMES}")
        self._refusals[user] = deque([code] * int(times))
        which = "note update" if int(times) == 1 else f"{times} note updates"
        return f"the next {which} of {user} will get {code}"

    def _switch_redis(self, query: Query) -> str:
        action = _choice(query, "action", {"start": None, "stop": None})
        if self._redis is None:
            raise HttpError(503, NOT_STARTED)
        try:
            (self._redis.start if action == "start" else self._redis.stop)()
        except RedisServerError as exc:
            raise HttpError(503, str(exc)) from exc
        return "Redis is started" if action == "start" else "Redis is stopped"


def given(query: Query, name: str) -> str:
    """A parameter that is required. Raises `HttpError`."""
    if not query.get(name):
        raise HttpError(400, f"{name} is missing")
    return query[name]


def _choice(query: Query, name: str, known: Mapping[str, object]) -> str:
    text = given(query, name)
    if text not in known:
        raise HttpError(400, f"{name} must be one of {', '.join(known)}")
    return text
