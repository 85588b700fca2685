"""TLS to one server: what is cancelled is closed at once, and a context is shared."""

import asyncio
import logging
import os
import shutil
from collections.abc import Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import issue
from tests.integration.bus.running_bus import until
from tests.redis import RedisServer
from tests.redis_topologies import Secured
from typelets_ws.publisher import AsyncPublisher
from typelets_ws.redis.connection import RedisConnection
from typelets_ws.redis.connector import RedisConnector, close_connection

NOTE = "0b5f3c1e-6d1f-4b9e-9a55-6a7f1f0c1d2e"


class Silent(RedisConnection[object]):
    def received(self, reply: Any) -> None:
        """Take no reply."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def secured(place: Path) -> Secured:
    return Secured(place, {}, {})


@pytest.fixture(scope="module")
def server(place: Path, secured: Secured) -> Iterator[RedisServer]:
    server = RedisServer(place)
    secured.server(server)
    server.start()
    yield server
    server.kill()


def url_of(server: RedisServer, authority: Path) -> str:
    login = "ops:ops@127.0.0.1"
    return f"rediss://{login}:{server.port}/0?ssl_ca_certs={authority}"


def open_sockets() -> int:
    """Those of this process."""
    found = 0
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found += os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:")
    return found


async def cancelled_after(steps: int, work: Coroutine[Any, Any, None]) -> None:
    """Run `work` for some iterations of the loop and a part of 10 ms."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(work)
        for _ in range(steps):
            await asyncio.sleep(0)
        await asyncio.sleep(0.0005 * (steps % 20))
        task.cancel()


async def test_a_cancelled_handshake_closes_its_socket_at_once(
    server: RedisServer,
    secured: Secured,
    loop_factory: object,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A polite close waits 30 s for the peer, and uvloop logs an error then."""
    connector = RedisConnector(url_of(server, secured.authority), 5.0)
    await close_connection(await connector.open(Silent(5.0)))
    await asyncio.sleep(0)
    before = open_sockets()

    async def connected() -> None:
        await close_connection(await connector.open(Silent(5.0)))

    for steps in range(60):
        await cancelled_after(steps, connected())
    await until(lambda: open_sockets() <= before)
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


async def test_a_cancelled_publisher_closes_its_sockets(
    server: RedisServer,
    secured: Secured,
    redis_server: RedisServer,
    loop_factory: object,
) -> None:
    """A request that is given up, in each of the steps of its publication."""
    before = open_sockets()
    for url in (redis_server.url, url_of(server, secured.authority)):
        for steps in range(0, 60, 2):

            async def request(url: str = url) -> None:
                async with AsyncPublisher(url, timeout_s=5.0) as publisher:
                    await publisher.notify_note_deleted("ann", NOTE)

            await cancelled_after(steps, request())
    await until(lambda: open_sockets() <= before)


async def test_a_context_is_shared_until_its_files_change(
    server: RedisServer, secured: Secured, tmp_path: Path
) -> None:
    authority = tmp_path / "authority.pem"
    shutil.copy(secured.authority, authority)
    connector = RedisConnector(url_of(server, authority), 5.0)

    async def context() -> object:
        connection: Any = await connector.open(Silent(5.0))
        found = connection.transport.get_extra_info("ssl_object").context
        await close_connection(connection)
        return found

    first = await context()
    assert await context() is first
    issue(tmp_path, "other")
    os.replace(tmp_path / "other.pem", authority)
    with pytest.raises(Exception, match="CERTIFICATE_VERIFY_FAILED"):
        await context()
    shutil.copy(secured.authority, authority)
    assert await context() is not first
