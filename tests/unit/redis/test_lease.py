"""A lease whose end Redis lost must not count its devices twice."""

import random

import hiredis

from typelets_ws.redis.commands import Argument, ReplyCallback
from typelets_ws.redis.connection import RedisUnavailableError
from typelets_ws.redis.keys import RedisKeys
from typelets_ws.redis.lease import Lease


class Commands:
    """A Redis that keeps the keys of leases; it refuses DEL while `failing`."""

    def __init__(self) -> None:
        self.leases: set[bytes] = set()
        self.deleted: list[bytes] = []
        self.failing = False

    def send(self, callback: ReplyCallback, *args: Argument) -> None:
        name, key = args[:2]
        assert isinstance(key, bytes)
        if name == b"SET":
            self.leases.add(key)
        elif name == b"DEL" and self.failing:
            callback(RedisUnavailableError("refused"))
            return
        elif name == b"DEL":
            self.deleted.append(key)
            self.leases.discard(key)
        callback(1)


class Process:
    def __init__(self) -> None:
        self.redis = Commands()
        self.now = 0.0
        self.lease = Lease(
            RedisKeys("typelets:", cluster=True),
            self.redis,  # type: ignore[arg-type]
            45.0,
            self._replied,
            now=lambda: self.now,
            rng=random.Random(1),
        )
        self.lease.add("ann", "c1")

    def _replied(self, reply: object) -> None:
        assert not isinstance(reply, hiredis.ReplyError)


def test_a_lease_that_did_not_end_is_ended_by_each_later_one() -> None:
    process = Process()
    process.redis.failing = True
    process.lease.start()
    process.lease.start()
    assert len(process.redis.leases) == 3
    process.redis.failing = False
    process.lease.start()
    assert len(process.redis.leases) == 1


def test_a_lease_that_a_failover_brought_back_is_ended_again() -> None:
    process = Process()
    (old,) = process.redis.leases
    process.lease.start()
    process.redis.leases.add(old)
    process.lease.start()
    assert len(process.redis.leases) == 1


def test_a_lease_is_forgotten_once_it_has_expired() -> None:
    process = Process()
    process.lease.start()
    process.now = 45.1
    process.redis.deleted.clear()
    process.lease.start()
    assert len(process.redis.deleted) == 1
