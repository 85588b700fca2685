"""SIGHUP: what changes at once for who is connected, what needs a restart, and that
a file that is refused changes nothing."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.daemon import Device, eventually
from tests.e2e.crowd import crowd
from tests.e2e.supervisor import Process, Supervisor, supervised
from tests.postgres import Database
from tests.redis import RedisServer
from tests.tokens import key_pair, mint, public_pem


class Running:
    """A daemon whose file can be changed."""

    def __init__(self, supervisor: Supervisor, process: Process) -> None:
        self.supervisor = supervisor
        self.process = process

    async def change(self, **sections: Any) -> None:
        """Write the file and have it read."""
        self.supervisor.write(**sections)
        told = self.process.said("READY=1")
        self.process.send(signal.SIGHUP)
        await self.process.heard("READY=1", told + 1)

    async def device(self, socket: Any, user: str = "alice") -> Device:
        device = Device(socket)
        await device.receive()
        assert (await device.auth(mint(user)))["type"] == "auth_success"
        return device


@asynccontextmanager
async def reloading(
    redis_server: RedisServer, database: Database, **sections: Any
) -> AsyncIterator[Running]:
    """A daemon that gets SIGTERM at the end and stops without an error."""
    with supervised(redis_server.url, database.url, **sections) as supervisor:
        process = supervisor.start()
        await process.heard("READY=1")
        yield Running(supervisor, process)
        process.send(signal.SIGTERM)
        assert await process.ended() == 0, process.text


async def test_a_reload_under_load_changes_limits_and_drops_no_one(
    redis_server: RedisServer, database: Database
) -> None:

    async with reloading(redis_server, database) as running:
        tokens = [mint(f"user_{n}", expires_in=600) for n in range(100)]
        port = running.supervisor.port
        async with (
            crowd(port, tokens, 1_000) as devices,
            connect(running.supervisor.url) as socket,
        ):
            device = await running.device(socket)
            await eventually(lambda: devices.authenticated == 1_000)
            for number in range(5):
                await running.change(limits={"rate_messages": 1_000 + number})
            await running.change(limits={"rate_messages": 2, "devices_per_user": 1})
            # Counted afresh: two are served, the third is refused, no device dropped.
            answers = [await device.ask({"type": "ping"}) for _ in range(3)]
            assert [a["type"] for a in answers] == ["pong", "pong", "error"]
            assert answers[2]["code"] == "RATE_LIMITED"
            assert devices.authenticated == 1_000
            assert not devices.closes
            assert not devices.trouble
            # A new device is one too many; the connected one stays.
            async with connect(running.supervisor.url) as late:
                late_device = Device(late)
                await late_device.receive()
                await late_device.send({"type": "auth", "token": mint("alice")})
                assert await late_device.closed() == 4429
            assert len(running.process.logged("reloaded")) == 6


async def test_every_part_goes_by_the_new_settings(
    redis_server: RedisServer, database: Database
) -> None:

    async with reloading(redis_server, database) as running:
        user = database.add_user("alice")
        note = database.add_note(user)
        url = running.supervisor.url
        update = {"type": "note_update", "noteId": note, "changes": {"title": "plain"}}
        async with connect(url) as socket:
            device = await running.device(socket)
            assert (await device.ask(update))["type"] == "note_update_success"
            long = {"type": "ping", "padding": "p" * 500}
            assert (await device.ask(long))["type"] == "pong"

            await running.change(
                messages={"require_encrypted": True},
                limits={"message_bytes": 400, "unread_bytes": 1_000},
                server={
                    "allowed_origins": ["https://app.example.com"],
                    "status_token": "letmein",
                },
                log={"level": "error"},
            )
            assert (await device.ask(update))["code"] == "INVALID_FIELD"
            assert (await device.ask(long))["code"] == "MESSAGE_TOO_LARGE"
            with pytest.raises(InvalidStatus, match="403"):
                await connect(url, origin="https://evil.example")  # type: ignore[arg-type]
            assert b"alice" in await status(running.supervisor.port, "letmein")
            assert b"alice" not in await status(running.supervisor.port, "wrong")
            # Level error does not log it.
            assert not running.process.logged("origin_refused")

            await running.change(
                messages={"require_signed_messages": True},
                server={"allowed_origins": []},
                log={"level": "info"},
            )
            assert (await device.ask(update))["code"] == "SIGNATURE_REJECTED"
            async with connect(url, origin="https://evil.example"):  # type: ignore[arg-type]
                pass
            await device.send({"type": "ping", "padding": "p" * 2_000})
            assert await device.closed() == 1009


async def status(port: int, token: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"GET /websocket/status HTTP/1.1\r\nHost: x\r\n"
        b"Authorization: Bearer %s\r\n\r\n" % token.encode()
    )
    try:
        return await reader.read()
    finally:
        writer.close()


async def test_another_key_holds_for_the_next_token(
    redis_server: RedisServer, database: Database
) -> None:

    async with reloading(redis_server, database) as running:
        other = key_pair("another")
        async with connect(running.supervisor.url) as socket:
            device = await running.device(socket)
            await running.change(auth={"jwt_key": public_pem(other)})
            answer = await device.auth(mint("alice", key=other))
            assert answer["type"] == "auth_success"
            assert (await device.auth(mint("alice")))["type"] == "auth_failed"


async def test_what_needs_a_restart_is_named_and_stays(
    redis_server: RedisServer, database: Database
) -> None:

    async with reloading(redis_server, database) as running:
        before = running.supervisor.url
        await running.change(
            server={"port": 1, "tls_certificate": "a.pem", "tls_key": "b.pem"},
            redis={"url": "redis://127.0.0.1:1/0"},
            limits={"rate_messages": 1},
        )
        (line,) = running.process.logged("needs_restart")
        assert line["keys"] == [
            "server.port",
            "server.tls_certificate",
            "server.tls_key",
            "redis.url",
        ]
        async with connect(before) as socket:
            device = await running.device(socket)
            assert (await device.ask({"type": "ping"}))["code"] == "RATE_LIMITED"


@pytest.mark.parametrize(
    "text",
    [
        '[limits]\nrate_messages = "MARKER"\n',
        "[auth]\njwt_key = 'MARKER'\n",
        "no TOML MARKER at all",
        None,
    ],
)
async def test_a_file_that_is_refused_changes_nothing(
    redis_server: RedisServer, database: Database, text: str | None
) -> None:

    async with reloading(redis_server, database) as running:
        path, process = running.supervisor.config, running.process
        async with connect(running.supervisor.url) as socket:
            device = await running.device(socket)
            if text is None:
                path.unlink()
            else:
                path.write_text(text)
            told = process.said("READY=1")
            process.send(signal.SIGHUP)
            await process.heard("READY=1", told + 1)
            (line,) = process.logged("reload_refused")
            assert str(path) in line["text"]
            if "jwt_key" in (text or ""):
                assert "MARKER" not in process.text
            assert not process.logged("reloaded")
            name = "typelets_ws_config_last_reload_successful"
            assert running.supervisor.figures()[name] == 0
            running.supervisor.write()
            process.send(signal.SIGHUP)
            await process.heard("READY=1", told + 2)
            assert running.supervisor.figures()[name] == 1
            assert (await device.ask({"type": "ping"}))["type"] == "pong"
