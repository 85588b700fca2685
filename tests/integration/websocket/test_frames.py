"""Frames as clients may send them: their order, their cost, the memory they hold."""

import asyncio
import gc
import io
import json
import socket
import time
from pathlib import Path

import pytest

from tests.collector import collector_off
from tests.daemon import Boot, RunningDaemon, configured, eventually, raw_http
from tests.fakes import make_logger
from tests.hostile.clients import masked
from tests.integration.scene import ALICE
from tests.postgres import Database
from tests.raw import (
    BINARY,
    CLOSE,
    CONT,
    HANDSHAKE,
    PING,
    PONG,
    TEXT,
    Raw,
    frame,
    raw,
)
from tests.redis import RedisServer
from tests.tokens import mint
from typelets_ws.app import running
from typelets_ws.websocket.connection import Connection

PING_TEXT = b'{"type":"ping"}'


async def authenticate(client: Raw, user: str = ALICE) -> None:
    client.send(json.dumps({"type": "auth", "token": mint(user)}))
    assert b"auth_success" in await client.text()


def connections(server: RunningDaemon) -> list[Connection]:
    return [c for c in server.daemon.state.connections if isinstance(c, Connection)]


# Order (RFC 6455).


async def test_a_pong_and_a_reply_keep_the_order_of_their_frames(boot: Boot) -> None:
    async with boot() as server, raw(server) as client:
        begun = frame(TEXT, PING_TEXT[:5], fin=False)
        client.write(begun + frame(PING, b"one") + frame(CONT, PING_TEXT[5:]))
        client.write(frame(TEXT, PING_TEXT) + frame(PING, b"two"))
        kinds = [(await client.frame())[0] for _ in range(4)]
        assert kinds == [PONG, TEXT, TEXT, PONG]


async def test_a_close_inside_a_fragmented_message_is_answered(boot: Boot) -> None:
    async with boot() as server, raw(server) as client:
        client.write(frame(TEXT, b"x", fin=False) + frame(CLOSE, b"\x03\xe9"))
        assert await client.close_code() == 1001
        assert server.figure("closes_total", code="client", reason="client") == 1


async def test_a_payload_that_looks_like_a_frame_is_missing(boot: Boot) -> None:
    """The head arrives first; the payload, alone in its read, reads like a frame."""
    inner = masked(TEXT, PING_TEXT)
    outer = masked(BINARY, inner)
    async with boot() as server, raw(server) as client:
        head, payload = outer[: len(outer) - len(inner)], outer[-len(inner) :]
        client.write(head)
        await eventually(
            lambda: any(c._inbound._reader is not None for c in connections(server))
        )
        client.write(payload)
        assert b"Invalid message format" in await client.text()


async def test_an_error_of_the_library_is_counted_by_its_code(boot: Boot) -> None:
    async with boot() as server:
        for data, code, reason in (
            (b"\xff\x80", 1002, "protocol_error"),
            (frame(TEXT, b"x" * 100_000), 1009, "message_too_big"),
            (frame(TEXT, b"\xff"), 1007, "invalid_utf8"),
        ):
            async with raw(server) as client:
                client.write(data)
                assert await client.close_code() == code
            assert server.figure("closes_total", code=str(code), reason=reason) == 1


# Rate: every frame counts, and nothing behind a verdict is parsed.


@pytest.mark.parametrize(
    "frames",
    [
        frame(PING, b"x") * 40,
        frame(PONG, b"") * 40,
        frame(TEXT, b"") * 40,
        frame(BINARY, b"") * 40,
        frame(TEXT, b"", fin=False) + frame(CONT, b"", fin=False) * 40,
    ],
)
async def test_every_frame_counts(boot: Boot, frames: bytes) -> None:
    async with boot(limits={"rate_messages": 10}) as server, raw(server) as client:
        client.write(frames)
        assert await client.close_code() == 4429
        # Input behind the verdict is discarded, however much it is.
        client.write(frames * 1_000)
        await client.ended()
        assert server.figure("closes_total", code="4429", reason="flood") == 1


async def test_one_pong_for_each_ping_of_the_daemon_is_free(boot: Boot) -> None:
    limits = {"rate_messages": 3, "ping_interval_s": 0.2, "ping_timeout_s": 5}
    async with boot(limits=limits) as server, raw(server) as client:
        for _ in range(5):
            opcode, data = await client.frame()
            assert opcode == PING
            client.write(frame(PONG, data))
        for _ in range(3):
            client.send(PING_TEXT)
            assert b"pong" in await client.text()
        client.send(PING_TEXT)
        assert b"RATE_LIMITED" in await client.text()


async def test_a_message_of_which_a_fragment_was_refused_is_refused_once(
    boot: Boot,
) -> None:
    async with boot(limits={"rate_messages": 3}) as server, raw(server) as client:
        client.write(frame(TEXT, b'{"type":', fin=False))
        client.write(frame(CONT, b"", fin=False) * 3)
        client.write(frame(CONT, b'"ping","requestId":"r"}'))
        refusal = json.loads(await client.text())
        assert refusal["code"] == "RATE_LIMITED"
        assert refusal["retryAfterMs"] > 0


async def test_bytes_are_limited_for_each_window(boot: Boot) -> None:
    limits = {"rate_bytes": 100_000, "unread_bytes_before_auth": 60_000}
    async with boot(limits=limits) as server, server.device() as device:
        text = '{"type":"ping","x":"' + "y" * 39_000 + '"}'
        answers = [await device.ask(text) for _ in range(7)]
        codes = [answer.get("code", answer["type"]) for answer in answers]
        assert codes == ["pong"] * 2 + ["RATE_LIMITED"] * 5
        assert 0 < answers[-1]["retryAfterMs"] <= 60_000
        await device.send(text)
        assert await device.closed() == 4429


async def test_one_connection_has_a_share_of_a_loop_iteration(boot: Boot) -> None:
    """Two clients send as much at once; their answers take turns."""
    limits = {"iteration_frames": 4, "rate_messages": 1_000}
    async with boot(limits=limits) as server:
        order: list[int] = []
        async with raw(server) as one, raw(server) as other:
            for client in (one, other):
                client.write(frame(TEXT, PING_TEXT) * 40)

            async def read(number: int, client: Raw) -> None:
                for _ in range(40):
                    assert b"pong" in await client.text()
                    order.append(number)

            await asyncio.gather(read(0, one), read(1, other))
        assert sorted(order) == [0] * 40 + [1] * 40


# Memory.


async def test_the_largest_holders_are_closed_over_the_budget(boot: Boot) -> None:
    limits = {"memory_bytes": 3_000_000}
    async with boot(limits=limits) as server:
        async with raw(server) as small, raw(server) as large, raw(server) as larger:
            for client in (small, large, larger):
                await authenticate(client)
            for client, size in ((small, 500_000), (large, 900_000), (larger, 999_000)):
                client.write(frame(TEXT, b"x" * 2_000_000)[:size])
            await eventually(lambda: server.daemon.state.memory.total > 2_300_000)
            large.write(b"x" * 700_000)
            assert await large.close_code() == 1013
            assert server.figure("evictions_total", reason="memory") == 1
            assert server.daemon.state.memory.total < 3_000_000
        await eventually(lambda: not server.daemon.state.memory.total)


async def test_an_unfinished_message_has_a_deadline(boot: Boot) -> None:
    async with boot(limits={"unfinished_s": 0.5}) as server:

        async def is_closed(data: bytes) -> None:
            async with raw(server) as client:
                client.write(data)
                assert await client.close_code() == 1008

        await asyncio.gather(
            is_closed(frame(TEXT, PING_TEXT)[:9]),
            is_closed(frame(TEXT, b"x", fin=False)),
            is_closed(b"\x81"),
        )
        reason = "unfinished_message"
        assert server.figure("closes_total", code="1008", reason=reason) == 3


async def test_each_message_has_its_own_deadline(boot: Boot) -> None:
    async with boot(limits={"unfinished_s": 4.0}) as server, raw(server) as client:
        whole = masked(TEXT, PING_TEXT)
        for _ in range(3):
            client.write(whole[:9])
            await asyncio.sleep(1.5)  # three are longer than the limit
            client.write(whole[9:])
            assert b"pong" in await client.text()


async def test_refused_input_leaves_nothing_to_the_collector(boot: Boot) -> None:
    """Frames, handshakes and requests that are refused; the collector is off."""
    refused = (
        b"\xff\x80", frame(TEXT, b"\xff" * 60_000), frame(TEXT, b"x" * 100_000),
        frame(TEXT, b"x" * 60_000)[:50_000], frame(TEXT, b"x" * 60_000, fin=False),
        frame(CLOSE, b"\x03"), frame(PONG, b"") * 2_000, frame(TEXT, b"{" * 60_000),
    )  # fmt: skip
    requests = (b"nonsense\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nA: ")

    async def once(server: RunningDaemon) -> None:
        for data in refused:
            async with raw(server) as client:
                client.write(data)
                client.writer.write_eof()
                await client.ended()
        for request in requests:
            _, writer = await asyncio.open_connection("127.0.0.1", server.daemon.port)
            writer.write(request)
            await writer.drain()
            writer.transport.abort()
        await eventually(lambda: not server.daemon.state.connections)

    async with boot(limits={"refused_tokens": 1_000}) as server:
        await once(server)
        ours = (Connection,)
        with collector_off():
            await once(server)
            left = [thing for thing in gc.get_objects() if isinstance(thing, ours)]
            assert left == []


# Sockets.


async def test_both_families_are_served_and_an_address_has_one_spelling(
    boot: Boot,
) -> None:
    async with boot(server={"host": "::"}) as server:
        for host in ("127.0.0.1", "::1"):
            reader, writer = await asyncio.open_connection(host, server.daemon.port)
            writer.write(b"GET /health HTTP/1.1\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 200")
            writer.close()
        async with raw(server):
            (connection,) = connections(server)
            assert connection.log_fields["address"] == "127.0.0.1"


async def test_several_hosts_are_listened_on(boot: Boot) -> None:
    async with boot(server={"host": ["127.0.0.1", "127.0.0.2"], "port": 0}) as server:
        ports = [s.getsockname() for d in server.daemon.servers for s in d.sockets]
        assert [host for host, _ in ports] == ["127.0.0.1", "127.0.0.2"]
        answer = await raw_http(server.daemon.port, b"GET /health HTTP/1.1\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.usefixtures("loop_factory")
@pytest.mark.parametrize("trusted", [False, True])
async def test_a_passed_unix_socket_is_served_and_may_be_a_trusted_proxys(
    redis_server: RedisServer, database: Database, tmp_path: Path, trusted: bool
) -> None:
    path = str(tmp_path / "socket")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    config = configured(
        redis={"url": redis_server.url}, database={"url": database.url},
        server={"trusted_proxies": ["unix"] if trusted else []},
    )  # fmt: skip
    log = make_logger(io.StringIO(), time.time)
    async with running(config, log=log, sockets=[listening]) as daemon:
        assert daemon.port == 0
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(f"{HANDSHAKE}X-Forwarded-For: 1.2.3.4:99\r\n\r\n".encode())
        assert b" 101 " in await reader.readline()
        (connection,) = [
            c for c in daemon.state.connections if isinstance(c, Connection)
        ]
        address = connection.log_fields["address"]
        assert address == ("1.2.3.4" if trusted else "unix")
        writer.transport.abort()
