"""One address or one user that takes all it can get: others are served beside it."""

import asyncio
import json
import time
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from tests.daemon import Boot, Device, RunningDaemon, eventually
from tests.postgres import Database
from tests.raw import raw
from tests.tokens import key_pair, mint
from typelets_ws.websocket import limiter
from typelets_ws.websocket.fair_share import FairRate

PROXY = {"server": {"port": 0, "drain_seconds": 0.0, "trusted_proxies": ["127.0.0.1"]}}
HONEST = "198.51.100.7"
PATHS = ("/health", "/other", "/websocket/status", "/", "/health", "/other")


async def arrive(server: RunningDaemon, address: str) -> ClientConnection:
    """A client of this address, as a trusted proxy passes it on."""
    headers = {"X-Forwarded-For": address}
    return await connect(server.url, additional_headers=headers, compression=None)


async def status_of(server: RunningDaemon, address: str) -> tuple[int, str | None]:
    """The answer to an upgrade: its status and its Retry-After."""
    try:
        client = await arrive(server, address)
    except InvalidStatus as refused:
        response = refused.response
        return response.status_code, response.headers.get("Retry-After")
    await client.close()
    return 101, None


async def sign_in(server: RunningDaemon, address: str, token: str) -> dict[str, Any]:
    client = await arrive(server, address)
    device = Device(client)
    try:
        await device.receive()
        return await device.auth(token)
    finally:
        client.transport.abort()


async def test_ten_addresses_of_silent_clients_do_not_take_every_place(
    boot: Boot,
) -> None:
    limits = {"unauthenticated": 40, "accepts_per_second": 100_000}
    async with boot(**PROXY, limits=limits) as server, AsyncExitStack() as silent:
        for number in range(40):
            silent.enter_context(suppress(Exception))
            client = await arrive(server, f"203.0.113.{number % 10}")
            silent.push_async_callback(client.close)
        for number in range(8):
            answer = await sign_in(server, HONEST, mint(f"user_{number}"))
            assert answer["type"] == "auth_success"
        assert server.figure("evictions_total", reason="unauthenticated") >= 1


async def test_many_addresses_with_one_socket_each_keep_no_client_out(
    boot: Boot,
) -> None:
    limits = {"unauthenticated": 20, "accepts_per_second": 100_000}
    async with boot(**PROXY, limits=limits) as server:
        silent = [await arrive(server, f"203.0.113.{n}") for n in range(20)]
        honest = [await arrive(server, f"198.51.100.{n}") for n in range(5)]
        status, retry_after = await status_of(server, "203.0.113.19")
        assert (status, retry_after) == (503, "5"), "it has its share"
        for number, client in enumerate(honest):
            device = Device(client)
            await device.receive()
            answer = await device.auth(mint(f"user_{number}"))
            assert answer["type"] == "auth_success"
        for client in silent[:5]:
            await client.wait_closed()
            assert client.close_code == 1013
        for client in (*silent, *honest):
            await client.close()


async def test_plain_requests_are_limited_by_address(
    boot: Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limiter, "LEAST_REQUESTS", 1)
    monkeypatch.setattr(limiter, "REQUESTS_FACTOR", 1)
    limits = {"accepts_per_second": 8, "accept_share": 0.5}
    async with boot(**PROXY, limits=limits) as server:
        server.daemon.state.limiter._requests = FairRate(3600)
        honest, other = {"X-Forwarded-For": HONEST}, {"X-Forwarded-For": "203.0.113.1"}
        assert (await server.get("/health", headers=honest))[0] == 200
        statuses = [(await server.get(path, headers=other))[0] for path in PATHS]
        assert statuses == [200, 426, 200, 426, 503, 503]
        assert (await server.get("/health", headers=honest))[0] == 200
        assert (await server.get("/health"))[0] == 200, "the proxy's own"
        assert server.figure("evictions_total", reason="accept_rate") == 2
    async with boot(limits={"accepts_per_second": 2}) as server:
        server.daemon.state.limiter._requests = FairRate(3600)
        statuses = [(await server.get("/health"))[0] for _ in range(3)]
        assert statuses == [200, 200, 503]
        with pytest.raises(InvalidStatus):
            await connect(server.url)
        other_address = await connect(server.url, local_addr=("127.0.0.2", 0))
        await other_address.close()


async def test_an_ipv6_network_is_one_client(boot: Boot) -> None:
    limits = {"per_address": 3, "accepts_per_second": 100_000}
    async with boot(**PROXY, limits=limits) as server, AsyncExitStack() as opened:
        for number in range(3):
            client = await arrive(server, f"2001:db8::{number + 1}")
            opened.push_async_callback(client.close)
        assert (await status_of(server, "[2001:db8::ffff]:443"))[0] == 503
        assert (await status_of(server, "2001:db8:0:1::1"))[0] == 101


async def test_upgrades_that_are_reset_leave_others_their_handshakes(
    boot: Boot,
) -> None:
    limits = {"accepts_per_second": 60, "per_address": 100_000}
    async with boot(**PROXY, limits=limits) as server:
        answers: list[int] = []

        async def attack() -> None:
            while len(answers) < 22:
                with suppress(InvalidStatus):
                    client = await arrive(server, "203.0.113.1")
                    client.transport.abort()

        async with asyncio.TaskGroup() as tasks:
            for _ in range(4):
                tasks.create_task(attack())
            for number in range(22):
                await asyncio.sleep(0.02)
                answers.append((await status_of(server, f"198.51.100.{number}"))[0])
        assert answers == [101] * 22
        assert server.figure("evictions_total", reason="accept_rate") > 0


async def test_junk_tokens_shut_out_their_address_only(boot: Boot) -> None:
    limits = {"accepts_per_second": 100_000, "refused_tokens": 3}
    async with boot(**PROXY, limits=limits) as server:
        forged = mint("alice", key=key_pair("forger"))
        for _ in range(3):
            answer = await sign_in(server, "203.0.113.1", forged)
            assert answer["type"] == "auth_failed"
        status, retry_after = await status_of(server, "203.0.113.1")
        assert status == 503
        assert retry_after is not None
        assert 30 < int(retry_after) <= 60
        answer = await sign_in(server, HONEST, mint("alice"))
        assert answer["type"] == "auth_success"
        assert server.figure("evictions_total", reason="refused_tokens") == 1


async def test_expired_tokens_shut_no_one_out(boot: Boot) -> None:
    limits = {"accepts_per_second": 100_000, "refused_tokens": 1}
    async with boot(**PROXY, limits=limits) as server:
        stale = mint("alice", now=time.time() - 600)
        for _ in range(3):
            assert (await sign_in(server, HONEST, stale))["reason"] == "token-expired"
        assert (await status_of(server, HONEST))[0] == 101


async def test_floods_before_auth_shut_out_their_address(boot: Boot) -> None:
    limits = {
        "accepts_per_second": 100_000, "refused_tokens": 2, "rate_messages": 3,
    }  # fmt: skip
    async with boot(limits=limits) as server:
        for _ in range(2):
            async with raw(server) as client:
                for _ in range(12):
                    client.send('{"type":"ping"}')
                assert await client.close_code() == 4429
        with pytest.raises(InvalidStatus):
            await connect(server.url)


async def test_messages_before_auth_are_counted_by_address_over_reconnects(
    boot: Boot,
) -> None:
    limits = {"rate_messages": 10, "user_rate_factor": 1}
    async with boot(limits=limits) as server:
        for _ in range(2):
            async with server.device() as device:
                answers = [await device.ask({"type": "ping"}) for _ in range(9)]
        # The first three of each connection are free: 6 and 4 are counted.
        kinds = [answer.get("code", answer["type"]) for answer in answers]
        assert kinds == ["pong"] * 7 + ["RATE_LIMITED"] * 2
        async with server.device("alice") as device:
            assert await device.barrier() == []
        async with server.device() as device:
            for _ in range(40):
                await device.send({"type": "ping"})
            assert await device.closed() == 4429


async def test_silent_sockets_of_one_address_give_way_to_others(boot: Boot) -> None:
    limits = {"handshakes": 20, "accepts_per_second": 100_000}
    async with boot(limits=limits) as server, AsyncExitStack() as silent:
        writers = []
        for _ in range(50):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", server.daemon.port
            )
            silent.callback(writer.close)
            writers.append((reader, writer))
        refused, _ = writers[-1]
        assert (await refused.read(64)).startswith(b"HTTP/1.1 503")
        honest = await connect(server.url, local_addr=("127.0.0.2", 0))
        assert json.loads(await honest.recv())["type"] == "connection_established"
        await honest.close()
        assert server.figure("evictions_total", reason="handshakes") >= 31
        assert server.logged("handshake_refused")


async def test_a_users_rate_holds_over_reconnects(
    boot: Boot, database: Database
) -> None:
    note = database.add_note(database.add_user("alice"))
    limits = {
        "accepts_per_second": 100_000, "rate_messages": 10, "user_rate_factor": 2,
    }  # fmt: skip
    update = {"type": "note_update", "noteId": note, "changes": {"starred": True}}
    async with boot(limits=limits) as server, server.device("bob") as other:
        replies: list[str] = []
        for _ in range(5):
            async with server.device("alice") as device:
                for _ in range(8):
                    reply = await device.ask(update)
                    replies.append(str(reply.get("code", reply["type"])))
        assert replies.count("note_update_success") == 20
        assert set(replies[20:]) == {"RATE_LIMITED"}
        async with server.device("alice") as device:
            for _ in range(22):
                await device.send(update)
            assert await device.closed() == 4429
        assert await other.barrier() == []


async def test_a_flood_is_remembered_when_the_client_returns(boot: Boot) -> None:
    limits = {"accepts_per_second": 100_000, "rate_messages": 10}
    async with boot(limits=limits) as server:
        async with server.device("alice") as device:
            for _ in range(40):
                await device.send({"type": "ping"})
            assert await device.closed() == 4429
        async with server.device("alice") as again:
            refused = await again.ask({"type": "ping"})
            assert refused["code"] == "RATE_LIMITED"
            assert refused["retryAfterMs"] > 30_000
        async with server.device("bob") as other:
            assert await other.barrier() == []
        await eventually(lambda: server.daemon.hub.devices == 0)
