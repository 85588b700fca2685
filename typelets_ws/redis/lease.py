"""The lease of this process, and the device slots that are registered under it.

A user's devices are a Redis set of ``<lease>:<connection>``. The lease's key expires
unless it is renewed, each third of its time. Members whose lease has no key count for
nothing: 10 000 devices cost one renewal (in a Cluster one for each bucket of users),
and the slots of a killed process become free by themselves.

Invariant: a new lease is right, independent of what happened to the connections. It
begins by ending the ones before and registering every device of this process, so a lost
release, an unanswered acquire and a Redis that lost its data need no handling of their
own. A failover may undo the end of a lease, whose devices then count twice: each key is
deleted again until it has expired. Tested by tests/integration/redis/test_limits.py.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from math import ceil
from typing import Any, Final

from .acquire import ACQUIRE
from .client import RedisClient
from .commands import ReplyCallback
from .connection import redis_key
from .keys import RedisKeys

__all__ = ["TTL_S", "Lease"]

TTL_S: Final = 3600
"""A user's set lives this long unless touched; each is touched three times in it."""
BATCH: Final = 256
ENDED_KEPT: Final = 4096
"""Keys of ended leases that are deleted again; those before expire by themselves."""


class Lease:
    """The current lease. `on_reply` receives each reply that is not waited for.

    `now` in seconds, monotonic.
    """

    def __init__(
        self,
        keys: RedisKeys,
        commands: RedisClient,
        lease_s: float,
        on_reply: ReplyCallback,
        *,
        now: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self._keys = keys
        self._commands = commands
        self._lease_ms = int(lease_s * 1000)
        self._on_reply = on_reply
        self._now = now
        self._rng = rng
        self._name = self._new_name()
        self._devices: dict[str, set[str]] = {}
        self._buckets: set[bytes] = set()
        self._ended: dict[bytes, float] = {}
        self._unregistered: Iterator[str] = iter(())
        self._round: Iterator[str] = iter(())

    def add(self, user_id: str, connection_id: str) -> None:
        """Count a device from now on: a lease that begins meanwhile registers it."""
        self._devices.setdefault(user_id, set()).add(connection_id)
        if self._keys.cluster:
            bucket = self._keys.bucket(user_id)
            if bucket not in self._buckets:
                self._set(bucket)

    def discard(self, user_id: str, connection_id: str) -> bool:
        """Stop counting a device; False when it was not counted."""
        held = self._devices.get(user_id)
        if held is None or connection_id not in held:
            return False
        held.discard(connection_id)
        if not held:
            del self._devices[user_id]
        return True

    def member(self, connection_id: str) -> bytes:
        """The device's member in its user's set."""
        return redis_key(self._name + b":", connection_id)

    def start(self) -> None:
        """End the leases before and register all devices under a new one."""
        old, self._name = self._name, self._new_name()
        old_buckets, self._buckets = self._buckets, set()
        self._commands.send(self._on_reply, b"SCRIPT", b"LOAD", ACQUIRE)
        buckets = {self._keys.bucket(user_id) for user_id in self._devices}
        for bucket in buckets if self._keys.cluster else {b""}:
            self._set(bucket)
        self._end(self._keys.lease_prefix(bucket) + old for bucket in old_buckets)
        self._unregistered = self._users()
        self._register_more(None)

    async def renew(self, pause_s: float) -> bool:
        """Renew, `pause_s` after the last time; False when Redis lost the lease.

        Raises `RedisUnavailableError` or `hiredis.ReplyError`.
        """
        renewed = True
        for bucket in tuple(self._buckets):
            key = self._keys.lease_prefix(bucket) + self._name
            reply = await self._commands.call(
                b"SET", key, b"1", b"XX", b"PX", self._lease_ms
            )
            renewed = renewed and reply is not None
        users = len(self._devices) * pause_s * 3 / TTL_S
        self._register(self._next_users(ceil(users)), self._on_reply)
        return renewed

    def _end(self, keys: Iterable[bytes]) -> None:
        now = self._now()
        ended = {key: end for key, end in self._ended.items() if end > now}
        ended |= dict.fromkeys(keys, now + self._lease_ms / 1000)
        self._ended = dict(list(ended.items())[-ENDED_KEPT:])
        for key in self._ended:
            self._commands.send(self._on_reply, b"DEL", key)

    def _set(self, bucket: bytes) -> None:
        self._buckets.add(bucket)
        key = self._keys.lease_prefix(bucket) + self._name
        self._commands.send(self._on_reply, b"SET", key, b"1", b"PX", self._lease_ms)

    def _register_more(self, reply: Any) -> None:
        """Send the next batch, after Redis' answer to the last."""
        self._on_reply(reply)
        some = list(islice(self._unregistered, BATCH))
        if some and not isinstance(reply, Exception):
            self._register(some, self._register_more)

    def _users(self) -> Iterator[str]:
        """The users of now; those that have gone when their turn comes are left out."""
        return (user_id for user_id in list(self._devices) if user_id in self._devices)

    def _register(self, users: Sequence[str], last: ReplyCallback) -> None:
        """Register these users' devices; `last` receives the last reply."""
        for number, user_id in enumerate(users, 1):
            key = self._keys.devices(user_id)
            members = [self.member(one) for one in self._devices[user_id]]
            callback = last if number == len(users) else self._on_reply
            self._commands.send(self._on_reply, b"SADD", key, *members)
            self._commands.send(callback, b"EXPIRE", key, TTL_S)

    def _next_users(self, count: int) -> list[str]:
        """The next users in a round over all of this process."""
        some = list(islice(self._round, count))
        if len(some) < count:
            self._round = self._users()
        return some

    def _new_name(self) -> bytes:
        return b"%016x" % self._rng.getrandbits(64)
