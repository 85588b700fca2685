"""Publishers and operator commands over a Sentinel group and a Cluster."""

import asyncio
import json

import pytest
from click.testing import CliRunner, Result
from redis.crc import key_slot

from tests.daemon import PATIENT
from tests.integration.bus.running_bus import ready, until
from tests.redis import RedisServer, free_port
from tests.redis_topologies import Cluster, SentinelGroup
from tests.within import PATIENCE_S, within
from typelets_ws.checks.finding import FindingKind
from typelets_ws.checks.redis import check_redis
from typelets_ws.cli import main
from typelets_ws.config.model import Redis
from typelets_ws.publisher import AsyncPublisher, Publisher

NOTE = "0b5f3c1e-6d1f-4b9e-9a55-6a7f1f0c1d2e"


async def in_thread(publisher: Publisher, user: str) -> None:
    await asyncio.to_thread(publisher.notify_note_deleted, user, NOTE)


async def check_both_publishers(url: str) -> None:
    async with ready(url) as one:
        assert await one.bus.subscribe("ann")
        with Publisher(url, timeout_s=PATIENCE_S, raise_errors=True) as publisher:
            await in_thread(publisher, "ann")
            await until(lambda: len(one.events) == 1)
            await asyncio.to_thread(publisher.revoke_session, "ann", "sess_1")
        async with AsyncPublisher(
            url, timeout_s=PATIENCE_S, raise_errors=True
        ) as publisher_:
            await publisher_.notify_note_deleted("ann", NOTE)
            await until(lambda: len(one.events) == 3)
            await publisher_.revoke_session("ann", "sess_2")
        assert await one.limits.is_revoked("sess_1")
        assert await one.limits.is_revoked("sess_2")


@pytest.mark.usefixtures("steady_sentinel_group")
async def test_over_a_sentinel_group(sentinel_group: SentinelGroup) -> None:
    with sentinel_group.sentinels[0].frozen(), within(10):
        await check_both_publishers(sentinel_group.url)


@pytest.mark.usefixtures("steady_cluster")
async def test_over_a_cluster(cluster: Cluster) -> None:
    await check_both_publishers(cluster.url)


async def test_a_publisher_follows_an_operators_failover(
    sentinel_group: SentinelGroup,
) -> None:
    """The old master keeps its connections; a publisher leaves it all the same."""
    async with ready(sentinel_group.url) as one:
        assert await one.bus.subscribe("ann")
        old = sentinel_group.master
        with Publisher(
            sentinel_group.url, timeout_s=PATIENCE_S, raise_errors=True
        ) as publisher:
            await in_thread(publisher, "ann")
            await until(lambda: one.events)
            sentinel_group.failover()
            await until(lambda: sentinel_group.master is not old)
            await until(lambda: one.bus.commands.node.endswith(
                str(sentinel_group.master.port)))  # fmt: skip
            await one.ready()
            await asyncio.sleep(1.1)
            one.events.clear()
            await in_thread(publisher, "ann")
            await until(lambda: one.events)


@pytest.mark.parametrize("kind", ["redis+sentinel://{}/notes", "redis+cluster://{}"])
async def test_a_group_that_is_away_fails_no_request(kind: str) -> None:
    url = kind.format(f"127.0.0.1:{free_port()},127.0.0.1:{free_port()}")
    with Publisher(url, timeout_s=0.5) as publisher:
        with within(3):
            sent = await asyncio.to_thread(publisher.notify_note_deleted, "ann", NOTE)
        assert sent == 0
        assert publisher.failures == 1
    async with AsyncPublisher(url, timeout_s=0.5) as publisher_:
        assert await publisher_.notify_note_deleted("ann", NOTE) == 0
        assert publisher_.failures == 1


@pytest.fixture(params=["sentinel_group", "cluster"])
def group(request: pytest.FixtureRequest) -> SentinelGroup | Cluster:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, SentinelGroup | Cluster)
    return found


async def test_operator_commands(
    group: SentinelGroup | Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", group.url)
    event = ("note_deleted", json.dumps({"noteId": NOTE}))

    def command(*args: str) -> Result:
        return CliRunner().invoke(main, [*args], catch_exceptions=False)

    async with (
        ready(group.url, 1) as one,
        ready(group.url, 2) as other,
    ):
        for bus in (one, other):
            assert await bus.bus.subscribe("ann")
        told = await asyncio.to_thread(command, "publish", "--user", "ann", *event)
        assert "2 process(es) heard it" in told.output
        await until(lambda: one.events and other.events)
        told = await asyncio.to_thread(
            command, "disconnect", "--user", "ann", "--session", "sess_1"
        )
        assert told.exit_code == 0
        await until(lambda: len(one.events) == len(other.events) == 2)
        assert await one.limits.is_revoked("sess_1")
        told = await asyncio.to_thread(command, "publish", "--user", "nobody", *event)
        assert told.exit_code == 1


async def test_check_config_connect(group: SentinelGroup | Cluster) -> None:
    found = await check_redis(Redis(url=group.url, **PATIENT["redis"]))
    assert [finding.kind for finding in found] == [FindingKind.OK], found


@pytest.mark.usefixtures("steady_sentinel_group", "steady_cluster")
async def test_check_config_names_what_is_wrong_with_a_server(
    sentinel_group: SentinelGroup, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = f"127.0.0.1:{sentinel_group.master.port}"
    sentinel = f"127.0.0.1:{sentinel_group.sentinels[0].port}"
    node = f"127.0.0.1:{cluster.nodes[0].port}"
    away = f"127.0.0.1:{free_port()}"
    mistakes = {
        f"redis://{node}/0": "redis+cluster://",
        f"redis://{sentinel}/0": "redis+sentinel://",
        sentinel_group.replicas[0].url: "this is a replica",
        f"redis+cluster://{server}": "this is a single server",
        f"redis+cluster://{sentinel}": "this is a sentinel",
        f"redis+sentinel://{server}/notes": "this is a single server",
        f"redis+sentinel://{node}/notes": "this is a node of a Cluster",
        f"redis+sentinel://{sentinel}/other": "no master called other",
        f"redis+sentinel://{sentinel},{away},{away}/notes": away,
    }
    for url, named in mistakes.items():
        found = await check_redis(Redis(url=url, **PATIENT["redis"]))
        kind = FindingKind.AWAY if named == away else FindingKind.WRONG
        assert {finding.kind for finding in found} == {kind}, found
        assert all(named in finding.text for finding in found), found
        monkeypatch.setenv("REDIS_URL", url)
        told = await asyncio.to_thread(
            CliRunner().invoke, main, ["disconnect", "--user", "ann"]
        )
        assert told.exit_code == 1
        assert named in told.output
    # One sentinel or node that is away is no fault.
    working = sentinel_group.url.replace(sentinel, away)
    for url in (f"redis+cluster://{away},{node}", working):
        found = await check_redis(Redis(url=url, **PATIENT["redis"]))
        assert [finding.kind for finding in found] == [FindingKind.OK], found


async def test_check_config_names_a_missing_password(redis_server: RedisServer) -> None:
    redis_server.command("ACL", "SETUSER", "default", "resetpass", ">pw")
    try:
        found = await check_redis(Redis(url=redis_server.url, **PATIENT["redis"]))
        assert [finding.kind for finding in found] == [FindingKind.WRONG], found
        assert found[0].text == "Authentication required."
    finally:
        redis_server.login = {"password": "pw"}
        redis_server.command("ACL", "SETUSER", "default", "nopass")
        redis_server.login = {}


@pytest.mark.usefixtures("steady_sentinel_group")
async def test_a_revocation_that_no_replica_has_is_sent_again(
    sentinel_group: SentinelGroup,
) -> None:
    """A failover would lose it: it stays pending until a replica has it."""
    master, key = sentinel_group.master, "typelets:barred:sess_2"
    with Publisher(sentinel_group.url, timeout_s=PATIENCE_S) as publisher:
        await asyncio.to_thread(publisher.revoke_session, "ann", "sess_1")
        assert publisher.failures == 0
    with Publisher(sentinel_group.url, timeout_s=1.0) as publisher:
        for replica in sentinel_group.replicas:
            replica.freeze()
        await asyncio.to_thread(publisher.revoke_session, "ann", "sess_2")
        assert publisher.failures == 1
        for replica in sentinel_group.replicas:
            replica.resume()
        await until(lambda: publisher.pending == 0)
        held = [each.command("EXISTS", key) for each in sentinel_group.replicas]
        assert 1 in held
    async with AsyncPublisher(sentinel_group.url, timeout_s=PATIENCE_S) as publisher_:
        await publisher_.revoke_session("ann", "sess_3")
        assert publisher_.failures == 0
    assert sentinel_group.master is master


@pytest.mark.usefixtures("steady_cluster")
async def test_a_revocation_in_a_cluster_waits_for_a_replica(cluster: Cluster) -> None:
    owner = cluster.owner(key_slot(b"typelets:barred:sess_2"))
    replica = cluster.replica_of(owner)
    with Publisher(cluster.url, timeout_s=PATIENCE_S) as publisher:
        await asyncio.to_thread(publisher.revoke_session, "ann", "sess_1")
        assert publisher.failures == 0
    with Publisher(cluster.url, timeout_s=1.0) as publisher:
        with replica.frozen():
            await asyncio.to_thread(publisher.revoke_session, "ann", "sess_2")
            assert publisher.failures == 1
        await until(lambda: publisher.pending == 0)
    async with AsyncPublisher(cluster.url, timeout_s=PATIENCE_S) as publisher_:
        await publisher_.revoke_session("ann", "sess_3")
        assert publisher_.failures == 0
    async with AsyncPublisher(cluster.url, timeout_s=1.0) as publisher_:
        with replica.frozen():
            await publisher_.revoke_session("ann", "sess_2")
            assert publisher_.failures == 1
        await until(lambda: publisher_.pending == 0)
    assert owner.calls("wait") >= 3
    assert owner is cluster.owner(key_slot(b"typelets:barred:sess_2"))
