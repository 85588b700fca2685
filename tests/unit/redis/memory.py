"""A Redis in memory, as the shared limits use it, in the time of the loop."""

import asyncio
from collections.abc import Callable
from typing import Any

import hiredis

from typelets_ws.redis.acquire import ACQUIRE_SHA
from typelets_ws.redis.commands import Argument, ReplyCallback
from typelets_ws.redis.connection import RedisUnavailableError

__all__ = ["AWAY", "NO_MEMORY", "MemoryClient", "MemoryRedis"]

AWAY = RedisUnavailableError("closed")
NO_MEMORY = hiredis.ReplyError("OOM command not allowed")


class MemoryRedis:
    """Keys with their ends; `commands` names all that were run."""

    def __init__(self) -> None:
        self.failure: RedisUnavailableError | hiredis.ReplyError | None = None
        self.failing: set[bytes] | None = None
        """Commands that fail; None: all."""
        self.commands: list[tuple[Argument, ...]] = []
        self.knows_script = True
        self._values: dict[bytes, bytes | set[bytes]] = {}
        self._ends: dict[bytes, float] = {}

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def names(self, prefix: bytes = b"") -> set[bytes]:
        """The keys that begin so."""
        known = [key for key in list(self._values) if self._get(key) is not None]
        return {key for key in known if key.startswith(prefix)}

    def members(self, key: bytes) -> set[bytes]:
        found = self._get(key)
        return set(found) if isinstance(found, set) else set()

    def ttl_s(self, key: bytes) -> float | None:
        assert self._get(key) is not None
        return self._ends[key] - self.now if key in self._ends else None

    def flush(self) -> None:
        self._values.clear()
        self._ends.clear()

    def named(self, name: bytes) -> list[tuple[Argument, ...]]:
        """The commands of this name since the last call for any."""
        found = [one for one in self.commands if one[0] == name]
        self.commands.clear()
        return found

    def run(self, name: bytes, *args: Any) -> Any:
        self.commands.append((name, *args))
        if self.failure is not None and (self.failing is None or name in self.failing):
            raise self.failure
        return getattr(self, f"_{name.decode().lower()}")(*args)

    def _get(self, key: bytes) -> bytes | set[bytes] | None:
        if self._ends.get(key, self.now + 1.0) <= self.now:
            self._del(key)
        return self._values.get(key)

    def _exists(self, key: bytes) -> int:
        return int(self._get(key) is not None)

    def _del(self, key: bytes) -> int:
        self._ends.pop(key, None)
        return int(self._values.pop(key, None) is not None)

    def _expire(self, key: bytes, ttl_s: int) -> int:
        if self._get(key) is None:
            return 0
        self._ends[key] = self.now + ttl_s
        return 1

    def _set(self, key: bytes, value: bytes, *options: Any) -> bytes | None:
        known = self._get(key) is not None
        if (b"NX" in options and known) or (b"XX" in options and not known):
            return None
        self._values[key] = value
        self._ends[key] = self.now + options[-1] / 1000
        return b"OK"

    def _sadd(self, key: bytes, *members: bytes) -> int:
        held = self._get(key)
        if held is None:
            held = self._values[key] = set()
        assert isinstance(held, set)
        held.update(members)
        return len(members)

    def _srem(self, key: bytes, member: bytes) -> int:
        held = self._get(key)
        if not isinstance(held, set) or member not in held:
            return 0
        held.discard(member)
        if not held:
            self._del(key)
        return 1

    def _script(self, *_: object) -> bytes:
        self.knows_script = True
        return b""

    def _evalsha(self, sha: str, *args: Any) -> Any:
        assert sha == ACQUIRE_SHA
        if not self.knows_script:
            raise hiredis.ReplyError("NOSCRIPT No matching script")
        return self._acquire(*args)

    def _eval(self, _script: bytes, *args: Any) -> Any:
        self.knows_script = True
        return self._acquire(*args)

    def _acquire(self, count: int, devices: bytes, *rest: Any) -> int | list[bytes]:
        """The script of `redis.acquire`."""
        leases, rest = rest[: count - 1], rest[count - 1 :]
        prefix, member, limit, revoked, ttl_s, declared = rest
        if revoked and self._exists(revoked):
            return -1
        held = self.members(devices)
        if member in held:
            return 1
        keys = {one: prefix + one[:16] for one in held}
        missing = set(keys.values()) - set(leases)
        if declared and missing:
            return sorted(missing)
        for one, key in keys.items():
            if not self._exists(key):
                self._srem(devices, one)
        if len(self.members(devices)) >= limit:
            return 0
        self._sadd(devices, member)
        self._expire(devices, ttl_s)
        return 1


class MemoryClient:
    """One process' connection."""

    def __init__(self, redis: MemoryRedis) -> None:
        self.redis = redis
        self.up = True
        self._callbacks: list[Callable[[], None]] = []

    def on_connect(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    def connect(self) -> None:
        """A connection has been made."""
        self.up = True
        for callback in self._callbacks:
            callback()

    async def call(self, *args: Any) -> Any:
        await asyncio.sleep(0)
        return self.redis.run(*args)

    def send(self, callback: ReplyCallback, *args: Any) -> None:
        try:
            reply = self.redis.run(*args)
        except (RedisUnavailableError, hiredis.ReplyError) as failure:
            reply = failure
        asyncio.get_running_loop().call_soon(callback, reply)
