"""Spec section 5 over real sockets: what is too much, and what comes of it."""

import asyncio
import json
import time
import zlib
from contextlib import AsyncExitStack

import pytest
from websockets.asyncio.client import connect

from tests.daemon import Boot, Device, Message, RunningDaemon, eventually, publish
from tests.integration.scene import ALICE, BOB
from tests.postgres import Database
from tests.raw import BINARY, CONT, PING, PONG, TEXT, Raw, frame, handshake, raw
from tests.redis import RedisServer
from tests.tokens import mint

TOO_LARGE = ("Message too large. Maximum size is 1MB.", "MESSAGE_TOO_LARGE")
PING_TEXT = '{"type":"ping"}'


def padded(size: int) -> str:
    """A ping of exactly that many bytes."""
    empty = '{"type":"ping","x":""}'
    return empty[:-2] + "a" * (size - len(empty)) + empty[-2:]


def told(message: Message) -> tuple[str, str]:
    assert message["type"] == "error"
    return message["message"], message["code"]


# The rate.


async def test_the_rate_is_per_connection_and_everything_counts(boot: Boot) -> None:
    limits = {"rate_messages": 6, "rate_window_ms": 60_000}
    async with boot(limits=limits) as server, server.device(ALICE) as device:
        for junk in ("junk", '{"type":"?"}', b"binary", "x" * 1_048_577):
            await device.ask(junk)
        assert (await device.ask(PING_TEXT))["type"] == "pong"
        answer = await device.ask({"type": "ping", "requestId": "r9"})
        assert told(answer) == (
            "Rate limit exceeded. Please slow down.",
            "RATE_LIMITED",
        )
        assert answer["requestId"] == "r9"
        assert 0 < answer["retryAfterMs"] <= 60_000
        signed = device.signed({"type": "ping", "requestId": "in"})
        assert (await device.ask(signed))["requestId"] == "in"
        broken = b'{"requestId":"\xff"}'
        assert (await device.ask(broken))["code"] == "RATE_LIMITED"
        async with server.device(ALICE) as second:
            assert (await second.ask(PING_TEXT))["type"] == "pong"


async def test_who_is_refused_is_served_again_and_gets_syncs_meanwhile(
    boot: Boot, redis_server: RedisServer
) -> None:

    async def served_again(device: Device) -> bool:
        await asyncio.sleep(0.1)
        answer = await device.ask(PING_TEXT)
        return bool(answer["type"] == "pong")

    limits = {"rate_messages": 50, "rate_window_ms": 2_000}
    async with boot(limits=limits) as server, server.device(ALICE) as device:
        refusals = []
        for _ in range(60):
            answer = await device.ask(PING_TEXT)
            if answer["type"] == "error":
                refusals.append(answer["retryAfterMs"])
        # Refused messages do not extend the window: the wait only gets shorter.
        assert refusals == sorted(refusals, reverse=True)
        assert len(refusals) == 11
        await publish(redis_server.url, ALICE, {"event": "note_deleted", "noteId": "x"})
        assert (await device.receive())["type"] == "note_deleted_sync"
        await eventually(lambda: served_again(device))


async def test_three_times_the_rate_within_one_window_closes_4429(boot: Boot) -> None:
    limits = {"rate_messages": 10, "rate_window_ms": 60_000}
    async with boot(limits=limits) as server:
        async with server.device() as device:
            for _ in range(29):
                await device.ask(PING_TEXT)
            await device.send(PING_TEXT)
            assert await device.closed() == 4429
        assert server.figure("closes_total", code="4429", reason="flood") == 1
        async with server.device(ALICE) as device:
            for _ in range(9):
                assert (await device.ask(PING_TEXT))["type"] == "pong"


async def test_a_flood_of_pings_and_of_fragments_is_a_flood(boot: Boot) -> None:
    limits = {"rate_messages": 10}
    async with boot(limits=limits) as server:
        async with raw(server) as client:
            client.write(frame(PING, b"x") * 40)
            assert await client.close_code() == 4429
        async with raw(server) as client:
            client.write(frame(TEXT, b"", fin=False))
            client.write(frame(CONT, b"", fin=False) * 40)
            assert await client.close_code() == 4429
        async with raw(server) as client:
            client.write(frame(PONG, b"") * 40)
            assert await client.close_code() == 4429


# Sizes.


async def test_after_auth_a_megabyte_is_the_most(boot: Boot) -> None:
    async with boot() as server, server.device(ALICE) as device:
        assert (await device.ask(padded(1_048_576)))["type"] == "pong"
        assert told(await device.ask(padded(1_048_577))) == TOO_LARGE
        assert told(await device.ask(padded(4 * 1_048_576))) == TOO_LARGE
        assert (await device.ask(PING_TEXT))["type"] == "pong"
        wide = '{"type":"ping","x":"' + "é" * 600_000 + '"}'
        assert told(await device.ask(wide)) == TOO_LARGE
        await device.send(padded(4 * 1_048_576 + 1))
        assert await device.closed() == 1009


async def test_before_auth_64_kib_are_read_and_no_more(boot: Boot) -> None:
    async with boot() as server:
        async with server.device() as device:
            assert (await device.ask(padded(65_536)))["type"] == "pong"
            await device.send(padded(65_537))
            assert await device.closed() == 1009
        async with raw(server) as client:
            # It is not the end of the message that is waited for.
            client.write(frame(TEXT, b"a" * 1_000_000)[:70_000])
            assert await client.close_code() == 1009
        async with raw(server) as client:
            for _ in range(3):
                client.write(frame(TEXT if _ == 0 else CONT, b"a" * 30_000, fin=False))
            assert await client.close_code() == 1009


async def test_a_large_message_right_behind_auth_is_fine(
    boot: Boot, database: Database
) -> None:
    database.add_user(ALICE)
    note = database.add_note(ALICE)
    update = {
        "type": "note_update", "noteId": note,
        "changes": {"encryptedContent": "A" * 1_000_000},
    }  # fmt: skip
    async with boot() as server, raw(server) as client:
        auth = json.dumps({"type": "auth", "token": mint(ALICE)})
        client.write(
            frame(TEXT, auth.encode())
            + frame(TEXT, json.dumps(update).encode())
            + frame(TEXT, json.dumps(update).encode())
        )
        assert b"auth_success" in await client.text()
        assert b"note_update_success" in await client.text()
        assert b"note_update_success" in await client.text()


async def test_behind_an_auth_that_fails_nothing_large_gets_through(boot: Boot) -> None:
    async with boot() as server, raw(server) as client:
        auth = json.dumps({"type": "auth", "token": mint(ALICE, expires_in=-60)})
        client.write(frame(TEXT, auth.encode()) + frame(TEXT, b"a" * 3_000_000))
        assert b"token-expired" in await client.text()
        assert await client.close_code() in {1009, None}
        assert not server.logged("internal_error")


# Frames.


async def test_fragments_make_one_message_with_pings_between(boot: Boot) -> None:
    async with boot() as server, raw(server) as client:
        data = '{"type":"ping","requestId":"é€"}'.encode()
        pieces = [data[i : i + 1] for i in range(len(data))]
        client.write(frame(TEXT, pieces[0], fin=False))
        for piece in pieces[1:-1]:
            client.write(frame(PING, b"p") + frame(CONT, piece, fin=False))
        client.write(frame(CONT, pieces[-1]))
        assert json.loads(await client.text())["requestId"] == "é€"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(frame(TEXT, b"\xff"), 1007, id="not UTF-8"),
        pytest.param(
            frame(TEXT, b'{"type":"ping","x":"\xc3"}'),
            1007,
            id="half a character at the end",
        ),
        pytest.param(frame(TEXT, b"\xed\xa0\x80"), 1007, id="a surrogate"),
        pytest.param(
            frame(TEXT, b"\xc3", fin=False) + frame(CONT, b"\x28"),
            1007,
            id="half a character in a fragment",
        ),
        pytest.param(frame(TEXT, b"x", masked=False), 1002, id="not masked"),
        pytest.param(frame(CONT, b"x"), 1002, id="a continuation of nothing"),
        pytest.param(
            frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"),
            1002,
            id="a text in a fragmented text",
        ),
        pytest.param(frame(3, b"x"), 1002, id="a reserved opcode"),
        pytest.param(frame(PING, b"x" * 126), 1002, id="a long ping"),
        pytest.param(frame(PING, b"x", fin=False), 1002, id="a fragmented ping"),
        pytest.param(bytes([0xC1, 0x80, 0, 0, 0, 0]), 1002, id="a reserved bit"),
    ],
)
async def test_broken_frames_close_with_the_code_of_the_rfc(
    boot: Boot, data: bytes, code: int
) -> None:
    brief = {"abort_s": 0.1}
    async with boot(limits=brief) as server, raw(server) as client:
        client.write(data)
        assert await client.close_code() == code
        await client.ended()
        await eventually(lambda: not server.daemon.state.connections)


async def test_binary_and_empty_frames_are_errors_and_no_more(boot: Boot) -> None:
    async with boot() as server, raw(server) as client:
        for data in (b"", b"\xff\x00", PING_TEXT.encode()):
            client.write(frame(BINARY, data))
            assert b"Invalid message format" in await client.text()
        client.send("")
        assert b"Invalid message format" in await client.text()
        client.send(PING_TEXT)
        assert b"pong" in await client.text()


async def test_with_deflate_sizes_are_those_of_the_inflated_message(boot: Boot) -> None:
    settings = {"permessage_deflate": True}
    async with boot(server=settings) as server:
        async with connect(server.url, compression="deflate", max_size=None) as socket:
            device = Device(socket)
            await device.receive()
            await device.auth(mint(ALICE))
            assert (await device.ask(padded(1_048_576)))["type"] == "pong"
            assert told(await device.ask(padded(1_048_577))) == TOO_LARGE
        headers = "Sec-WebSocket-Extensions: permessage-deflate\r\n"
        async with raw(server, headers) as client:
            squeeze = zlib.compressobj(wbits=-12)
            bomb = squeeze.compress(b"a" * 50_000_000)
            bomb += squeeze.flush(zlib.Z_SYNC_FLUSH)
            one = bytearray(frame(TEXT, bomb[:-4]))
            one[0] |= 0x40
            client.write(bytes(one))
            assert await client.close_code() == 1009


# Devices per user.


async def answers(server: RunningDaemon, client: Raw) -> bytes:
    client.send(json.dumps({"type": "auth", "token": mint(ALICE), "requestId": "r"}))
    return await client.text()


async def test_of_26_racing_devices_exactly_20_get_in(boot: Boot) -> None:
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(boot()) for _ in range(2)]
        clients = [
            await stack.enter_async_context(raw(servers[n % 2])) for n in range(26)
        ]
        got = await asyncio.gather(
            *(answers(servers[n % 2], client) for n, client in enumerate(clients))
        )
        good = [c for c, a in zip(clients, got, strict=True) if b"_success" in a]
        bad = [c for c in clients if c not in good]
        assert len(good) == 20
        refusal = json.loads(next(a for a in got if b"_success" not in a))
        assert told(refusal) == (
            "Maximum connections exceeded for this user",
            "TOO_MANY_DEVICES",
        )
        assert refusal["requestId"] == "r"
        for client in bad:
            assert await client.close_code() == 4429
        # At the limit a device that has a place may renew its token.
        for client in good:
            assert b"auth_success" in await answers(servers[0], client)
        async with servers[0].device(BOB) as bob:
            assert bob.user_id == BOB
        good[0].writer.transport.abort()
        await eventually(lambda: sum(h.daemon.hub.count(ALICE) for h in servers) == 19)
        async with servers[1].device(ALICE) as device:
            assert device.user_id == ALICE


# The door.


def forwarded(address: str) -> str:
    return f"X-Forwarded-For: {address}\r\n"


async def refused(server: RunningDaemon, headers: str = "") -> bytes:
    _reader, writer, answer = await handshake(server, headers)
    writer.transport.abort()
    assert answer.startswith(b"HTTP/1.1 503"), answer
    assert b"Retry-After: 5\r\n" in answer
    return answer


async def test_the_door_counts_all_and_those_not_authenticated(boot: Boot) -> None:
    limits = {"unauthenticated": 2, "connections": 3}
    async with boot(limits=limits) as server:
        async with raw(server) as first, raw(server):
            await refused(server)
            first.send(json.dumps({"type": "auth", "token": mint(ALICE)}))
            await first.text()
            async with raw(server):
                await refused(server)
                figure = server.figure
                assert figure("evictions_total", reason="unauthenticated") == 1
                assert figure("evictions_total", reason="connections") == 1
        await eventually(lambda: server.daemon.state.limiter.total == 0)
        assert server.daemon.state.limiter.unauthenticated == 0
        async with raw(server):
            pass


async def test_addresses_are_counted_as_a_trusted_proxy_names_them(boot: Boot) -> None:
    limits = {"per_address": 2, "accepts_per_second": 1000}
    proxied = {"trusted_proxies": ["127.0.0.1"]}
    async with boot(limits=limits, server=proxied) as server:
        one, two = forwarded("192.0.2.1"), forwarded("192.0.2.2")
        async with raw(server, one), raw(server, one), raw(server, two):
            await refused(server, one)
            await refused(server, forwarded("6.6.6.6, 192.0.2.1"))
            async with raw(server, two):
                await refused(server, two)
        await eventually(lambda: server.daemon.state.limiter.total == 0)
        async with raw(server, one):
            pass
    async with boot(limits=limits) as server:
        one, two = forwarded("192.0.2.1"), forwarded("192.0.2.2")
        async with raw(server, one), raw(server, two):
            await refused(server, forwarded("192.0.2.3"))


async def test_the_accept_rate_is_bounded(boot: Boot) -> None:

    async def accepted(server: RunningDaemon) -> bool:
        _reader, writer, answer = await handshake(server)
        writer.transport.abort()
        return answer.startswith(b"HTTP/1.1 101")

    async with boot(limits={"accepts_per_second": 3}) as server:
        async with raw(server), raw(server), raw(server):
            await refused(server)
            status, _, _ = await server.get("/health")
            assert status == 200
        await eventually(lambda: accepted(server))


# Time.


async def test_auth_timeout_is_not_put_off_by_traffic(boot: Boot) -> None:
    auth = {"auth_timeout_ms": 1_000}
    async with boot(auth=auth) as server, raw(server) as client:
        said = []
        client.send('{"type":"ping"}')
        while b"timeout" not in (text := await client.text()):
            said.append(text)
            await asyncio.sleep(0.05)
            client.send('{"type":"ping"}')
        assert json.loads(text)["code"] == "AUTH_REQUIRED"
        assert await client.close_code() == 4408
        assert len(said) > 3


async def test_who_does_not_answer_pings_is_cut(boot: Boot) -> None:
    limits = {"ping_interval_s": 0.3, "ping_timeout_s": 1.5}
    async with (
        boot(limits=limits) as server,
        server.device(ALICE) as honest,
        raw(server) as mute,
    ):
        # The raw client reads, and never answers.
        assert await mute.close_code() is None
        assert server.figure("evictions_total", reason="ping_timeout") == 1
        assert await honest.barrier() == []
        assert server.daemon.hub.count(ALICE) == 1


async def test_who_stops_reading_is_cut_by_time(
    boot: Boot, redis_server: RedisServer
) -> None:
    limits = {"stalled_s": 2.0, "abort_s": 0.3, "unsent_bytes": 64 * 1_048_576}
    async with (
        boot(limits=limits) as server,
        server.device(ALICE) as honest,
        raw(server, receive_buffer=2_048) as stuck,
    ):
        stuck.send(json.dumps({"type": "auth", "token": mint(ALICE)}))
        await stuck.text()
        stuck.stop_reading()
        event = {"event": "note_created", "noteData": {"x": "a" * 1_000_000}}
        for _ in range(8):
            await publish(redis_server.url, ALICE, event)
            await honest.receive()
        await eventually(lambda: server.daemon.hub.count(ALICE) == 1)
        assert server.figure("evictions_total", reason="stalled") == 1
        closed = server.figure("closes_total", code="1013", reason="stalled")
        assert closed == 1
        await eventually(lambda: len(server.daemon.state.connections) == 1)


async def test_unsent_bytes_are_bounded(boot: Boot, redis_server: RedisServer) -> None:
    async with (
        boot() as server,
        server.device(ALICE) as honest,
        raw(server, receive_buffer=2_048) as stuck,
    ):
        stuck.send(json.dumps({"type": "auth", "token": mint(ALICE)}))
        await stuck.text()
        stuck.stop_reading()
        event = {"event": "note_created", "noteData": {"x": "a" * 1_000_000}}
        for _ in range(16):
            await publish(redis_server.url, ALICE, event)
            await honest.receive()
        await eventually(lambda: server.daemon.hub.count(ALICE) == 1)
        assert server.figure("evictions_total", reason="unsent_bytes") == 1
        await eventually(lambda: len(server.daemon.state.connections) == 1)


@pytest.mark.parametrize("step_s", [-3600.0, 3600.0])
async def test_a_step_of_the_clock_neither_locks_out_nor_lets_in(
    boot: Boot, step_s: float
) -> None:
    clock = SteppingClock()
    limits = {"rate_messages": 5, "rate_window_ms": 2_000}
    async with (
        boot(limits=limits, wall=clock) as server,
        server.device(ALICE) as device,
    ):
        await device.barrier()
        clock.step_s = step_s
        for _ in range(3):
            assert (await device.ask({"type": "ping"}))["type"] == "pong"
        refused = await device.ask({"type": "ping"})
        assert refused["code"] == "RATE_LIMITED"
        assert 0 < refused["retryAfterMs"] <= 2_000
        await asyncio.sleep(refused["retryAfterMs"] / 1000)
        assert (await device.ask({"type": "ping"}))["type"] == "pong"


class SteppingClock:
    """The system's clock, which an operator or NTP has set by `step_s`."""

    step_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.step_s
