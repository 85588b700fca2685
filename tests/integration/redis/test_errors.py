"""Whole daemons over a Redis that answers with errors, or by another server."""

import io
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import redis
from redis.crc import key_slot

from tests.daemon import RunningDaemon, configured, daemon, eventually
from tests.notes import NOTE_ID
from tests.postgres import Database
from tests.redis import TIMEOUTS, RedisServer, free_port, link_proxy
from tests.redis_topologies import Cluster
from tests.tokens import mint
from typelets_ws.app import running
from typelets_ws.telemetry.log import Output


@asynccontextmanager
async def unready(url: str, database: Database) -> AsyncIterator[RunningDaemon]:
    """A daemon that does not become ready."""
    stream = io.StringIO()
    log = Output(stream, time.time, level="info", form="json", burst=50).logger()
    config = configured(redis={"url": url}, database={"url": database.url})
    async with running(config, log=log) as built:
        yield RunningDaemon(built, stream)


async def until_named(one: RunningDaemon, server: object) -> None:
    """Wait until `/ready` names the server: each connection finds out by itself."""

    async def named() -> bool:
        code, _, body = await one.get("/ready")
        return code == 503 and str(server) in body.decode()

    await eventually(named)


@pytest.mark.usefixtures("steady_cluster")
async def test_a_node_of_a_cluster_as_the_only_server(
    cluster: Cluster, database: Database
) -> None:
    node = cluster.owner(key_slot(b"typelets:barred:sess_9"))
    node.command("SET", "typelets:barred:sess_9", "1")
    async with unready(node.url, database) as one:
        await eventually(lambda: bool(one.logged("redis_down")))
        await until_named(one, node.port)
        (line, *_) = one.logged("redis_down")
        assert line["node"] == f"127.0.0.1:{node.port}"
        assert "redis+cluster" in line["reason"]
        for session in ("sess_9", "sess_8"):
            async with one.device() as device:
                answer = await device.auth(mint("alice", sid=session))
                assert (answer["type"], answer["code"]) == ("error", "UNAVAILABLE")
                assert answer["retryAfterMs"] > 0
                assert await device.closed() == 1013
        assert one.figure("connections", state="authenticated") == 0


async def test_a_demoted_master_without_shared_limits(
    redis_server: RedisServer, database: Database
) -> None:
    user = database.add_user("alice")
    note = database.add_note(user)
    redis_server.command("SET", "typelets:barred:sess_9", "1")
    settings = {"shared_limits": False, "shared_nonces": False}
    async with (
        daemon(redis_server.url, database.url, redis=settings) as one,
        one.device("alice") as phone,
    ):
        redis_server.command("REPLICAOF", "127.0.0.1", free_port())
        await until_named(one, redis_server.port)
        async with one.device() as device:
            answer = await device.auth(mint("alice", sid="sess_9"))
            assert answer["type"] != "auth_success"
        # Devices that are connected stay, and write.
        update = {"type": "note_update", "noteId": note, "changes": {"title": "x"}}
        assert (await phone.ask(update))["type"] == "note_update_success"
        again = await phone.auth(mint("alice"))
        assert again["type"] in {"auth_success", "error"}
        assert await phone.barrier() == []
        redis_server.command("REPLICAOF", "NO", "ONE")
        await eventually(lambda: not one.daemon.health.unready_reasons())
        assert (await phone.receive())["type"] == "resync_required"
        assert one.figure("redis_failovers_total") >= 1


async def test_twenty_one_devices_while_redis_has_no_memory(
    redis_server: RedisServer, database: Database
) -> None:
    async with (
        daemon(redis_server.url, database.url) as here,
        daemon(redis_server.url, database.url) as there,
        here.device("alice") as phone,
    ):
        redis_server.command("CONFIG", "SET", "maxmemory", "1")
        try:
            for one in (here, there):
                async with one.device() as device:
                    answer = await device.auth(mint("alice"))
                    assert answer["code"] == "UNAVAILABLE"
            await eventually(lambda: bool(here.daemon.health.unready_reasons()))
            await eventually(lambda: bool(there.daemon.health.unready_reasons()))
            signed = phone.signed({"type": "join_note", "noteId": NOTE_ID})
            assert (await phone.ask(signed))["code"] == "UNAVAILABLE"
            assert (await phone.auth(mint("alice")))["type"] == "auth_success"
        finally:
            redis_server.command("CONFIG", "SET", "maxmemory", "0")
        await eventually(lambda: not here.daemon.health.unready_reasons())
        await eventually(lambda: not there.daemon.health.unready_reasons())
        async with there.device("alice"):
            pass


@pytest.mark.parametrize("password", ["", "wrong"])
async def test_a_password_that_redis_does_not_take(
    redis_server: RedisServer, database: Database, password: str
) -> None:
    redis_server.command("CONFIG", "SET", "requirepass", "right")
    server = f"127.0.0.1:{redis_server.port}"
    try:
        login = f":{password}@" if password else ""
        async with unready(f"redis://{login}{server}/0", database) as one:
            await eventually(lambda: bool(one.logged("redis_down")))
            await until_named(one, server)
            async with one.device() as device:
                answer = await device.auth(mint("alice"))
                assert answer["code"] == "UNAVAILABLE"
    finally:
        with redis.Redis(
            port=redis_server.port, password="right", **TIMEOUTS
        ) as client:
            client.config_set("requirepass", "")


async def test_an_unreachable_redis_is_tolerated_and_named(
    redis_server: RedisServer, database: Database
) -> None:
    async with link_proxy(redis_server.port) as proxy:
        await proxy.refuse()
        async with unready(proxy.url, database) as one:
            await eventually(lambda: bool(one.logged("redis_down")))
            await until_named(one, proxy.port)
            labels = {"link": "commands", "node": f"127.0.0.1:{proxy.port}"}
            assert one.figure("redis_node_up", **labels) == 0
            async with one.device("alice") as device:
                signed = device.signed({"type": "ping"})
                assert (await device.ask(signed))["type"] == "pong"
            await proxy.heal()
            await eventually(lambda: not one.daemon.health.unready_reasons())
            assert one.figure("redis_node_up", **labels) == 1
