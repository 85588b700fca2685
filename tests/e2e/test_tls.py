"""TLS by the daemon itself, and by a real nginx in front of it."""

import asyncio
import shutil
import signal
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption
from websockets.asyncio.client import ClientConnection, connect

from tests.certificates import issue
from tests.daemon import Device, eventually, publish
from tests.e2e.proxies import NGINX
from tests.e2e.supervisor import quiet_port, supervised
from tests.postgres import Database
from tests.programs import program
from tests.redis import RedisServer
from tests.tokens import mint
from tests.within import PATIENCE_S

NOTE = "5f0c4d1a-0000-4000-8000-000000000001"
DELETED = {"event": "note_deleted", "noteId": NOTE}
CLIENT = ("127.0.0.2", 0)
"""A client's address that is not the proxy's."""

SITE = """\
  upstream typelets_ws {{
    least_conn;
    server 127.0.0.1:{upstream};
  }}
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {place}/one.pem;
    ssl_certificate_key {place}/one.key;
    location / {{
      proxy_pass http://typelets_ws;
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection "upgrade";
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_read_timeout {timeout};
      proxy_send_timeout {timeout};
    }}
  }}
"""


def trusting(place: Path, *names: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    for name in names:
        context.load_verify_locations(place / f"{name}.pem")
    return context


def shown(socket: ClientConnection) -> str:
    """The name on the certificate that the server has shown."""
    certificate = socket.transport.get_extra_info("peercert")
    return str(dict(pair[0] for pair in certificate["subject"])["commonName"])


async def test_a_replaced_certificate_is_shown_to_who_comes_and_a_bad_one_to_no_one(
    redis_server: RedisServer, database: Database, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        issue(tmp_path, name)
    issue(tmp_path, "locked", BestAvailableEncryption(b"a password"))
    live, key = tmp_path / "live.pem", tmp_path / "live.key"

    def install(name: str, key_of: str | None = None) -> None:
        shutil.copy(tmp_path / f"{name}.pem", live)
        shutil.copy(tmp_path / f"{key_of or name}.key", key)

    install("one")
    context = trusting(tmp_path, "one", "two", "locked")

    with supervised(
        redis_server.url,
        database.url,
        server={"tls_certificate": str(live), "tls_key": str(key)},
    ) as supervisor:
        process = supervisor.start()
        await process.heard("READY=1")
        url = f"wss://localhost:{supervisor.port}/"

        async def reload() -> None:
            told = process.said("READY=1")
            process.send(signal.SIGHUP)
            await process.heard("READY=1", told + 1)

        async with connect(url, ssl=context) as old:
            device = Device(old)
            await device.receive()
            assert (await device.auth(mint("alice")))["type"] == "auth_success"
            assert shown(old) == "one"

            install("two")
            await reload()
            async with connect(url, ssl=context) as fresh:
                assert shown(fresh) == "two"
            # Without a server name, too.
            bare = ssl.create_default_context()
            bare.check_hostname = False
            bare.load_verify_locations(tmp_path / "two.pem")
            numeric = f"wss://127.0.0.1:{supervisor.port}/"
            async with connect(numeric, ssl=bare) as fresh:
                assert shown(fresh) == "two"

            def not_pem() -> None:
                live.write_text("MARKER, no certificate")

            spoils: list[Callable[[], None]] = [
                lambda: install("one", key_of="two"),
                lambda: install("locked"),
                not_pem,
                live.unlink,
            ]
            for spoil in spoils:
                spoil()
                # The whole reload is refused, not the certificate alone.
                supervisor.write(limits={"message_bytes": 100})
                refused = len(process.logged("reload_refused"))
                await reload()
                lines = process.logged("reload_refused")
                assert len(lines) == refused + 1
                assert "[server] tls_certificate" in lines[-1]["text"]
                async with connect(url, ssl=context) as fresh:
                    assert shown(fresh) == "two"
            big = {"type": "ping", "requestId": "x", "padding": "p" * 200}
            assert (await device.ask(big))["type"] == "pong"
            assert await publish(
                redis_server.url,
                "alice",
                DELETED,
            )
            assert (await device.receive())["type"] == "note_deleted_sync"
        assert "MARKER" not in process.text
        process.send(signal.SIGTERM)
        assert await process.ended() == 0


def hello(name: bytes) -> bytes:
    """The first bytes of a TLS client that asks for this server name."""
    context, out = ssl.create_default_context(), ssl.MemoryBIO()
    instead = "a" * len(name)
    client = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=instead)
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return out.read().replace(instead.encode(), name)


async def test_a_server_name_that_is_no_text_is_a_log_line(
    redis_server: RedisServer, database: Database, tmp_path: Path
) -> None:
    issue(tmp_path, "one")
    files = {
        "tls_certificate": str(tmp_path / "one.pem"),
        "tls_key": str(tmp_path / "one.key"),
    }
    with supervised(redis_server.url, database.url, server=files) as supervisor:
        process = supervisor.start()
        await process.heard("READY=1")
        for _ in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", supervisor.port)
            writer.write(hello(b"\xff\xfe.example"))
            await reader.read()
            writer.close()
        context = trusting(tmp_path, "one")
        async with connect(f"wss://localhost:{supervisor.port}/", ssl=context) as one:
            await one.recv()
        assert len(process.logged("exception_ignored")) == 3
        assert len(process.lines) == len(process.text.splitlines())


@contextmanager
def nginx(place: Path, upstream: int, timeout: str) -> Iterator[int]:
    """A real nginx with TLS in front of a port; gives its own port."""
    port = quiet_port()
    issue(place, "one")
    config = place / "nginx.conf"
    config.write_text(
        NGINX.format(
            place=place,
            site=SITE.format(
                place=place, upstream=upstream, port=port, timeout=timeout
            ),
        )
    )
    log = place / "error.log"
    command = [program("nginx"), "-p", str(place), "-e", str(log), "-c", str(config)]
    process = subprocess.Popen(command)
    try:
        yield port
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


async def test_behind_nginx_addresses_are_the_clients_and_idle_devices_stay(
    redis_server: RedisServer, database: Database, tmp_path: Path
) -> None:

    with (
        supervised(
            redis_server.url,
            database.url,
            server={
                "trusted_proxies": ["127.0.0.1"],
                "allowed_origins": ["https://app.example.com"],
            },
            limits={"ping_interval_s": 0.5},
        ) as supervisor,
        nginx(tmp_path, supervisor.port, "1s") as port,
    ):
        process = supervisor.start()
        await process.heard("READY=1")
        url, context = f"wss://localhost:{port}/", trusting(tmp_path, "one")

        async def served() -> bool:
            try:
                async with connect(url, ssl=context, open_timeout=2):
                    return True
            except (TimeoutError, OSError):
                return False

        await eventually(served)
        async with connect(url, ssl=context) as socket:
            device = Device(socket)
            await device.receive()
            await device.auth(mint("alice"))
            # Longer than the proxy's patience; our pings keep it up.
            await asyncio.sleep(2.5)
            assert await device.barrier() == []
            await publish(
                redis_server.url,
                "alice",
                DELETED,
            )
            assert (await device.receive())["type"] == "note_deleted_sync"

            # Limits count the client's address, not the proxy's: a forged one to the
            # left of what nginx adds counts for nothing.
            with pytest.raises(Exception, match="403"):
                await connect(
                    url,
                    ssl=context,
                    local_addr=CLIENT,
                    origin="https://evil.example",  # type: ignore[arg-type]
                    additional_headers={"X-Forwarded-For": "198.51.100.7"},
                )
            (refused,) = process.logged("origin_refused")
            assert refused["address"] == CLIENT[0]

            process.send(signal.SIGTERM)
            assert await device.closed() == 1012
        assert await process.ended() == 0
