"""TLS and users on a Sentinel group and a Cluster, with the README's rights."""

import asyncio
from collections.abc import Iterator
from functools import partial

import pytest

from tests.daemon import PATIENT
from tests.drills.drill import limits_hold
from tests.integration.bus.running_bus import ready, running_bus, until
from tests.readme import commands
from tests.redis import RedisServer
from tests.redis_topologies import Cluster, Secured, SentinelGroup, running
from typelets_ws.checks.finding import FindingKind
from typelets_ws.checks.redis import check_redis
from typelets_ws.config.model import Redis
from typelets_ws.publisher import AsyncPublisher, Publisher

pytestmark = pytest.mark.timeout(300)
"""Each connection takes 30 ms of a core, of the servers' starts too."""
NOTE = "0b5f3c1e-6d1f-4b9e-9a55-6a7f1f0c1d2e"
IN_A_CLUSTER = "+cluster|slots +cluster|info +asking +command +config|get"
SHARDED = "+ssubscribe +sunsubscribe +spublish"
PUBLISHER_IN_A_CLUSTER = "+cluster|slots +command +wait"
SENTINEL = "+sentinel|get-master-addr-by-name +ping +client|setname"


def rights(user: str) -> str:
    """Those that the README gives a user."""
    for words in commands():
        if words[:4] == ["redis-cli", "ACL", "SETUSER", user]:
            return " ".join(word for word in words[5:] if not word.startswith(">"))
    raise AssertionError(user)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Secured:
    daemon, rest = rights("typelets-ws"), rights("typelets-rest")
    users = {
        "typelets-ws": f"{daemon} {IN_A_CLUSTER} {SHARDED}",
        "typelets-rest": f"{rest} {PUBLISHER_IN_A_CLUSTER}",
    }
    place = tmp_path_factory.mktemp("certificates")
    return Secured(place, users, {"watcher": SENTINEL})


@pytest.fixture(scope="module")
def _processes(secured: Secured) -> Iterator[SentinelGroup]:
    with running(partial(SentinelGroup, secured=secured)) as started:
        yield started


@pytest.fixture
def group(_processes: SentinelGroup) -> SentinelGroup:
    _processes.recover()
    return _processes


@pytest.fixture(scope="module")
def nodes(secured: Secured) -> Iterator[Cluster]:
    with running(partial(Cluster, secured=secured)) as started:
        yield started


def url_of(group: SentinelGroup | Cluster, user: str, query: str) -> str:
    plain = group.url.removeprefix("redis")
    query += "&sentinel_username=watcher&sentinel_password=watcher" * isinstance(
        group, SentinelGroup
    )
    return f"rediss{plain.replace('://', f'://{user}:{user}@')}?{query}"


async def works(url: str, publisher_url: str, servers: list[RedisServer]) -> None:
    """Events, limits, the check and publishers; no right is missing."""
    for server in servers:
        server.command("ACL", "LOG", "RESET")
    async with ready(url, 1) as one, ready(url, 2) as two:
        for bus in (one, two):
            assert await bus.bus.subscribe("ann")
        await one.barrier("ann")
        await limits_hold(one, two)
        # A handshake that took too long on a busy machine is tried again.
        with Publisher(publisher_url, timeout_s=5.0) as publisher:
            await asyncio.to_thread(publisher.notify_note_deleted, "ann", NOTE)
            await asyncio.to_thread(publisher.revoke_session, "ann", "sess_a")
            await until(lambda: publisher.pending == 0)
        async with AsyncPublisher(publisher_url, timeout_s=5.0) as publisher_:
            await publisher_.notify_note_deleted("ann", NOTE)
            await publisher_.revoke_session("ann", "sess_b")
            await until(lambda: publisher_.pending == 0)
        await until(lambda: len(two.events) >= 5)
        assert await two.limits.is_revoked("sess_a")
        assert await two.limits.is_revoked("sess_b")
    found = await check_redis(Redis(url=url, **PATIENT["redis"]))
    assert [finding.kind for finding in found] == [FindingKind.OK], found
    for server in servers:
        denied = server.command("ACL", "LOG")
        assert not [(each["username"], each["object"]) for each in denied]


async def test_a_sentinel_group_with_tls_and_users(
    group: SentinelGroup, secured: Secured
) -> None:
    url = url_of(group, "typelets-ws", secured.query)
    rest = url_of(group, "typelets-rest", secured.query)
    with group.steady():
        await works(url, rest, [*group.servers, *group.sentinels])


async def test_a_failover_with_tls_and_users(
    group: SentinelGroup, secured: Secured
) -> None:
    old = group.master
    async with ready(url_of(group, "typelets-ws", secured.query), 1) as one:
        old.kill()
        await until(lambda: not one.bus.proven)
        await one.ready()
        assert group.master is not old


async def test_a_cluster_with_tls_and_users(nodes: Cluster, secured: Secured) -> None:
    url = url_of(nodes, "typelets-ws", secured.query)
    rest = url_of(nodes, "typelets-rest", secured.query)
    with nodes.steady():
        await works(url, rest, nodes.nodes)
    async with ready(url, 1, sharded=True) as one:
        assert await one.bus.subscribe("ann")
        nodes.nodes[0].command("PUBLISH", "typelets:user:ann", "plain")
        one.bus.publish("ann", b"sharded")
        await until(lambda: set(one.payloads) == {b"plain", b"sharded"})


@pytest.mark.parametrize(
    "change",
    [
        ("typelets-ws:typelets-ws@", "typelets-ws:wrong@"),
        ("sentinel_password=watcher", "sentinel_password=wrong"),
        ("?ssl_ca_certs=", "?ssl_ca_path="),
    ],
)
async def test_a_mistake_in_the_address_connects_to_nothing(
    group: SentinelGroup, secured: Secured, change: tuple[str, str]
) -> None:
    url = url_of(group, "typelets-ws", secured.query).replace(*change)
    async with running_bus(url) as one:
        with pytest.raises(AssertionError):
            await one.ready(0.7)
        assert not one.bus.commands.up
