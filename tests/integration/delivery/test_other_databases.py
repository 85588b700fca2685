"""Recovery when the database turns out to be another one than before."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.daemon import Message, daemon, eventually
from tests.integration.delivery.test_recovery import (
    FAST,
    audited,
    gone_of,
    is_healed,
    ping,
    ready,
    rename,
    reply_to,
    titles,
    until,
)
from tests.integration.scene import ALICE
from tests.postgres_clusters import PostgresCluster, either, scratch
from tests.redis import RedisServer
from typelets_ws.dev.postgres import PostgresError

SLOW_AUDIT = {**FAST, "audit_s": 60.0}


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with scratch() as directory:
        yield directory


@pytest.fixture(scope="module")
def shared_cluster(place: Path) -> Iterator[PostgresCluster]:
    cluster = PostgresCluster(place)
    try:
        cluster.start()
        yield cluster
    except PostgresError as error:
        pytest.skip(str(error))
    finally:
        cluster.close()


@pytest.fixture
def cluster(shared_cluster: PostgresCluster) -> PostgresCluster:
    """Running, empty, with one user."""
    if not shared_cluster.server.running:
        shared_cluster.server.start()
    shared_cluster.database.empty()
    shared_cluster.database.add_user(ALICE)
    return shared_cluster


async def test_a_promoted_replica_loses_no_change(
    cluster: PostgresCluster, redis_server: RedisServer
) -> None:
    """Commits that never reached the replica are taken back, later ones are shown."""
    database = cluster.database
    kept, lost = database.add_note(ALICE, title="kept"), database.add_note(ALICE)
    gone = database.add_note(ALICE, title="gone")
    with scratch() as place:
        replica = cluster.replica(place)
        try:
            await cluster.replayed(replica)
            url = either(cluster, replica)
            async with daemon(redis_server.url, url, recovery=FAST) as server:
                await ready(server)
                async with server.device(ALICE) as device:
                    await until(device, is_healed)
                    cursor = (await reply_to(device, {"type": "sync"}))["cursor"]
                    await replica.cut_off()
                    rename(database, lost, "lost")
                    database.execute("DELETE FROM notes WHERE id = %s", gone)
                    extra = database.add_note(ALICE, title="extra")
                    found: list[Message] = []
                    wanted = {"lost", "extra"}
                    while not wanted <= set(titles(found)) or not gone_of(found):
                        found += await until(device, is_healed)
                    assert gone_of(found) == [gone]
                    await audited(server)
                    await device.barrier()
                    cluster.server.crash()
                    replica.promote()
                    rename(replica.database, kept, "later")
                    found = []
                    wanted = {"t", "later", "gone"}
                    while not wanted <= set(titles(found)):
                        found += await until(device, is_healed)
                    assert set(gone_of(found)) == {extra}
                    answer = await reply_to(device, {"type": "sync", "cursor": cursor})
                    assert answer["code"] == "CURSOR_EXPIRED"
                    page = await reply_to(device, {"type": "sync"})
                    assert {row["title"] for row in page["notes"]} == {
                        "later", "t", "gone",
                    }  # fmt: skip
                    assert server.logged("database_changed")
        finally:
            replica.close()


async def test_on_a_standby_recovery_is_off_until_it_is_promoted(
    cluster: PostgresCluster, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("typelets_ws.delivery.recovery.UNSUPPORTED_S", 0.1)
    note = cluster.database.add_note(ALICE, title="first")
    with scratch() as place:
        replica = cluster.replica(place)
        try:
            await cluster.replayed(replica)
            url = replica.server.url()
            async with daemon(redis_server.url, url, recovery=FAST) as server:
                await eventually(lambda: bool(server.logged("recovery_off")))
                assert server.logged("recovery_off")[0]["reason"] == "standby"
                async with server.device(ALICE) as device:
                    assert "cursor" not in await ping(device)
                    joined = await reply_to(
                        device, {"type": "join_note", "noteId": note}
                    )
                    assert joined["type"] == "note_joined"
                    replica.promote()
                    await ready(server)
                    assert server.figure("recovery_up") == 1
                    await until(device, is_healed)
                    rename(replica.database, note, "second")
                    assert titles(await until(device, is_healed)) == ["second"]
        finally:
            replica.close()


async def test_transaction_ids_set_half_a_circle_ahead(
    redis_server: RedisServer,
) -> None:
    """A horizon from before is in the future then, by the 32 bits of a row's xmin."""
    with scratch() as place:
        # Of its own: Postgres soon refuses to write to it.
        cluster = PostgresCluster(place)
        try:
            cluster.start()
            await half_a_circle(cluster, redis_server)
        finally:
            cluster.close()


async def half_a_circle(cluster: PostgresCluster, redis_server: RedisServer) -> None:
    database = cluster.database
    database.add_user(ALICE)
    note, other = database.add_note(ALICE, title="first"), database.add_note(ALICE)
    url = cluster.server.url()
    async with daemon(redis_server.url, url, recovery=SLOW_AUDIT) as server:
        await ready(server)
        async with server.device(ALICE) as device:
            await until(device, is_healed)
            cursor = (await reply_to(device, {"type": "sync"}))["cursor"]
            cluster.advance(2**31)
            rename(database, note, "second")
            assert "second" in titles(await until(device, is_healed))
            answer = await reply_to(device, {"type": "sync", "cursor": cursor})
            assert answer["code"] == "CURSOR_EXPIRED"
            cursor = (await reply_to(device, {"type": "sync"}))["cursor"]
            rename(database, other, "third")
            page = await reply_to(device, {"type": "sync", "cursor": cursor})
            assert [row["title"] for row in page["notes"]] == ["third"]
    async with daemon(redis_server.url, url, recovery=FAST) as server:
        # Horizons of the last minutes are of the time before, but those of Redis.
        await ready(server)
        async with server.device(ALICE) as device:
            await until(device, is_healed)
            rename(database, note, "fourth")
            assert titles(await until(device, is_healed)) == ["fourth"]


async def test_a_restored_dump_is_another_database(
    cluster: PostgresCluster, redis_server: RedisServer
) -> None:
    """The same rows, and cursors of neither are good for the other."""
    note = cluster.database.add_note(ALICE, title="first")
    dump = cluster.data / "dump.sql"
    cluster.database.execute("CREATE DATABASE restored TEMPLATE template0")
    try:
        restored = cluster.server.url("restored")
        cluster.tool("pg_dump", "-d", cluster.server.url(), "-f", str(dump))
        cluster.tool("psql", "-q", "-d", restored, "-f", str(dump))
        boot_on = partial(daemon, redis_server.url, recovery=FAST)
        cursors: list[str] = []
        for url in (cluster.server.url(), restored):
            async with boot_on(url) as server:
                await ready(server)
                async with server.device(ALICE) as device:
                    page = await reply_to(device, {"type": "sync"})
                    assert [row["id"] for row in page["notes"]] == [note]
                    for cursor in cursors:
                        asked = {"type": "sync", "cursor": cursor}
                        assert (await reply_to(device, asked))[
                            "code"
                        ] == "CURSOR_EXPIRED"
                    cursors.append(page["cursor"])
    finally:
        cluster.database.execute("DROP DATABASE restored WITH (FORCE)")
