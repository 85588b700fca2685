"""Limits over several processes on a real Redis: racing, killed, forgotten."""

import asyncio
import random
from collections import Counter
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.daemon import eventually
from tests.integration.bus.running_bus import (
    QUICK,
    RunningBus,
    ready,
    running_bus,
    until,
)
from tests.redis import RedisServer, free_port, link_proxy
from tests.within import within
from typelets_ws.ports import AcquireResult, LimitsUnavailableError

GRANTED, FULL, REVOKED = (
    AcquireResult.GRANTED,
    AcquireResult.FULL,
    AcquireResult.REVOKED,
)


def counted(server: RedisServer, user: str = "ann") -> int:
    """Members of the user's set whose era lives."""
    members = server.command("SMEMBERS", f"typelets:devices:{user}")
    eras = {member.partition(":")[0] for member in members}
    living = {e for e in eras if server.command("EXISTS", f"typelets:era:{e}")}
    return sum(member.partition(":")[0] in living for member in members)


async def fill(one: RunningBus, user: str, count: int, name: str = "c") -> None:
    asked = (one.limits.acquire(user, f"{name}{i}", None) for i in range(count))
    assert set(await asyncio.gather(*asked)) <= {GRANTED}


async def until_refused(one: RunningBus) -> None:
    """Return when a device is refused: before the first attempt to connect Redis is
    away, and grants it."""

    async def refused() -> bool:
        try:
            await one.limits.acquire("ann", "c", "sess")
        except LimitsUnavailableError:
            return True
        return False

    await eventually(refused)


async def test_of_forty_racing_devices_on_three_processes_twenty_get_in(
    redis_server: RedisServer,
) -> None:
    async with (
        ready(redis_server.url, 1) as a,
        ready(redis_server.url, 2) as b,
        ready(redis_server.url, 3) as c,
    ):
        asked = [
            one.limits.acquire("ann", f"device{number}", None)
            for number, one in enumerate([a, b, c, b] * 10)
        ]
        random.Random(4).shuffle(asked)
        answers = Counter(await asyncio.gather(*asked))
        assert answers == {GRANTED: 20, FULL: 20}
        assert counted(redis_server) == 20
        assert await a.limits.acquire("bob", "device0", None) is GRANTED


async def test_a_place_given_back_is_free_and_asking_twice_takes_one(
    redis_server: RedisServer,
) -> None:
    async with ready(redis_server.url, 1) as a, ready(redis_server.url, 2) as b:
        await fill(a, "ann", 20)
        assert await a.limits.acquire("ann", "c0", None) is GRANTED
        assert await b.limits.acquire("ann", "more", None) is FULL
        a.limits.release("ann", "c0")
        a.limits.release("ann", "c0")
        a.limits.release("nobody", "c0")
        assert await a.bus.flush()
        assert await b.limits.acquire("ann", "more", None) is GRANTED
        assert await b.limits.acquire("ann", "again", None) is FULL


async def test_a_killed_process_places_come_free(redis_server: RedisServer) -> None:
    async with ready(redis_server.url, 1) as other:
        async with ready(redis_server.url, 2) as victim:
            await fill(victim, "ann", 20)
            assert await other.limits.acquire("ann", "x", None) is FULL
        # Gone without giving anything back: as after kill -9.
        assert await other.limits.acquire("ann", "x", None) is FULL
        await until(lambda: counted(redis_server) == 0)
        await fill(other, "ann", 20)
        assert await other.limits.acquire("ann", "x", None) is FULL


async def test_a_lease_is_renewed_while_its_process_lives(
    redis_server: RedisServer,
) -> None:
    async with ready(redis_server.url) as one:
        await fill(one, "ann", 20)
        renewals = redis_server.calls("set")
        await until(lambda: redis_server.calls("set") > renewals + 3)
        assert counted(redis_server) == 20


async def test_a_restarted_redis_learns_of_all_devices_again(
    redis_server: RedisServer,
) -> None:
    async with ready(redis_server.url, 1) as a, ready(redis_server.url, 2) as b:
        await fill(a, "ann", 12)
        await fill(b, "ann", 8, "d")
        for number in range(600):
            await fill(b, f"user{number}", 1)
        redis_server.kill()
        await until(lambda: not a.bus.commands.up and not b.bus.commands.up)
        a.limits.release("ann", "c0")
        assert await a.limits.acquire("ann", "meanwhile", None) is GRANTED
        assert a.sample("shared_limits_up") == 0
        redis_server.start()
        await until(lambda: counted(redis_server) == 20)
        await until(lambda: counted(redis_server, "user599") == 1)
        assert await a.limits.acquire("ann", "x", None) is FULL
        assert a.sample("shared_limits_up") == 1


async def test_what_was_given_back_during_an_outage_is_free_after_it(
    redis_server: RedisServer,
) -> None:
    async with link_proxy(redis_server.port) as proxy, ready(proxy.url) as one:
        await fill(one, "ann", 20)
        await proxy.refuse()
        await until(lambda: not one.bus.commands.up)
        for number in range(5):
            one.limits.release("ann", f"c{number}")
        await proxy.heal()
        await until(lambda: counted(redis_server) == 15)
        await fill(one, "ann", 5, "new")
        assert await one.limits.acquire("ann", "x", None) is FULL


@pytest.mark.parametrize("command", ["FLUSHALL", "SCRIPT FLUSH"])
async def test_what_redis_forgets_under_a_living_link_is_reported_again(
    redis_server: RedisServer, command: str
) -> None:
    async with ready(redis_server.url) as one:
        await fill(one, "ann", 19)
        redis_server.command(*command.split())
        await fill(one, "ann", 1, "last")
        await until(lambda: counted(redis_server) == 20)
        assert await one.limits.acquire("ann", "x", None) is FULL


async def test_without_redis_everything_is_granted_and_said_once(
    redis_server: RedisServer,
) -> None:
    async with link_proxy(redis_server.port) as proxy, ready(proxy.url) as one:
        assert one.sample("shared_limits_up") == 1
        with capture_logs() as logs:
            await proxy.refuse()
            await until(lambda: not one.bus.commands.up)
            await fill(one, "ann", 30)
            assert await one.limits.claim_nonce("ann", b"n", 1000)
            assert await one.limits.claim_nonce("ann", b"n", 1000)
            assert one.sample("shared_limits_up") == 0
            await proxy.heal()
            await until(lambda: one.sample("shared_limits_up") == 1)
        words = [log["event"] for log in logs if "limits" in log["event"]]
        assert words == ["shared_limits_away", "shared_limits_back"]


async def test_a_stalled_redis_delays_an_answer_but_does_not_withhold_it(
    redis_server: RedisServer,
) -> None:
    async with ready(redis_server.url, **QUICK) as one:
        with redis_server.frozen(), within(1):
            assert await one.limits.acquire("ann", "c", None) is GRANTED
        await until(lambda: counted(redis_server) == 1)


async def test_a_cancelled_wait_takes_no_place(redis_server: RedisServer) -> None:
    async with ready(redis_server.url) as one:
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(one.limits.acquire("ann", "c", None))
            await asyncio.sleep(0)
            waiting.cancel()
        assert await one.bus.flush()
        assert redis_server.command("SMEMBERS", "typelets:devices:ann") == set()


async def test_a_nonce_is_used_once_over_all_processes(
    redis_server: RedisServer,
) -> None:
    async with ready(redis_server.url, 1) as a, ready(redis_server.url, 2) as b:
        claims = [
            one.limits.claim_nonce("ann", b"\x00\xff", 60_000) for one in (a, b) * 5
        ]
        assert sorted(await asyncio.gather(*claims)) == [False] * 9 + [True]
        assert await a.limits.claim_nonce("bob", b"\x00\xff", 60_000)
        assert await b.limits.claim_nonce("ann", b"other", 30)
        await until(lambda: redis_server.command("DBSIZE") == 4)  # 2 eras
        assert await a.limits.claim_nonce("ann", b"other", 30)


async def test_a_barred_session_gets_no_place_anywhere(
    redis_server: RedisServer,
) -> None:
    async with ready(redis_server.url, 1) as a, ready(redis_server.url, 2) as b:
        a.limits.revoke_session("sess_1", 60_000)
        assert await a.bus.flush()
        assert await b.limits.acquire("ann", "c", "sess_1") is REVOKED
        assert await b.limits.acquire("ann", "c", "sess_2") is GRANTED
        assert counted(redis_server) == 1


async def test_a_redis_that_answers_with_errors_grants_nothing(
    redis_server: RedisServer,
) -> None:
    async with ready(redis_server.url) as one:
        redis_server.command("SET", "typelets:devices:ann", "of another type")
        with pytest.raises(LimitsUnavailableError):
            await one.limits.acquire("ann", "c", None)
        assert one.sample("shared_limits_up") == 0
        # Other users are not affected.
        assert await one.limits.acquire("bob", "c", None) is GRANTED
        redis_server.command("DEL", "typelets:devices:ann")
        await until(lambda: one.sample("shared_limits_up") == 1)
        assert await one.limits.acquire("ann", "c", None) is GRANTED
        assert counted(redis_server) == 1


async def test_without_memory_nothing_is_granted(redis_server: RedisServer) -> None:
    async with ready(redis_server.url) as one:
        redis_server.command("CONFIG", "SET", "maxmemory", "1")
        try:
            with pytest.raises(LimitsUnavailableError):
                await one.limits.acquire("ann", "c", "sess")
            with pytest.raises(LimitsUnavailableError):
                await one.limits.claim_nonce("ann", b"n", 60_000)
            assert one.limits.refused
            assert not await one.limits.is_revoked("sess")
        finally:
            redis_server.command("CONFIG", "SET", "maxmemory", "0")
        await until(lambda: not one.limits.refused)
        assert await one.limits.acquire("ann", "c", "sess") is GRANTED


async def test_after_errors_all_devices_count_again_at_once(
    redis_server: RedisServer,
) -> None:
    """The daemon is ready then: others must not find the slots free."""
    async with ready(redis_server.url, lease_s=3_600.0) as one:
        await fill(one, "ann", 20)
        redis_server.command("CONFIG", "SET", "maxmemory", "1")
        try:
            with pytest.raises(LimitsUnavailableError):
                await one.limits.acquire("bob", "c", None)
            redis_server.command("FLUSHALL")
        finally:
            redis_server.command("CONFIG", "SET", "maxmemory", "0")
        await until(lambda: not one.limits.refused)
        assert await one.limits.acquire("ann", "late", None) is FULL


@pytest.mark.parametrize("shared", [True, False])
async def test_a_replica_admits_no_one(redis_server: RedisServer, shared: bool) -> None:
    """Its own word on limits is of no use; a failover would end within seconds."""
    url = redis_server.url
    async with running_bus(url, shared_limits=shared, shared_nonces=shared) as one:
        await one.ready()
        redis_server.command("REPLICAOF", "127.0.0.1", free_port())
        await until(lambda: not one.bus.proven)
        await until_refused(one)
        # A failover may be under way: devices that are connected are not refused yet.
        assert await one.limits.claim_nonce("ann", b"n", 60_000)
        redis_server.command("REPLICAOF", "NO", "ONE")
        await one.ready()
        await until(lambda: not one.limits.refused)
        assert await one.limits.acquire("ann", "c", "sess") is GRANTED


async def test_a_node_of_a_cluster_admits_no_one(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    # By default the port of the bus is one that outgoing connections are given.
    bus = ("--cluster-port", str(free_port()))
    node = RedisServer(tmp_path, "--cluster-enabled", "yes", *bus)
    node.start()
    try:
        single = redis_server.url.replace("redis:", "redis+cluster:")
        for url in (node.url, single.removesuffix("/0")):
            async with running_bus(url) as one:
                await until_refused(one)
                with pytest.raises(LimitsUnavailableError):
                    await one.limits.claim_nonce("ann", b"n", 60_000)
                with pytest.raises(LimitsUnavailableError):
                    await one.limits.is_revoked("sess")
                assert one.limits.refused
    finally:
        node.kill()


async def test_a_connection_costs_two_commands_and_a_lease_one_for_all(
    redis_server: RedisServer,
) -> None:
    # No lease is renewed meanwhile, however long it takes.
    async with ready(redis_server.url, lease_s=3_600.0) as one:
        redis_server.command("CONFIG", "RESETSTAT")
        await asyncio.gather(
            *(one.limits.acquire(f"user{i}", "c", "sess") for i in range(1000))
        )
        for number in range(1000):
            one.limits.release(f"user{number}", "c")
        assert await one.bus.flush()
        assert redis_server.calls("evalsha") == 1000
        assert redis_server.calls("srem") == 1000
        assert redis_server.calls("set") == 0


async def test_limits_that_are_not_shared_ask_nothing(
    redis_server: RedisServer,
) -> None:
    url = redis_server.url
    async with running_bus(url, shared_limits=False, shared_nonces=False) as one:
        await one.ready()
        await fill(one, "ann", 30)
        one.limits.release("ann", "c1")
        assert await one.limits.claim_nonce("ann", b"n", 1000)
        assert await one.limits.claim_nonce("ann", b"n", 1000)
        assert redis_server.command("KEYS", "*") == []
        assert redis_server.calls("srem") == 0
