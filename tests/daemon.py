"""A whole daemon in the test's own loop, and devices that speak with it.

`daemon` boots the composition root on free ports, with deadlines short enough
for tests; `Device` is `testing.DeviceClient`.
Waiting is done by protocol: `barrier` sends a ping and returns what came before
its pong, and `eventually` polls what no protocol tells.
"""

import asyncio
import io
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Final

import msgspec
import pytest
import redis.asyncio as redis_client

from tests.postgres import Database
from tests.redis import TIMEOUTS, RedisServer
from tests.tokens import mint, public_pem
from tests.within import PATIENCE_S
from typelets_ws import fastpaths, testing
from typelets_ws.app import Daemon, running
from typelets_ws.config.model import Config
from typelets_ws.telemetry.log import Output
from typelets_ws.websocket.http import Page

MOST_SHOWN = 40
IMPATIENT = {
    "probe_timeout_s": 0.5, "connect_timeout_s": 1.0, "command_timeout_s": 1.0,
}  # fmt: skip
"""Settings of `redis` by which a second without an answer is noticed."""
PATIENT: Final[dict[str, dict[str, Any]]] = {
    "redis": {
        "probe_timeout_s": PATIENCE_S,
        "connect_timeout_s": PATIENCE_S,
        "command_timeout_s": PATIENCE_S,
    },
    "database": {"statement_timeout_ms": 30_000, "wait_ms": 30_000},
}
"""A machine without a free core may answer late: no test fails for that. A test of a
silent Redis is `IMPATIENT`."""
DEFAULT_DATABASE: Final = {
    name: getattr(Config().database, name) for name in PATIENT["database"]
}
"""For daemons that are under attack or meet faults."""
Device = testing.DeviceClient
Message = testing.Message
Boot = Callable[..., AbstractAsyncContextManager["RunningDaemon"]]


def configured(**sections: Mapping[str, Any]) -> Config:
    """A configuration for tests, with the given keys of each section changed."""
    defaults: dict[str, dict[str, Any]] = {
        "server": {"port": 0, "drain_seconds": 0.0},
        "admin": {"port": 0},
        "auth": {"jwt_key": public_pem()},
        "limits": {
            "accepts_per_second": 100_000,
            "per_address": 20_000,
            "refused_tokens": 1_000,
        },
        "redis": {
            **PATIENT["redis"],
            "probe_interval_s": 0.3,
            "unsubscribe_delay_s": 0.2,
            "resync_spread_s": 0.1,
        },
        "database": {**PATIENT["database"], "pool_min": 1},
        # A device would be sent the rows that a test has just made; tests of recovery
        # switch it on.
        "recovery": {"enabled": False},
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
        token = None if user is None else mint(user, **claims)
        async with testing.connect(self.url, timeout_s=PATIENCE_S) as device:
            if token is not None:
                await device.auth(token)
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
    output = Output(stream, time.time, level=level, form="json", burst=50)
    config = configured(**sections)
    async with running(config, log=output.logger(), pages=pages, wall=wall) as built:
        server = RunningDaemon(built, stream)
        await eventually(lambda: not built.health.unready_reasons())
        try:
            yield server
        except BaseException:
            # pytest shows it with the failure.
            print("unready:", *built.health.unready_reasons(), sep="\n  ")
            print("pool:", dict(built.store._pool.stats()))
            print("log:", *server.log[-MOST_SHOWN:], sep="\n  ")
            raise


WITH_FAST_PATHS = pytest.mark.parametrize("fast_paths", ["all"], indirect=True)
"""For an integration test of what only a fast path does."""


@pytest.fixture
def fast_paths(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The fast paths of daemons and stores: the test's, or the environment's."""
    chosen = str(getattr(request, "param", os.environ.get(fastpaths.VARIABLE, "all")))
    monkeypatch.setenv(fastpaths.VARIABLE, chosen)
    return chosen


@pytest.fixture
def boot(redis_server: RedisServer, database: Database, fast_paths: str) -> Boot:
    """`daemon` with its Redis and Postgres; call it once for each daemon."""
    return partial(daemon, redis_server.url, database.url)


def exceptions(lines: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The log lines that tell of an exception: no fault from outside may cause one."""
    return [line for line in lines if "raised" in line]


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
    async with redis_client.Redis.from_url(redis_url, **TIMEOUTS) as link:
        heard = await link.publish(f"typelets:user:{user}", payload)
    return int(heard)
