"""The shared limits: what is granted, what Redis is told, and when it is tried."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest

from tests.fakes import Log
from tests.unit.redis.memory import AWAY, NO_MEMORY, MemoryClient, MemoryRedis
from tests.unit.virtual_time import loop_factory
from typelets_ws.config.live import LiveConfig
from typelets_ws.config.model import Config, Limits, Redis
from typelets_ws.ports import AcquireResult, LimitsUnavailableError
from typelets_ws.redis import limits as module
from typelets_ws.redis.client import RedisClient
from typelets_ws.redis.connection import RedisUnavailableError
from typelets_ws.redis.failure import FAILOVER_S
from typelets_ws.redis.lease import TTL_S
from typelets_ws.redis.limits import REFUSED_RETRY_S, SharedLimits
from typelets_ws.telemetry.metrics import Metrics
from typelets_ws.telemetry.telemetry import Telemetry

__all__ = ["loop_factory"]

GRANTED, FULL, REVOKED = (
    AcquireResult.GRANTED,
    AcquireResult.FULL,
    AcquireResult.REVOKED,
)
LEASE_S = 6.0
DEVICES, BARRED, LEASES = b"typelets:devices:ann", b"typelets:barred:", b"typelets:era:"
ONE, CLUSTER = "redis://127.0.0.1", "redis+cluster://127.0.0.1"


class Process:
    """One process' limits: two devices for each user."""

    def __init__(self, redis: MemoryRedis, url: str = ONE, **settings: bool) -> None:
        self.redis, self.client = redis, MemoryClient(redis)
        self.metrics, self.log = Metrics(), Log()
        config = Redis(url=url, lease_s=LEASE_S, **settings)  # type: ignore[arg-type]
        live = LiveConfig(Config(redis=config, limits=Limits(devices_per_user=2)))
        self.limits = SharedLimits(
            live,
            cast(RedisClient, self.client),
            telemetry=Telemetry(self.metrics, self.log.bound()),
            rng=random.Random(id(self)),
        )

    async def acquire(
        self, connection_id: str, session_id: str | None = None
    ) -> AcquireResult:
        return await self.limits.acquire("ann", connection_id, session_id)

    def logged(self) -> list[str]:
        return [str(line["event"]) for line in self.log.lines]

    def refused(self) -> bool:
        return self.limits.refused

    @property
    def up(self) -> float | None:
        return self.metrics.registry.get_sample_value("typelets_ws_shared_limits_up")

    def counted(self) -> int:
        """Devices of ann whose lease lives."""
        members = self.redis.members(DEVICES)
        return sum(LEASES + one[:16] in self.leases for one in members)

    @property
    def leases(self) -> set[bytes]:
        return self.redis.names(LEASES)


@asynccontextmanager
async def running(
    redis: MemoryRedis | None = None, url: str = ONE, **settings: bool
) -> AsyncIterator[Process]:
    """A process that is connected, once it has tried each kind of command."""
    process = Process(redis or MemoryRedis(), url, **settings)
    async with asyncio.TaskGroup() as group:
        work = group.create_task(process.limits.run())
        process.client.connect()
        await asyncio.sleep(0.1)
        process.redis.commands.clear()
        yield process
        work.cancel()


@pytest.mark.parametrize("url", [ONE, CLUSTER])
async def test_slots_are_counted_over_processes_and_released(url: str) -> None:
    redis = MemoryRedis()
    async with running(redis, url) as one, running(redis, url) as two:
        assert [await one.acquire("c1"), await one.acquire("c1")] == [GRANTED] * 2
        assert [await two.acquire("c2"), await two.acquire("c3")] == [GRANTED, FULL]
        one.limits.release("ann", "c3")
        assert await two.acquire("c3") is FULL
        one.limits.release("ann", "c1")
        assert len(redis.named(b"SREM")) == 1 + 2, "also of the two refused"
        one.limits.release("ann", "c1")
        assert redis.named(b"SREM") == []
        assert [await two.acquire("c3"), await one.acquire("c4")] == [GRANTED, FULL]


async def test_slots_of_a_process_that_has_died_come_free_with_its_lease() -> None:
    redis = MemoryRedis()
    async with running(redis) as one:
        assert {await one.acquire("c1"), await one.acquire("c2")} == {GRANTED}
        async with running(redis) as two:
            await asyncio.sleep(10 * LEASE_S)
            assert await two.acquire("c3") is FULL, "the lease is renewed"
    async with running(redis) as two:
        assert await two.acquire("c3") is FULL
        await asyncio.sleep(LEASE_S)
        assert await two.acquire("c3") is GRANTED


async def test_a_lease_that_redis_has_lost_is_replaced_at_its_renewal() -> None:
    async with running() as one:
        await one.acquire("c1")
        one.redis.flush()
        await asyncio.sleep(LEASE_S / 3 + 0.1)
        assert len(one.leases) == 1
        assert one.counted() == 1
        (lease,) = one.leases
        await asyncio.sleep(LEASE_S)
        assert one.leases == {lease}, "a lease that is held is kept"


@pytest.mark.parametrize("url", [ONE, CLUSTER])
async def test_a_revoked_session_gets_no_slot_anywhere(url: str) -> None:
    redis = MemoryRedis()
    async with running(redis, url) as one, running(redis, url) as two:
        one.limits.revoke_session("s1", 10_000)
        assert await two.acquire("c1", "s1") is REVOKED
        assert await two.acquire("c1", "s2") is GRANTED
        (devices,) = redis.names(b"typelets:devices:")
        assert len(redis.members(devices)) == 1
        assert await two.limits.is_revoked("s1")
        await asyncio.sleep(10.1)
        assert not await two.limits.is_revoked("s1")
        assert await two.acquire("c2", "s1") is GRANTED


async def test_revocations_are_written_to_each_new_connection_until_they_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A failover may have lost them."""
    monkeypatch.setattr(module, "REVOKED_KEPT", 3)
    async with running() as one:
        one.limits.revoke_session("short", 1_000)
        for name in ("s1", "s2"):
            one.limits.revoke_session(name, 60_000)
        await asyncio.sleep(20.0)
        one.redis.flush()
        one.client.connect()
        assert one.redis.names(BARRED) == {
            BARRED + b"s1", BARRED + b"s2",
        }  # fmt: skip
        assert one.redis.ttl_s(BARRED + b"s1") == pytest.approx(40.0, abs=0.2)
        # The one that was written last is kept longest.
        for name in ("s1", "s3", "s4"):
            one.limits.revoke_session(name, 60_000)
        one.redis.flush()
        one.client.connect()
        assert one.redis.names(BARRED) == {
            BARRED + b"s1", BARRED + b"s3", BARRED + b"s4",
        }  # fmt: skip


async def test_a_nonce_is_claimed_once_for_its_time() -> None:
    async with running() as one:
        claim = one.limits.claim_nonce
        assert [await claim("ann", b"n", 1_000) for _ in range(2)] == [True, False]
        assert await claim("bob", b"n", 1_000)
        await asyncio.sleep(1.1)
        assert await claim("ann", b"n", 1_000)


async def test_while_redis_is_away_all_is_granted_and_counted_when_it_is_back() -> None:
    async with running() as one:
        assert one.up == 1
        one.redis.failure, one.client.up = AWAY, False
        asked = [await one.acquire(f"c{number}", "s1") for number in range(3)]
        assert asked == [GRANTED] * 3
        assert [await one.limits.claim_nonce("ann", b"n", 1) for _ in "ab"] == [
            True
        ] * 2
        assert not await one.limits.is_revoked("s1")
        assert not one.refused()
        assert (one.up, one.logged()) == (0, ["shared_limits_away"])
        await asyncio.sleep(2 * LEASE_S)
        one.redis.failure = None
        one.redis.flush()
        one.client.connect()
        await asyncio.sleep(0.1)
        assert one.counted() == 3
        assert (one.up, one.logged()[1:]) == (1, ["shared_limits_back"])


async def test_a_redis_that_refuses_grants_nothing_until_all_commands_succeed() -> None:
    async with running() as one:
        await one.acquire("c1")
        one.redis.failure = NO_MEMORY
        with pytest.raises(LimitsUnavailableError):
            await one.acquire("c2", "s1")
        with pytest.raises(LimitsUnavailableError):
            await one.limits.claim_nonce("ann", b"n", 1)
        with pytest.raises(LimitsUnavailableError):
            await one.limits.is_revoked("s1")
        assert one.refused()
        assert (one.up, one.logged()) == (0, ["shared_limits_away"])
        one.redis.flush()
        for command in (b"SREM", b"SADD", b"EXPIRE", b"DEL", b"EXISTS", b"SET"):
            one.redis.failing = {command}
            await asyncio.sleep(2.5 * REFUSED_RETRY_S)
            assert one.refused(), command
        one.redis.failure = None
        one.redis.named(b"SET")
        await asyncio.sleep(1.1 * REFUSED_RETRY_S)
        assert not one.refused()
        assert (one.up, one.logged()[1:]) == (1, ["shared_limits_back"])
        assert one.counted() == 1, "it is counted again at once"
        assert one.redis.names() - one.leases == {DEVICES}
        one.redis.named(b"SET")
        await asyncio.sleep(5 * REFUSED_RETRY_S)
        assert one.redis.named(b"EVALSHA") == [], "nothing is left to check"


async def test_a_session_known_to_be_revoked_is_refused_by_a_redis_that_is_full() -> (
    None
):
    async with running() as one:
        one.limits.revoke_session("s1", 60_000)
        one.redis.failure, one.redis.failing = NO_MEMORY, {b"EVALSHA", b"EVAL"}
        assert await one.acquire("c1", "s1") is REVOKED
        with pytest.raises(LimitsUnavailableError):
            await one.acquire("c1", "s2")
        one.redis.failure = None
        assert one.limits._lease.discard("ann", "c1") is False


async def test_the_errors_of_a_failover_refuse_no_nonce_for_some_seconds() -> None:
    async with running() as one:
        one.redis.failure = RedisUnavailableError("readonly")
        assert await one.limits.claim_nonce("ann", b"n", 1)
        assert one.refused()
        with pytest.raises(LimitsUnavailableError):
            await one.acquire("c1")
        await asyncio.sleep(FAILOVER_S - 0.5)
        assert await one.limits.claim_nonce("ann", b"n", 1)
        await asyncio.sleep(1.0)
        with pytest.raises(LimitsUnavailableError):
            await one.limits.claim_nonce("ann", b"n", 1)
        one.redis.failure = None
        await asyncio.sleep(1.1 * REFUSED_RETRY_S)
        one.redis.failure = RedisUnavailableError("readonly")
        assert await one.limits.claim_nonce("ann", b"n", 1), "another failover"


async def test_errors_before_the_first_success_are_no_failover() -> None:
    redis = MemoryRedis()
    redis.failure = RedisUnavailableError("readonly")
    async with running(redis) as one:
        with pytest.raises(LimitsUnavailableError):
            await one.limits.claim_nonce("ann", b"n", 1)
        redis.failure = None
        await asyncio.sleep(1.1 * REFUSED_RETRY_S)
        assert not one.refused()


async def test_a_cancelled_wait_takes_no_slot() -> None:
    async with running() as one:
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(one.acquire("c1"))
            await asyncio.sleep(0)
            waiting.cancel()
        await asyncio.sleep(2 * LEASE_S)
        assert one.counted() == 0


async def test_an_answer_that_was_lost_is_followed_by_a_new_lease() -> None:
    """It is unknown whether the slot was released."""
    async with running() as one:
        (lease,) = one.leases
        await one.acquire("c1")
        one.redis.failure = AWAY
        one.limits.release("ann", "c1")
        await asyncio.sleep(0.1)
        one.redis.failure = None
        await asyncio.sleep(LEASE_S / 3)
        assert len(one.leases) == 1
        assert lease not in one.leases
        assert one.up == 1
        async with running(one.redis) as two:
            assert [await two.acquire(f"d{n}") for n in range(2)] == [GRANTED] * 2


async def test_each_users_set_outlives_its_time_while_a_device_is_here() -> None:
    async with running() as one:
        await one.acquire("c1")
        for _ in range(5):
            await asyncio.sleep(LEASE_S / 3)
            assert (one.redis.ttl_s(DEVICES) or 0) > TTL_S - LEASE_S / 2


async def test_limits_that_are_not_shared_ask_nothing() -> None:
    async with running(shared_limits=False, shared_nonces=False) as one:
        one.redis.failure = NO_MEMORY
        assert [await one.acquire(f"c{n}") for n in range(3)] == [GRANTED] * 3
        one.limits.release("ann", "c1")
        assert [await one.limits.claim_nonce("ann", b"n", 1) for _ in "ab"] == [
            True
        ] * 2
        await asyncio.sleep(LEASE_S)
        assert one.redis.commands == []
        one.redis.failure = None
        one.limits.revoke_session("s1", 60_000)
        assert await one.acquire("c1", "s1") is REVOKED
        one.redis.failure = NO_MEMORY
        with pytest.raises(LimitsUnavailableError):
            await one.acquire("c1", "s1")
        one.redis.commands.clear()
        await asyncio.sleep(1.1 * REFUSED_RETRY_S)
        assert {name for name, *_ in one.redis.commands} == {b"EXISTS"}
        one.redis.failure = None
        await asyncio.sleep(1.1 * REFUSED_RETRY_S)
        assert not one.refused()
        assert one.leases == set()
