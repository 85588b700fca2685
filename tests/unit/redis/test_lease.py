"""A lease whose end Redis lost must not count its devices twice."""

import asyncio
import random
from typing import cast

import hiredis
import pytest

from tests.unit.redis.memory import AWAY, MemoryClient, MemoryRedis
from tests.unit.virtual_time import loop_factory
from typelets_ws.redis import lease as module
from typelets_ws.redis.client import RedisClient
from typelets_ws.redis.commands import Argument, ReplyCallback
from typelets_ws.redis.connection import RedisUnavailableError
from typelets_ws.redis.keys import RedisKeys
from typelets_ws.redis.lease import BATCH, TTL_S, Lease

__all__ = ["loop_factory"]

LEASE_S = 45.0


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


class OneServer:
    """A lease at one Redis, in the loop's time; replies to it are noted."""

    def __init__(self, *, cluster: bool = False) -> None:
        self.redis = MemoryRedis()
        self.client = MemoryClient(self.redis)
        self.replies: list[object] = []
        self.keys = RedisKeys("typelets:", cluster=cluster)
        self.lease = Lease(
            self.keys,
            cast(RedisClient, self.client),
            LEASE_S,
            self.replies.append,
            now=asyncio.get_running_loop().time,
            rng=random.Random(1),
        )

    def members(self, user_id: str) -> set[bytes]:
        return self.redis.members(self.keys.devices(user_id))


async def settled() -> None:
    """All replies have been heard, and what they caused."""
    await asyncio.sleep(0.01)


async def test_a_new_lease_registers_all_devices_in_batches() -> None:
    """Each waits for the answer to the last: not all at once in the send queue."""
    one = OneServer()
    for number in range(BATCH + 1):
        one.lease.add(f"user{number}", "c1")
    one.lease.add("user0", "c2")
    one.redis.knows_script = False
    one.lease.start()
    assert one.redis.knows_script
    assert len(one.redis.named(b"SADD")) == BATCH
    await settled()
    assert len(one.redis.named(b"SADD")) == 1
    assert len(one.members("user0")) == 2
    assert one.members(f"user{BATCH}") == {one.lease.member("c1")}
    (key,) = one.redis.names(b"typelets:era:")
    assert key.endswith(one.lease.member("").rstrip(b":"))
    assert one.redis.ttl_s(key) == pytest.approx(LEASE_S, abs=0.1)
    assert one.redis.ttl_s(one.keys.devices("user0")) == pytest.approx(TTL_S, abs=0.1)


async def test_registering_ends_with_the_connection() -> None:
    one = OneServer()
    for number in range(BATCH + 1):
        one.lease.add(f"user{number}", "c1")
    one.redis.failure = AWAY
    one.lease.start()
    await settled()
    assert len(one.redis.named(b"SADD")) == BATCH
    assert AWAY in one.replies


async def test_a_device_that_is_not_counted_is_not_discarded() -> None:
    one = OneServer()
    one.lease.add("ann", "c1")
    one.lease.add("ann", "c2")
    assert not one.lease.discard("bob", "c1")
    assert not one.lease.discard("ann", "c3")
    assert one.lease.discard("ann", "c1")
    assert not one.lease.discard("ann", "c1")
    assert one.lease.discard("ann", "c2")
    one.lease.start()
    assert one.redis.named(b"SADD") == []


async def test_a_user_that_has_gone_is_not_registered_in_its_batch() -> None:
    one = OneServer()
    for number in range(BATCH + 2):
        one.lease.add(f"user{number}", "c1")
    one.lease.start()
    one.lease.discard(f"user{BATCH}", "c1")
    await settled()
    assert one.members(f"user{BATCH}") == set()
    assert len(one.members(f"user{BATCH + 1}")) == 1


@pytest.mark.parametrize("left", [0, 1, 2])
async def test_users_that_have_gone_do_not_end_the_registering(left: int) -> None:
    """Of the second batch so many are left when its turn comes."""
    one = OneServer()
    for number in range(2 * BATCH + 1):
        one.lease.add(f"user{number}", "c1")
    one.lease.start()
    for number in range(BATCH + left, 2 * BATCH):
        one.lease.discard(f"user{number}", "c1")
    await settled()
    assert len(one.redis.named(b"SADD")) == BATCH + left + 1
    assert len(one.members(f"user{2 * BATCH}")) == 1


async def test_each_user_is_touched_three_times_before_its_set_expires() -> None:
    one = OneServer()
    users = [f"user{number}" for number in range(10)]
    for user in users:
        one.lease.add(user, "c1")
    one.lease.start()
    await settled()
    one.redis.commands.clear()
    assert await one.lease.renew(TTL_S / 3 / 5)
    await settled()
    touched = [args[1] for args in one.redis.named(b"SADD")]
    assert touched == [], "the round begins"
    for _ in range(5):
        assert await one.lease.renew(TTL_S / 3 / 5)
        touched += [args[1] for args in one.redis.named(b"SADD")]
    assert touched == [one.keys.devices(user) for user in users]


async def test_a_renewal_says_whether_redis_holds_every_lease() -> None:
    one = OneServer(cluster=True)
    for user in ("ann", "bob"):
        one.lease.add(user, "c1")
    await settled()
    leases = one.redis.names(b"typelets:era:")
    assert len(leases) == 2
    await asyncio.sleep(LEASE_S - 1.0)
    assert await one.lease.renew(1.0)
    await asyncio.sleep(LEASE_S - 1.0)
    assert one.redis.names(b"typelets:era:") == leases
    one.redis.run(b"DEL", min(leases))
    assert not await one.lease.renew(1.0)
    one.lease.start()
    await settled()
    assert await one.lease.renew(1.0)


async def test_in_a_cluster_a_bucket_has_its_lease_once() -> None:
    one = OneServer(cluster=True)
    one.lease.add("ann", "c1")
    one.lease.add("ann", "c2")
    await settled()
    assert len(one.redis.named(b"SET")) == 1
    assert one.replies == [b"OK"]


async def test_so_many_ended_leases_are_deleted_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "ENDED_KEPT", 2)
    one = OneServer()
    for _ in range(4):
        one.lease.start()
    one.redis.commands.clear()
    one.lease.start()
    assert len(one.redis.named(b"DEL")) == 2
