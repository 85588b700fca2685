"""The JavaScript client against the real daemon, Postgres, Redis and a bad network."""

import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.client.clients import ByteCutter, Client, Clients, node_clients
from tests.daemon import Boot, RunningDaemon, eventually, publish
from tests.postgres import Database
from tests.redis import LinkProxy, RedisServer, link_proxy
from tests.tokens import mint
from typelets_ws.dev.postgres import Postgres

pytestmark = pytest.mark.slow

CUTS = int(os.environ.get("CUTS", "40"))
"""Of some 2,800 bytes; `CUTS=10000` takes each of them, by hand."""
GROUP = 40
"""Clients at once."""


class Scene:
    """A daemon, clients of alice, two notes and a folder of hers."""

    def __init__(
        self, server: RunningDaemon, clients: Clients, notes: list[str]
    ) -> None:
        self.server = server
        self.clients = clients
        self.first, self.second = notes

    async def client(self, name: str, url: str = "", **options: Any) -> Client:
        tokens = options.pop("tokens", [mint("alice")])
        return await self.clients.new(name, url or self.server.url, *tokens, **options)


@pytest.fixture
def scene(
    boot: Boot, redis_server: RedisServer, database: Database, tmp_path: Path
) -> Any:
    """`async with scene(limits={...}) as it:`; `mobile` is for React Native."""

    @asynccontextmanager
    async def opened(*, mobile: bool = False, **sections: Any) -> AsyncIterator[Scene]:
        sections.setdefault("recovery", {"enabled": True})
        database.add_user("alice")
        folder = database.add_folder("alice")
        notes = [
            database.add_note("alice", title=f"t{n}", folder_id=folder) for n in (1, 2)
        ]
        async with (
            boot(**sections) as server,
            node_clients(
                tmp_path, database.url, redis_server.url, mobile=mobile
            ) as clients,
        ):
            yield Scene(server, clients, notes)

    return opened


async def test_two_clients_on_two_daemons(
    scene: Any, boot: Boot, database: Database
) -> None:
    async with scene() as it, boot(recovery={"enabled": True}) as other:
        phone = await it.client("phone", sign=True)
        laptop = await it.client("laptop", other.url)
        for client in (phone, laptop):
            await client.equals_postgres()
        for number in range(5):
            await phone.edit(it.first, title=f"phone {number}")
            await laptop.edit(it.second, content=f"laptop {number}")
        await eventually(
            lambda: (
                database.note(it.first)["title"] == "phone 4"
                and database.note(it.second)["content"] == "laptop 4"
            )
        )
        for client in (phone, laptop):
            await client.equals_postgres()
            for event in ("error", "conflict", "refetch"):
                assert await client.heard(event) == []


async def test_changes_that_were_not_published(scene: Any, database: Database) -> None:
    """The audit sends a changed row; its digest shows a deleted one."""
    recovery = {"enabled": True, "audit_s": 0.5, "quiet_s": 0.1}
    async with scene(recovery=recovery) as it:
        phone = await it.client("phone")
        await phone.equals_postgres()
        database.execute("UPDATE notes SET title = 'by hand' WHERE id = %s", it.first)
        database.execute("DELETE FROM notes WHERE id = %s", it.second)
        database.execute("DELETE FROM folders")
        await phone.equals_postgres()
        assert (await phone.call("shown", id=it.first))["folderId"] is None
        assert await phone.call("shown", id=it.second) is None


async def test_deletions_missed_offline(scene: Any, database: Database) -> None:
    async with scene() as it, link_proxy(it.server.daemon.port) as proxy:
        phone = await it.client("phone", f"ws://127.0.0.1:{proxy.port}/")
        await phone.equals_postgres()
        await proxy.refuse()
        await phone.is_at("offline")
        database.execute("DELETE FROM notes WHERE id = %s", it.second)
        added = database.add_note("alice", title="new")
        await proxy.heal()
        await phone.equals_postgres()
        assert await phone.call("shown", id=it.second) is None
        assert (await phone.call("shown", id=added))["title"] == "new"


async def test_without_recovery_the_app_refetches(scene: Any) -> None:
    async with scene(recovery={"enabled": False}) as it:
        phone = await it.client("phone")
        await phone.equals_postgres()
        await phone.edit(it.first, title="stored")
        await phone.equals_postgres()
        assert await phone.heard("refetch") != []


async def test_a_day_offline(
    scene: Any, database: Database, redis_server: RedisServer
) -> None:
    async with scene() as it, link_proxy(it.server.daemon.port) as proxy:
        phone = await it.client("phone", f"ws://127.0.0.1:{proxy.port}/")
        laptop = await it.client("laptop")
        for client in (phone, laptop):
            await client.equals_postgres()
        await proxy.refuse()
        await phone.is_at("offline")
        await phone.edit(it.first, title="phone", starred=True)
        await phone.edit(it.second, content="phone")
        await phone.call("sleep", ms=86_400_000)
        await laptop.edit(it.first, title="laptop")
        await laptop.edit(it.second, archived=True)
        await laptop.equals_postgres()
        gone = database.add_note("alice")
        await proxy.heal()
        conflict = await phone.reported("conflict", noteId=it.first)
        assert conflict["changes"] == {"title": "phone", "starred": True}
        assert conflict["theirs"]["title"] == "laptop"
        await eventually(lambda: database.note(it.second)["content"] == "phone")
        assert database.note(it.second)["archived"] is True
        changes = {"title": "laptop, phone", "starred": True}
        await phone.call("resolve", id=it.first, changes=changes)
        await phone.equals_postgres()
        assert database.note(it.first)["title"] == "laptop, phone"
        assert gone


async def test_edits_outlive_the_app(scene: Any, database: Database) -> None:
    async with scene() as it, link_proxy(it.server.daemon.port) as proxy:
        url = f"ws://127.0.0.1:{proxy.port}/"
        phone = await it.client("phone", url)
        await phone.equals_postgres()
        await proxy.refuse()
        await phone.is_at("offline")
        await phone.edit(it.first, title="typed offline")
        await phone.call("stop")
        again = await it.client("phone again", url, kept="phone")
        shown = await again.call("shown", id=it.first)
        assert shown["title"] == "typed offline"
        await proxy.heal()
        await again.equals_postgres()
        assert database.note(it.first)["title"] == "typed offline"


async def cut_at(
    it: Scene, database: Database, cuts: Sequence[int], **options: Any
) -> int:
    """One user for each cut, all at once; returns the bytes of the longest."""
    clients, notes, cutters = [], [], []
    async with AsyncExitStack() as stack:
        for cut in cuts:
            cutter = ByteCutter(it.server.daemon.port, [cut])
            await stack.enter_async_context(cutter.serving())
            cutters.append(cutter)
            user = f"user_{cut:05}"
            database.add_user(user)
            notes.append(database.add_note(user, title="before"))
            url = f"ws://127.0.0.1:{cutter.port}/"
            client = await it.client(
                user, url, user=user, tokens=[mint(user)], **options
            )
            clients.append(client)
        for client, note in zip(clients, notes, strict=True):

            async def known(client: Client = client, note: str = note) -> bool:
                return bool(await client.call("shown", id=note))

            await eventually(known)
            await client.edit(note, title=client.name)
        for client, note in zip(clients, notes, strict=True):
            await client.equals_postgres()
            assert await client.heard("conflict") == []
            assert database.note(note)["title"] == client.name
            await client.call("stop")
    return max(cutter.longest for cutter in cutters)


async def test_cut_at_many_bytes(scene: Any, database: Database) -> None:
    limits = {"per_address": 5_000, "accept_share": 1.0}
    async with scene(limits=limits) as it:
        # At this speed there are no pings in between.
        length = await cut_at(it, database, [1_000_000], speed=1)
        positions = range(1, length + 10, max(length // CUTS, 1))
        for first in range(0, len(positions), GROUP):
            await cut_at(it, database, positions[first : first + GROUP])


@pytest.mark.parametrize("slept_ms", [0, 3_600_000])
async def test_a_half_open_connection(scene: Any, slept_ms: int) -> None:
    async with scene() as it, link_proxy(it.server.daemon.port) as proxy:
        phone = await it.client("phone", f"ws://127.0.0.1:{proxy.port}/")
        await phone.equals_postgres()
        proxy.stall()
        await phone.call("sleep", ms=slept_ms)
        await phone.edit(it.first, title="into the void")
        await phone.reported("status", status="offline")
        await proxy.heal()
        await phone.equals_postgres()
        assert (await phone.call("shown", id=it.first))["title"] == "into the void"


async def test_expired_tokens_are_replaced(scene: Any) -> None:
    async with scene() as it:
        expired = mint("alice", expires_in=-600)
        tokens = [expired, expired, mint("alice")]
        phone = await it.client("phone", tokens=tokens)
        await phone.equals_postgres()


async def test_a_revoked_session(scene: Any, redis_server: RedisServer) -> None:
    async with scene() as it:
        token = mint("alice", sid="sess_1")
        phone = await it.client("phone", tokens=[token])
        await phone.equals_postgres()
        await publish(
            redis_server.url,
            "alice",
            {"event": "session_revoked", "sessionId": "sess_1"},
        )
        refused = await phone.reported("status", status="offline", code=4401)
        assert refused["retryInMs"] >= 2_000
        await phone.call("tokens", tokens=[None])
        await phone.reported("status", reason="signed out")
        await phone.call("tokens", tokens=[mint("alice", sid="sess_2")])
        await phone.call("start")
        await phone.equals_postgres()


async def test_too_many_devices(scene: Any) -> None:
    async with scene(limits={"devices_per_user": 1}) as it:
        phone = await it.client("phone")
        await phone.equals_postgres()
        laptop = await it.client("laptop")
        refused = await laptop.reported("status", code=4429)
        assert refused["retryInMs"] >= 20_000
        await phone.call("stop")
        await laptop.equals_postgres()


async def test_a_daemon_drains_and_another_takes_over(scene: Any, boot: Boot) -> None:
    async with scene() as it, AsyncExitStack() as stack:
        old = await stack.enter_async_context(boot(recovery={"enabled": True}))
        proxy: LinkProxy
        async with link_proxy(old.daemon.port) as proxy:
            phone = await it.client("phone", f"ws://127.0.0.1:{proxy.port}/")
            await phone.equals_postgres()
            proxy.target(it.server.daemon.port)
            await stack.aclose()
            await phone.reported("status", code=1012)
            await phone.edit(it.first, title="while restarting")
            await phone.equals_postgres()


async def test_redis_down(
    scene: Any, redis_server: RedisServer, database: Database
) -> None:
    async with scene() as it:
        phone, laptop = await it.client("phone"), await it.client("laptop")
        for client in (phone, laptop):
            await client.equals_postgres()
        redis_server.stop()
        await phone.edit(it.first, title="without Redis")
        await eventually(lambda: database.note(it.first)["title"] == "without Redis")
        redis_server.start()
        for client in (phone, laptop):
            await client.equals_postgres()


async def test_postgres_down(
    scene: Any, postgres: Postgres, database: Database
) -> None:
    async with scene() as it:
        phone = await it.client("phone")
        await phone.equals_postgres()
        postgres.stop()
        await phone.edit(it.first, title="without Postgres")
        await phone.reported("error", code="UNAVAILABLE")
        assert await phone.call("status") == "catching up"
        postgres.start()
        await phone.equals_postgres()
        assert database.note(it.first)["title"] == "without Postgres"
        assert await phone.heard("conflict") == []


async def test_react_native(scene: Any, database: Database) -> None:
    """In the background nothing is connected; what was edited there is kept."""
    async with scene(mobile=True) as it:
        phone = await it.client("phone", sign=True)
        tablet = await it.client("tablet")
        for client in (phone, tablet):
            await client.equals_postgres()
        await phone.call("state", state="background")
        await phone.reported("status", reason="stopped")
        await tablet.edit(it.first, title="while in the pocket")
        await phone.edit(it.second, content="as the app went away")
        await eventually(lambda: database.note(it.first)["title"] != "t1")
        await phone.call("state", state="active")
        for client in (phone, tablet):
            await client.equals_postgres()
            assert await client.heard("error") == []
        assert database.note(it.second)["content"] == "as the app went away"


async def test_react_native_opens_a_socket_late(scene: Any) -> None:
    """Its WebSocket opens although it was closed while connecting."""
    async with scene(mobile=True) as it, link_proxy(it.server.daemon.port) as proxy:
        phone = await it.client("phone", f"ws://127.0.0.1:{proxy.port}/")
        await phone.equals_postgres()
        proxy.stall()
        proxy.cut()
        await phone.reported("status", reason="connecting took too long")
        await proxy.heal()
        await phone.equals_postgres()

        async def one_is_left() -> bool:
            answer = await it.server.get("/websocket/status")
            return bool(json.loads(answer[2])["connections"]["total"] == 1)

        await eventually(one_is_left)


async def test_memory_stays_flat(scene: Any, database: Database) -> None:
    async with scene(limits={"rate_messages": 100_000}) as it:
        phone = await it.client("phone")
        await phone.equals_postgres()

        async def work(rounds: int) -> int:
            for number in range(rounds):
                await phone.edit(it.first, title=f"{number} {'x' * 2_000}")
            await phone.equals_postgres()
            used: int = await it.clients.call("heap")
            return used

        before = await work(500)
        assert await work(1_000) - before < 1_000_000
