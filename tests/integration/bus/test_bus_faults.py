"""Faults that Redis answers with: refused channels, demotion, errors of the limits."""

import asyncio
import contextlib
from collections.abc import Iterator

import pytest

from tests.daemon import Boot, eventually
from tests.integration.bus.running_bus import ready, running_bus, until
from tests.redis import RedisServer, free_port, link_proxy
from tests.tokens import mint
from tests.within import within
from typelets_ws.ports import AcquireResult, LimitsUnavailableError

ALLOWED = ("&typelets:user:user_*", "&typelets:control", "&typelets:probe:*")


@pytest.fixture
def narrow(redis_server: RedisServer) -> Iterator[str]:
    """A URL whose ACL knows only user ids that begin with `user_`."""
    set_user = ("ACL", "SETUSER", "field", "reset", "on", ">pw", "~*", "+@all")
    redis_server.command(*set_user, *ALLOWED)
    yield f"redis://field:pw@127.0.0.1:{redis_server.port}/0"
    redis_server.command("ACL", "DELUSER", "field")


async def test_a_refused_channel_costs_no_other_user_an_event(
    redis_server: RedisServer, narrow: str
) -> None:
    async with ready(narrow) as one:
        assert await one.bus.subscribe("user_ann")
        users = [f"user_{number}" for number in range(40)]
        odd = ["ext|1", "ext|2"]
        subscribing = [*users[:20], odd[0], *users[20:], odd[1]]
        heard = await asyncio.gather(*map(one.bus.subscribe, subscribing))
        assert [u for u, h in zip(subscribing, heard, strict=True) if not h] == odd
        await one.barrier("user_ann")
        await one.barrier("user_39")
        assert one.bus.proven
        assert one.gaps == []
        assert not await one.bus.subscribe("ext|1")
        # Reconnecting with a refused user costs the others no event either.
        redis_server.command("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: len(one.gaps) == 41)
        await one.barrier("user_0")
        assert one.sample("redis_refused_channels_total") >= 4
        # Granting the right is enough; the user is reported then.
        redis_server.command("ACL", "SETUSER", "field", "resetchannels", "&typelets:*")
        await until(lambda: {user for user, _ in one.gaps} >= set(odd))
        await one.barrier("ext|2")


async def test_a_refused_publish_delays_no_other_resynchronisation(
    redis_server: RedisServer, narrow: str
) -> None:
    async with ready(narrow) as one, ready(redis_server.url, 1) as other:
        assert await other.bus.subscribe("user_ann")
        one.bus.publish("ext|1", b"refused")
        await until(lambda: one.unpublished)
        redis_server.command("CLIENT", "KILL", "TYPE", "normal")
        await until(lambda: not one.bus.commands.up)
        one.bus.publish("user_ann", b"unheard")
        await until(lambda: other.events)


async def test_a_replica_is_no_master_and_causes_no_resynchronisation(
    redis_server: RedisServer,
) -> None:
    """An address that leads to a replica: one report in the end, not one each try."""
    async with ready(redis_server.url, shared_limits=False) as one:
        assert await one.bus.subscribe("ann")
        redis_server.command("REPLICAOF", "127.0.0.1", free_port())
        await until(lambda: not one.bus.proven)
        await until(lambda: not one.bus.listening)
        for _ in range(20):
            await asyncio.sleep(0.05)
            assert not one.bus.listening
            assert one.gaps == []
        redis_server.command("REPLICAOF", "NO", "ONE")
        await one.ready()
        assert one.gaps == [("ann", "readonly")]
        await one.barrier("ann")


async def test_what_a_demoted_master_acknowledged_is_resynchronised_everywhere(
    redis_server: RedisServer,
) -> None:
    async with (
        link_proxy(redis_server.port) as proxy,
        ready(proxy.url, probe_interval_s=30.0) as one,
        ready(redis_server.url, 1) as other,
    ):
        assert await other.bus.subscribe("ann")
        one.bus.publish("ann", b"acknowledged")
        assert await one.bus.flush()
        assert one.unpublished == []
        proxy.cut()
        await until(lambda: len(other.events) == 2)
        assert b"resync_required" in other.payloads[1]


async def test_proven_events_are_not_resynchronised(redis_server: RedisServer) -> None:
    async with (
        ready(redis_server.url) as one,
        ready(redis_server.url, 1) as other,
    ):
        assert await other.bus.subscribe("ann")
        one.bus.publish("ann", b"acknowledged")
        assert await one.bus.flush()
        for _ in range(3):
            await one.ready()
        redis_server.command("CLIENT", "KILL", "TYPE", "normal")
        await until(lambda: not one.bus.commands.up)
        await one.ready()
        await one.barrier("bob") if await one.bus.subscribe("bob") else None
        assert other.payloads == [b"acknowledged"]


async def test_an_outage_of_the_command_link_alone_ends_with_a_report(
    redis_server: RedisServer,
) -> None:
    """The event link survives; what publishers could not send meanwhile is healed."""
    async with (
        link_proxy(redis_server.port) as proxy,
        ready(proxy.url, command_timeout_s=2.0) as one,
    ):
        assert await one.bus.subscribe("ann")
        for link in list(proxy.links):
            if link.port in redis_server.client_ports("normal"):
                link.stall()
        one.bus.publish("ann", b"into the hole")
        await until(lambda: not one.bus.commands.up)
        await one.ready()
        await until(lambda: one.gaps)
        assert one.gaps == [("ann", "timeout")]


async def test_events_flow_soon_after_a_long_outage(redis_server: RedisServer) -> None:
    async with link_proxy(redis_server.port) as proxy, ready(proxy.url) as one:
        assert await one.bus.subscribe("ann")
        await proxy.refuse()
        await asyncio.sleep(2.5)
        await proxy.heal()
        with within(1.5):
            await one.ready()


async def test_a_cluster_node_is_named_and_never_ready(
    redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # The default is 10,000 above the port, where outgoing connections have theirs.
    options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    server = RedisServer(tmp_path_factory.mktemp("node"), *options)
    server.start()
    try:
        async with running_bus(server.url) as one:
            with contextlib.suppress(AssertionError):
                await one.ready(1.0)
            assert not one.bus.proven
            assert not one.bus.commands.up
    finally:
        server.kill()


async def test_limits_that_redis_refuses_are_a_fault_shown_by_ready(
    boot: Boot, redis_server: RedisServer
) -> None:
    rights = ("reset", "on", ">pw", "~typelets:*", "&typelets:*", "+@all")
    redis_server.command("ACL", "SETUSER", "weak", *rights, "-evalsha", "-eval")
    url = f"redis://weak:pw@127.0.0.1:{redis_server.port}/0"
    try:
        redis_server.command("ACL", "SETUSER", "weak", "+evalsha", "+eval")
        async with boot(redis={"url": url}) as running:
            assert (await running.get("/ready"))[0] == 200
            redis_server.command("ACL", "SETUSER", "weak", "-evalsha", "-eval")
            async with running.device() as device:
                refusal = await device.auth(mint("alice"))
                assert refusal["code"] == "UNAVAILABLE"
                assert await device.closed() == 1013
            code, _, body = await running.get("/ready")
            assert code == 503
            assert b"limits" in body
            assert b"NOPERM" not in body
            # No user signs in, yet it stays a fault.
            await asyncio.sleep(1.5)
            assert (await running.get("/ready"))[0] == 503
            redis_server.command("ACL", "SETUSER", "weak", "+evalsha", "+eval")
            await eventually(lambda: not running.daemon.health.unready_reasons())
    finally:
        redis_server.command("ACL", "DELUSER", "weak")


async def test_a_barred_session_stays_out_while_the_slots_cannot_be_counted(
    redis_server: RedisServer,
) -> None:
    async with ready(redis_server.url) as one:
        redis_server.command("SET", "typelets:devices:ann", "of another type")
        redis_server.command("SET", "typelets:barred:sess_1", "1")
        assert await one.limits.acquire("ann", "c", "sess_1") is AcquireResult.REVOKED
        with pytest.raises(LimitsUnavailableError):
            await one.limits.acquire("ann", "c", "sess_2")
