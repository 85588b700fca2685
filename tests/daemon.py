"""A whole daemon in the test's own loop, and devices that speak with it.

`daemon` boots the composition root on free ports, with deadlines short enough
for tests; `Device` is websockets' own client plus the few words of the protocol.
Waiting is done by protocol: `barrier` sends a ping and returns what came before
its pong, and `eventually` polls what no protocol tells.
"""

import asyncio
import base64
import hashlib
import hmac
import io
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import msgspec
import pytest
import redis.asyncio as redis_client
import uvloop
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.postgres import Database
from tests.redis import RedisServer
from tests.tokens import mint, public_pem
from typelets_ws.app import Daemon, running
from typelets_ws.config.model import Config, Log
from typelets_ws.telemetry.log import Output
from typelets_ws.websocket.http import Page

PATIENCE_S = 10.0
Message = dict[str, Any]
Boot = Callable[..., AbstractAsyncContextManager["RunningDaemon"]]


def run(scenario: Coroutine[Any, Any, None]) -> None:
    """Run a scenario on the loop that production uses."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario)


def configured(**sections: Mapping[str, Any]) -> Config:
    """A configuration for tests, with the given keys of each section changed."""
    defaults: dict[str, dict[str, Any]] = {
        "server": {"port": 0, "drain_seconds": 0.0},
        "admin": {"port": 0},
        "auth": {"jwt_key": public_pem()},
        "limits": {"accepts_per_second": 100_000, "per_address": 20_000},
        "redis": {
            "probe_interval_s": 0.3,
            "probe_timeout_s": 0.5,
            "connect_timeout_s": 1.0,
            "command_timeout_s": 1.0,
            "unsubscribe_delay_s": 0.2,
            "resync_spread_s": 0.1,
        },
        "database": {"statement_timeout_ms": 1_000, "wait_ms": 1_000},
    }
    for section, keys in sections.items():
        defaults.setdefault(section, {}).update(keys)
    return msgspec.convert(defaults, Config)


class RunningDaemon:
    """A running daemon with its log and its address."""

    def __init__(self, daemon: Daemon, log: io.StringIO) -> None:
        self.daemon = daemon
        self._log = log

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.daemon.port}/"

    @property
    def log(self) -> list[Message]:
        """The lines so far."""
        return [json.loads(line) for line in self._log.getvalue().splitlines()]

    def logged(self, event: str) -> list[Message]:
        return [line for line in self.log if line["event"] == event]

    def figure(self, name: str, **labels: str) -> float:
        """The value of a metric, 0 when it was never touched."""
        value = self.daemon.metrics.registry.get_sample_value(
            f"typelets_ws_{name}", labels
        )
        return value or 0.0

    @asynccontextmanager
    async def device(
        self, user: str | None = None, **claims: Any
    ) -> AsyncIterator["Device"]:
        """A connected device, authenticated when `user` is given."""
        async with connect(
            self.url, compression=None, max_size=None, max_queue=None
        ) as socket:
            device = Device(socket)
            assert (await device.receive())["type"] == "connection_established"
            if user is not None:
                await device.auth(mint(user, **claims))
            yield device

    async def get(
        self,
        path: str,
        *,
        admin: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        """A plain GET: status, headers (lower case), body."""
        port = self.daemon.admin_port if admin else self.daemon.port
        lines = [f"GET {path} HTTP/1.1", "Host: localhost"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        answer = await raw_http(port, "\r\n".join([*lines, "", ""]).encode())
        head, _, body = answer.partition(b"\r\n\r\n")
        status, *fields = head.decode().split("\r\n")
        pairs = (field.split(": ", 1) for field in fields)
        return (
            int(status.split()[1]),
            {name.lower(): value for name, value in pairs},
            body,
        )


async def raw_http(port: int, request: bytes) -> bytes:
    """Send bytes, and return all that comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    async with asyncio.timeout(PATIENCE_S):
        answer = await reader.read()
    writer.close()
    return answer


class Device:
    """A client: messages as dicts, in the order they come."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.user_id = self.secret = self.connection_id = ""
        self._numbers = itertools.count(1)

    async def send(self, message: Mapping[str, Any] | str | bytes) -> None:
        data = message if isinstance(message, str | bytes) else json.dumps(message)
        await self.socket.send(data)

    async def receive_raw(self) -> str:
        async with asyncio.timeout(PATIENCE_S):
            data = await self.socket.recv()
        assert isinstance(data, str)
        return data

    async def receive(self) -> Message:
        message = json.loads(await self.receive_raw())
        assert isinstance(message, dict)
        return message

    async def next_of(self, wire_type: str) -> Message:
        """The next message of this type; those before it are passed over."""
        while (message := await self.receive())["type"] != wire_type:
            pass
        return message

    async def ask(self, message: Mapping[str, Any] | str | bytes) -> Message:
        """Send, and return the next message."""
        await self.send(message)
        return await self.receive()

    async def auth(self, token: str) -> Message:
        """Authenticate; returns the answer, whatever it is."""
        answer = await self.ask({"type": "auth", "token": token})
        if answer["type"] == "auth_success":
            self.user_id = answer["userId"]
            self.secret = answer["sessionSecret"]
            self.connection_id = answer["connectionId"]
        return answer

    async def barrier(self) -> list[Message]:
        """All messages up to the pong of a ping sent now, without the pong."""
        mark = f"barrier-{next(self._numbers)}"
        await self.send({"type": "ping", "requestId": mark})
        found: list[Message] = []
        while True:
            message = await self.receive()
            if message["type"] == "pong" and message.get("requestId") == mark:
                return found
            found.append(message)

    async def closed(self) -> int | None:
        """Wait for the close; returns the code (messages before it are dropped)."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                while True:
                    await self.socket.recv()
            except ConnectionClosed as exc:
                return exc.rcvd.code if exc.rcvd else None

    def signed(self, payload: Mapping[str, Any], **changed: Any) -> Message:
        """The payload in an envelope, signed as the web client does."""
        timestamp = changed.get("timestamp", int(time.time() * 1000))
        nonce = changed.get("nonce", f"nonce-{next(self._numbers)}-{id(self)}")
        body = {"payload": payload, "timestamp": timestamp, "nonce": nonce}
        text = json.dumps(body, separators=(",", ":"), ensure_ascii=False)
        secret = changed.get("secret", self.secret)
        mac = hmac.new(secret.encode(), text.encode(), hashlib.sha256).digest()
        return {**body, "signature": base64.b64encode(mac).decode(), **changed}


@asynccontextmanager
async def daemon(
    redis_url: str,
    database_url: str,
    *,
    pages: Mapping[str, Page] | None = None,
    wall: Callable[[], float] = time.time,
    **sections: Mapping[str, Any],
) -> AsyncIterator[RunningDaemon]:
    """A daemon that is ready, on free ports; see `configured` for `sections`.

    `wall` is what it takes for the system's clock.
    """
    sections["redis"] = {"url": redis_url, **sections.get("redis", {})}
    sections["database"] = {"url": database_url, **sections.get("database", {})}
    stream = io.StringIO()
    level = sections.get("log", {}).get("level", "info")
    output = Output(Log(level=level, format="json"), stream, time.time)
    config = configured(**sections)
    async with running(config, log=output.logger(), pages=pages, wall=wall) as built:
        house = RunningDaemon(built, stream)
        await eventually(lambda: not built.unready_reasons())
        yield house


@pytest.fixture
def boot(redis_server: RedisServer, database: Database) -> Boot:
    """`daemon` with its Redis and Postgres; call it once for each daemon."""
    return partial(daemon, redis_server.url, database.url)


async def eventually(
    condition: Callable[[], bool | Awaitable[bool]], patience: float = PATIENCE_S
) -> None:
    """Return as soon as the condition holds; fail when it does not in time (s)."""
    end = time.monotonic() + patience
    while True:
        held = condition()
        if held is True or (held is not False and await held):
            return
        assert time.monotonic() < end, "it did not come to pass in time"
        await asyncio.sleep(0.01)


async def publish(redis_url: str, user: str, event: Mapping[str, Any] | bytes) -> int:
    """Publish as the REST service does; returns how many processes heard it."""
    payload = event if isinstance(event, bytes) else json.dumps(event).encode()
    async with redis_client.Redis.from_url(redis_url) as link:
        heard = await link.publish(f"typelets:user:{user}", payload)
    return int(heard)
