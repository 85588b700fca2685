"""Host names with several addresses: a dead one must not use up the timeout."""

import asyncio
import socket
from contextlib import AsyncExitStack

import pytest

from tests.integration.bus.running_bus import ready
from tests.redis import RedisServer
from tests.redis_topologies import Cluster, SentinelGroup
from tests.within import PATIENCE_S, within
from typelets_ws.publisher import AsyncPublisher
from typelets_ws.redis import dial as dial_module
from typelets_ws.redis.dial import dial, first_success

BLACK_HOLE = "10.255.255.1"
"""Private, and routed nowhere: SYN packets vanish, or are refused at once."""


@pytest.fixture
def dead_attempts(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """`redis.test` has an address that never answers, then that of the real server.

    The list receives each attempt to reach the first one.
    """
    attempts: list[object] = []
    real = socket.getaddrinfo

    def resolve(host: str, port: int, *args: object, **kwargs: object) -> object:
        if host != "redis.test":
            return real(host, port, *args, **kwargs)  # type: ignore[arg-type]
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (BLACK_HOLE, port)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    connect = dial_module._connect

    async def connect_or_hang(family: int, address: tuple[str, int]) -> socket.socket:
        if address[0] == BLACK_HOLE:
            attempts.append(address)
            await asyncio.Event().wait()
        return await connect(family, address)

    monkeypatch.setattr(dial_module, "_connect", connect_or_hang)
    return attempts


@pytest.fixture
def two_addresses(
    redis_server: RedisServer, dead_attempts: list[object]
) -> RedisServer:
    return redis_server


async def test_a_daemon_reaches_redis_behind_a_dead_address(
    two_addresses: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_on_the_loop(monkeypatch)
    url = f"redis://redis.test:{two_addresses.port}/0"
    async with AsyncExitStack() as stack:
        with within(1.5):
            one = await stack.enter_async_context(ready(url, connect_timeout_s=1.0))
        assert await one.bus.subscribe("ann")
        await one.barrier("ann")


async def test_a_publisher_reaches_redis_behind_a_dead_address(
    two_addresses: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also within one call: each address gets a share of its time."""
    resolve_on_the_loop(monkeypatch)
    url = f"redis://redis.test:{two_addresses.port}/0"
    async with AsyncPublisher(url, raise_errors=True, timeout_s=4.0) as publisher:
        await publisher.disconnect_user("ann")


@pytest.mark.usefixtures("steady_sentinel_group", "steady_cluster")
async def test_a_publisher_reaches_a_group_behind_dead_addresses(
    sentinel_group: SentinelGroup,
    cluster: Cluster,
    dead_attempts: list[object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sentinels and seeds with such host names; each connection tries both."""
    resolve_on_the_loop(monkeypatch)
    for group in (sentinel_group, cluster):
        dead_attempts.clear()
        url = group.url.replace("127.0.0.1", "redis.test")
        async with AsyncPublisher(
            url, raise_errors=True, timeout_s=PATIENCE_S
        ) as publisher:
            with within(5):
                await publisher.disconnect_user("ann")
        assert dead_attempts


async def test_each_of_many_addresses_gets_a_share(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def connect(family: int, address: tuple[str, int]) -> socket.socket:
        tried.append(address)
        if address != addresses[-1]:
            await asyncio.Event().wait()
        return socket.socket()

    tried: list[tuple[str, int]] = []
    addresses = [(f"10.255.255.{n}", redis_server.port) for n in range(1, 21)]
    monkeypatch.setattr(dial_module, "_connect", connect)
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda *_args, **_kwargs: [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", each) for each in addresses
        ],
    )
    resolve_on_the_loop(monkeypatch)
    with within(1):
        (await dial("redis.test", redis_server.port, 1.0)).close()
    assert tried == addresses


def resolve_on_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(host: str, port: int, **kwargs: object) -> object:
        return socket.getaddrinfo(host, port)

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "getaddrinfo", resolve, raising=False)


async def test_the_first_addresss_error_is_reported() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            await dial("127.0.0.1", taken.getsockname()[1], 1.0)


async def test_the_first_result_wins_and_the_others_are_discarded() -> None:
    async def after(seconds: float, result: str) -> str:
        await asyncio.sleep(seconds)
        return result

    async def failing() -> str:
        raise OSError("first")

    async def hanging() -> str:
        await asyncio.Event().wait()
        return "never"

    discarded: list[str] = []
    attempts = [failing, hanging, lambda: after(0, "a"), lambda: after(0, "b")]
    found = await first_success(attempts, delay_s=0, discard=discarded.append)
    assert found in {"a", "b"}
    assert set(discarded) <= {"a", "b"} - {found}
    with pytest.raises(OSError, match="first"):
        await first_success([failing, failing], delay_s=1)
