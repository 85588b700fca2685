"""TLS without a proxy: sockets are counted and cut from the TCP accept on."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from tests.certificates import issue
from tests.daemon import Boot, RunningDaemon, eventually, raw_http
from tests.e2e.test_tls import trusting
from tests.within import within

pytestmark = pytest.mark.usefixtures("loop_factory")


@asynccontextmanager
async def secured(
    boot: Boot, place: Path, **limits: object
) -> AsyncIterator[RunningDaemon]:
    issue(place, "one")
    settings = {"tls_certificate": f"{place}/one.pem", "tls_key": f"{place}/one.key"}
    async with boot(server=settings, limits=limits) as server:
        yield server


@asynccontextmanager
async def silent(
    server: RunningDaemon, source: str = "127.0.0.2"
) -> AsyncIterator[socket.socket]:
    """A TCP connection that has said nothing."""
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setblocking(False)
        sock.bind((source, 0))
        await loop.sock_connect(sock, ("127.0.0.1", server.daemon.port))
        yield sock


@pytest.mark.parametrize("data", [b"", b"\x16\x03\x01\x02"])
async def test_a_silent_socket_is_counted_and_cut_in_time(
    boot: Boot, tmp_path: Path, data: bytes
) -> None:
    async with secured(boot, tmp_path, handshake_s=0.3) as server:
        loop = asyncio.get_running_loop()
        async with silent(server) as sock:
            await eventually(lambda: len(server.daemon.state.connections) == 1)
            sock.send(data)
            assert await loop.sock_recv(sock, 100) == b""
        reason = "handshake_timeout"
        assert server.figure("evictions_total", reason=reason) == 1
        assert server.logged("handshake_refused")[0]["reason"] == reason
        await eventually(lambda: not server.daemon.state.connections)


async def test_the_deadline_is_one_for_tls_and_the_request(
    boot: Boot, tmp_path: Path
) -> None:
    async with secured(boot, tmp_path, handshake_s=3.0) as server:
        context = trusting(tmp_path, "one")
        async with silent(server) as sock:
            await eventually(lambda: len(server.daemon.state.connections) == 1)
            with within(4):  # two deadlines would be 4.5 s
                await asyncio.sleep(1.5)  # of the deadline, before TLS begins
                reader, writer = await asyncio.open_connection(
                    sock=sock.dup(), ssl=context, server_hostname="localhost"
                )
                await reader.read()
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


async def test_what_is_no_tls_is_cut_and_counted(boot: Boot, tmp_path: Path) -> None:
    async with secured(boot, tmp_path) as server:
        port = server.daemon.port
        with suppress(ConnectionError):
            answer = await raw_http(port, b"GET /health HTTP/1.1\r\n\r\n")
            assert b"HTTP" not in answer
        await eventually(lambda: not server.daemon.state.connections)
        assert server.figure("handshakes_total", status="tls_failed") == 1


async def test_silent_sockets_yield_to_another_address(
    boot: Boot, tmp_path: Path
) -> None:
    async with (
        secured(boot, tmp_path, handshakes=20) as server,
        AsyncExitStack() as many,
    ):
        for _ in range(30):
            await many.enter_async_context(silent(server))
        url = f"wss://localhost:{server.daemon.port}/"
        context = trusting(tmp_path, "one")
        async with connect(url, ssl=context, compression=None) as device:
            assert "connection_established" in str(await device.recv())
        assert server.figure("evictions_total", reason="handshakes") >= 10


async def test_a_close_reaches_the_client_and_frees_the_socket(
    boot: Boot, tmp_path: Path
) -> None:
    async with secured(boot, tmp_path, rate_messages=3) as server:
        url = f"wss://localhost:{server.daemon.port}/"
        context = trusting(tmp_path, "one")
        async with connect(url, ssl=context, compression=None) as device:
            for _ in range(9):
                await device.send('{"type":"ping"}')
            await device.wait_closed()
            assert device.close_code == 4429
        await eventually(lambda: not server.daemon.state.connections)


async def test_a_socket_keeps_its_slot_after_its_tls_handshake(
    boot: Boot, tmp_path: Path
) -> None:
    async with secured(boot, tmp_path, handshakes=2) as server:
        context = trusting(tmp_path, "one")
        url = server.url.replace("ws://", "wss://")
        async with silent(server):
            await eventually(lambda: len(server.daemon.state.connections) == 1)
            for _ in range(3):
                client = await connect(url, ssl=context, server_hostname="localhost")
                await client.close()
        assert server.figure("evictions_total", reason="handshakes") == 0
        await eventually(lambda: not len(server.daemon.state._sockets))
