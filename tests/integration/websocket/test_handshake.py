"""Spec section 1: who may open a WebSocket, and the answers to plain requests."""

import socket

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from tests.daemon import WITH_FAST_PATHS, Boot, RunningDaemon, eventually, raw_http
from typelets_ws.websocket.connection import Connection
from typelets_ws.websocket.timers import NEVER
from typelets_ws.wire.frames import PING

ORIGIN = "https://app.example.org"


async def status_for(server: RunningDaemon, origin: str | None) -> int:
    headers = {} if origin is None else {"Origin": origin}
    try:
        async with connect(server.url, additional_headers=headers):
            return 101
    except InvalidStatus as exc:
        return exc.response.status_code


async def test_origins_match_by_scheme_host_and_port(boot: Boot) -> None:
    settings = {"allowed_origins": [ORIGIN, "http://localhost:3000"]}
    async with boot(server=settings) as server:
        for origin in (
            None,
            ORIGIN,
            "http://localhost:3000",
            "https://APP.example.org",
            "HTTPS://app.example.org:443",
        ):
            assert await status_for(server, origin) == 101
        refused = [
            "null",
            "http://app.example.org",
            "https://app.example.org:444",
            "https://app.example.org/",
            "https://app.example.org.evil.example",
            "https://sub.app.example.org",
            "http://localhost:3001",
        ]
        for origin in refused:
            assert await status_for(server, origin) == 403, origin
        assert server.figure("security_events_total", kind="origin") == len(refused)
        lines = server.logged("origin_refused")
        assert lines[0]["security"] is True
        assert lines[0]["origin"] == ["null"]


async def test_origins_of_native_apps_can_be_listed(boot: Boot) -> None:
    native = ["null", "file://", "capacitor://localhost", "app://.",
              "chrome-extension://abc"]  # fmt: skip
    async with boot(server={"allowed_origins": native}) as server:
        for origin in native:
            assert await status_for(server, origin) == 101, origin
        assert await status_for(server, "tauri://localhost") == 403


@pytest.mark.parametrize(
    ("offered", "accepted"),
    [
        (["typelets.v1"], "typelets.v1"),
        (["graphql-ws", "typelets.v1"], "typelets.v1"),
        (["graphql-ws"], None),
    ],
)
async def test_the_subprotocol_is_accepted_when_offered(
    boot: Boot, offered: list[Subprotocol], accepted: str | None
) -> None:
    async with boot() as server, connect(server.url, subprotocols=offered) as client:
        assert client.subprotocol == accepted
        assert "connection_established" in str(await client.recv())


async def test_no_list_of_origins_allows_all(boot: Boot) -> None:
    async with boot() as server:
        assert await status_for(server, "https://anything.example") == 101


async def test_any_path_and_query_upgrades(boot: Boot) -> None:
    async with boot() as server:
        for path in ("", "ws", "a/b?token=x", "health/x"):
            async with connect(server.url + path) as socket_:
                assert "connection_established" in str(await socket_.recv())


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("GET /nothing HTTP/1.1", b"426"),
        ("POST /nothing HTTP/1.1\r\nContent-Length: 5", b"405"),
        ("PUT /health HTTP/1.1", b"405"),
        ("OPTIONS / HTTP/1.0", b"405"),
        ("GET /health HTTP/1.1", b"200"),
        ("GET /health HTTP/1.0", b"200"),
        ("GET /nothing HTTP/1.0", b"426"),
        ("GET / HTTP/2.0", b"400"),
        ("nonsense", b"400"),
        ("CPU iPhone OS 17_0 like Mac OS X", b"400"),
    ],
)
async def test_plain_requests_get_a_plain_answer(
    boot: Boot, request_line: str, status: bytes
) -> None:
    async with boot() as server:
        request = f"{request_line}\r\nHost: x\r\n\r\n"
        answer = await raw_http(server.daemon.port, request.encode())
        assert answer[9:12] == status
        head, _, body = answer.partition(b"\r\n\r\n")
        if status != b"200":
            assert body.count(b"\n") == 1
        assert (b"\r\nAllow: GET, HEAD\r\n" in head + b"\r\n") == (status == b"405")
        figure = server.figure("handshakes_total", status=status.decode())
        assert figure >= 1


@pytest.mark.parametrize("path", ["/health", "/websocket/status", "/nothing"])
async def test_head_is_answered_like_get_without_the_body(
    boot: Boot, path: str
) -> None:
    async with boot() as server:
        answers = [
            await raw_http(
                server.daemon.port, f"{method} {path} HTTP/1.1\r\n\r\n".encode()
            )
            for method in ("GET", "HEAD")
        ]
        (get, _, body), (head, _, nothing) = [a.partition(b"\r\n\r\n") for a in answers]
        assert body
        assert nothing == b""
        assert get.splitlines()[0] == head.splitlines()[0]
        length = f"Content-Length: {len(body)}".encode()
        assert length in get
        assert length in head


CHUNKED = "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    "rest",
    [
        "Content-Length: 5\r\n\r\nhello",
        "Content-Length: 5\r\n\r\n",
        "Content-Length: nonsense\r\n\r\n",
        CHUNKED,
        "\r\ntrailing bytes",
        "\r\n" + "GET /health HTTP/1.1\r\n\r\n" * 100,
        "\r\n" + "x" * 1_000_000,
    ],
)
@pytest.mark.parametrize("admin", [False, True])
async def test_a_request_with_anything_behind_it_is_answered(
    boot: Boot, rest: str, admin: bool
) -> None:
    async with boot() as server:
        port = server.daemon.admin_port if admin else server.daemon.port
        request = f"GET /health HTTP/1.1\r\nHost: x\r\n{rest}".encode()
        answer = await raw_http(port, request)
        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ("GET /health HTTP/1.1\r\nCookie: " + "c" * 16_000, b"200"),
        ("GET /health HTTP/1.1\r\nCookie: " + "c" * 16_384, b"431"),
        ("GET /health HTTP/1.1" + ("\r\nA: " + "b" * 8_000) * 8, b"200"),
        ("GET /health HTTP/1.1" + ("\r\nA: " + "b" * 8_000) * 9, b"431"),
        ("GET /health HTTP/1.1" + "\r\nA: b" * 200, b"431"),
        ("GET /" + "p" * 16_384 + " HTTP/1.1", b"414"),
    ],
)
async def test_long_headers_have_their_limits(
    boot: Boot, request_: str, status: bytes
) -> None:
    async with boot() as server:
        answer = await raw_http(server.daemon.port, f"{request_}\r\n\r\n".encode())
        assert answer[9:12] == status


async def test_long_cookies_do_not_hinder_an_upgrade(boot: Boot) -> None:
    headers = {"Cookie": "c" * 16_000}
    async with boot() as server, connect(server.url, additional_headers=headers) as ws:
        assert "connection_established" in str(await ws.recv())


async def test_compression_is_not_offered_unless_wished(boot: Boot) -> None:
    async with boot() as server, connect(server.url, compression="deflate") as socket_:
        assert socket_.protocol.extensions == []


async def test_with_compression_messages_arrive_whole(boot: Boot) -> None:
    settings = {"permessage_deflate": True}
    async with (
        boot(server=settings) as server,
        connect(server.url, compression="deflate") as socket_,
    ):
        names = [extension.name for extension in socket_.protocol.extensions]
        assert names == ["permessage-deflate"]
        assert "connection_established" in str(await socket_.recv())
        for _ in range(3):
            await socket_.send('{"type":"ping","requestId":"' + "a" * 60 + '"}')
            assert '"pong"' in str(await socket_.recv())


async def test_the_address_is_the_proxys_word_only_for_trusted_proxies(
    boot: Boot,
) -> None:
    async def tell_address(server: RunningDaemon, headers: dict[str, str]) -> str:
        before = len(server.logged("origin_refused"))
        with pytest.raises(InvalidStatus):
            await connect(
                server.url,
                additional_headers={"Origin": "https://x.example", **headers},
            )
        return str(server.logged("origin_refused")[before]["address"])

    origins = {"allowed_origins": [ORIGIN]}
    forwarded = {"X-Forwarded-For": "6.6.6.6, 192.0.2.7, 10.0.0.9"}
    async with boot(server=origins) as server:
        assert await tell_address(server, forwarded) == "127.0.0.1"
    trusting = {**origins, "trusted_proxies": ["127.0.0.0/8", "10.0.0.0/8"]}
    async with boot(server=trusting) as server:
        assert await tell_address(server, forwarded) == "192.0.2.7"
        assert await tell_address(server, {"X-Real-IP": "192.0.2.8"}) == "192.0.2.8"
        junk = {"X-Forwarded-For": "192.0.2.7, junk"}
        assert await tell_address(server, junk) == "127.0.0.1"
        assert await tell_address(server, {}) == "127.0.0.1"


async def test_a_request_that_never_ends_is_cut(boot: Boot) -> None:
    limits = {"handshake_s": 0.3}
    async with boot(limits=limits) as server:
        assert await raw_http(server.daemon.port, b"GET / HT") == b""


async def test_a_request_head_is_bounded(boot: Boot) -> None:
    async with boot() as server:
        long_line = b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n"
        assert (await raw_http(server.daemon.port, long_line))[9:12] == b"414"
        many = b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 300 + b"\r\n"
        assert (await raw_http(server.daemon.port, many))[9:12] == b"431"


async def test_a_port_in_use_is_an_error(boot: Boot) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"port = {port}.*in use"):
            async with boot(server={"port": port}):
                raise AssertionError("it listens on a port that is in use")


@pytest.mark.parametrize("path", ["/health", "/ready?x", "/websocket/status"])
async def test_a_path_of_the_daemon_is_no_websocket(boot: Boot, path: str) -> None:
    async with boot() as server:
        with pytest.raises(InvalidStatus) as refused:
            await connect(server.url + path[1:])
        assert refused.value.response.status_code == 200
        assert not server.figure("handshakes_total", status="101")


@WITH_FAST_PATHS
async def test_what_is_common_needs_no_protocol_of_the_library(boot: Boot) -> None:
    """It is 2 KB of each connection; a message in two frames needs it."""
    async with boot() as server, server.device("alice") as device:
        (connection,) = server.daemon.state.connections
        assert isinstance(connection, Connection)

        def made() -> bool:
            return connection._inbound._reader is not None

        await device.barrier()
        connection._timers._pinged_at = server.daemon.state.monotonic()
        connection._writer.queue(PING)
        await eventually(lambda: connection._timers._pinged_at == NEVER)
        assert not made()
        await device.socket.send(['{"type":', '"ping"}'])
        assert (await device.receive())["type"] == "pong"
        assert made()
        assert await device.barrier() == []
