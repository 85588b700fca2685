"""Publishing through a Sentinel group: the master that most sentinels name.

Invariants. All sentinels are asked at once, for `ASK_TIMEOUT_S` or more, and more than
half of them must agree. They are asked before each new connection and again when the
last answer is older than `ASK_EVERY_S`: after a failover the old master keeps its
connections for ten seconds and more and acknowledges events that no process receives.
Connections to the sentinels are kept: a handshake of TLS takes 30 ms of a core.
Tested by tests/integration/redis/test_publishers.py.
"""

import asyncio
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, Final

import redis
import redis.asyncio
from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import SentinelConnectionPool as AsyncPool
from redis.asyncio.sentinel import SentinelManagedConnection
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry
from redis.sentinel import SentinelConnectionPool

from ..config.redis_address import Node, RedisAddress
from ..redis.dialled import dialled
from .unsent import reset_is_failure

__all__ = ["async_sentinel_client", "sentinel_client"]

ASK_TIMEOUT_S: Final = 0.5
ASK_EVERY_S: Final = 1.0
QUESTION: Final = "SENTINEL GET-MASTER-ADDR-BY-NAME"


def options(url: str, **more: Any) -> dict[str, Any]:
    """The URL's options of a connection, without its host."""
    found: dict[str, Any] = dict(parse_url(url))  # type: ignore[no-untyped-call]
    tls = found.pop("connection_class", None) is not None
    found.pop("host", None)
    found.pop("port", None)
    return {**found, **({"ssl": True} if tls else {}), **more}


class _Client(redis.Redis):
    """Asks the sentinels when their last answer is old."""

    asked_at = float("-inf")

    def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        if time.monotonic() - self.asked_at > ASK_EVERY_S:
            pool: Any = self.connection_pool
            pool.proxy.get_master_address()
            self.asked_at = time.monotonic()
        return super().execute_command(*args, **kwargs)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        super().close()
        pool: Any = self.connection_pool
        pool.sentinel_manager.close()


class _AsyncClient(redis.asyncio.Redis):
    asked_at = float("-inf")

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        if time.monotonic() - self.asked_at > ASK_EVERY_S:
            pool: Any = self.connection_pool
            await pool.get_master_address()
            self.asked_at = time.monotonic()
        return await super().execute_command(*args, **kwargs)  # type: ignore[no-untyped-call]

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await super().aclose(close_connection_pool)
        pool: Any = self.connection_pool
        await pool.sentinel_manager.aclose()


def sentinel_client(
    address: RedisAddress, timeout_s: float, connections: int
) -> redis.Redis:
    """A blocking client of the master; nothing is connected yet."""
    pool = SentinelConnectionPool(  # type: ignore[no-untyped-call]
        address.master,
        _Sentinels(address, timeout_s),
        max_connections=connections,
        retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        **options(
            address.server_url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
        ),
    )
    return _Client.from_pool(pool)


def async_sentinel_client(
    address: RedisAddress, timeout_s: float, connections: int
) -> redis.asyncio.Redis:
    """The same for asyncio."""
    pool: Any = AsyncPool(  # type: ignore[no-untyped-call]
        address.master,
        _AsyncSentinels(address, timeout_s),
        max_connections=connections,
        retry=AsyncRetry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        **options(
            address.server_url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
        ),
    )
    tls = issubclass(pool.connection_class, SSLConnection)
    base: Any = dialled(SSLConnection if tls else Connection)
    pool.connection_class = type("Managed", (SentinelManagedConnection, base), {})
    return _AsyncClient.from_pool(pool)


class _Sentinels:
    """Answers redis-py's pool when it asks for the master."""

    def __init__(self, address: RedisAddress, timeout_s: float) -> None:
        self._address = address
        wait_s = max(ASK_TIMEOUT_S, timeout_s)
        own = options(
            address.sentinel_url,
            socket_timeout=wait_s,
            socket_connect_timeout=wait_s,
            retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        )
        self._clients = [
            redis.Redis(host=host, port=port, **own) for host, port in address.nodes
        ]

    def discover_master(self, name: str) -> Node:
        """Ask all sentinels; raises `redis.ConnectionError` without a majority."""
        pool = ThreadPoolExecutor(len(self._clients))
        try:
            asked = [pool.submit(self._ask, client) for client in self._clients]
            votes = _Votes(name, len(self._clients))
            for each in as_completed(asked):
                if votes.add(each.result()):
                    break
            return votes.winner()
        finally:
            # A sentinel that does not answer ends its thread a little later.
            pool.shutdown(wait=False)

    def close(self) -> None:
        """Close the connections."""
        for client in self._clients:
            client.close()

    def _ask(self, client: redis.Redis) -> Any:
        try:
            return client.execute_command(QUESTION, self._address.master)  # type: ignore[no-untyped-call]
        except (redis.RedisError, OSError):
            return None


class _AsyncSentinels:
    """The same for asyncio."""

    def __init__(self, address: RedisAddress, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = max(ASK_TIMEOUT_S, timeout_s)
        retry = AsyncRetry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))
        own = options(
            address.sentinel_url,
            socket_timeout=self._timeout_s,
            socket_connect_timeout=self._timeout_s,
            retry=retry,
        )
        self._clients = [
            redis.asyncio.Redis(host=host, port=port, **own)
            for host, port in address.nodes
        ]
        for client in self._clients:
            pool = client.connection_pool
            pool.connection_class = dialled(pool.connection_class)
        self._tasks: dict[int, asyncio.Task[Any]] = {}

    async def discover_master(self, name: str) -> Node:
        """See `_Sentinels.discover_master`."""
        votes = _Votes(name, len(self._clients))
        for answer in asyncio.as_completed(map(self._asking, range(votes.asked))):
            if votes.add(await answer):
                break
        return votes.winner()

    def _asking(self, number: int) -> asyncio.Task[Any]:
        """The question under way: a cancelled one would cost its connection."""
        task = self._tasks.get(number)
        if task is None or task.done():
            loop = asyncio.get_running_loop()
            task = loop.create_task(self._ask(self._clients[number]))
            self._tasks[number] = task
        return task

    async def aclose(self) -> None:
        """Close the connections."""
        tasks, self._tasks = self._tasks, {}
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        for client in self._clients:
            await client.aclose()

    async def _ask(self, client: redis.asyncio.Redis) -> Any:
        try:
            async with asyncio.timeout(self._timeout_s):
                with reset_is_failure():
                    return await client.execute_command(QUESTION, self._address.master)  # type: ignore[no-untyped-call]
        except (redis.RedisError, OSError, TimeoutError):
            return None


class _Votes:
    """Counts the sentinels' answers until more than half agree."""

    def __init__(self, name: str, asked: int) -> None:
        self._name = name
        self.asked = asked
        self._votes: Counter[Node] = Counter()

    def add(self, answer: Any) -> bool:
        """Count one answer; true when there is a majority."""
        if isinstance(answer, (list, tuple)) and len(answer) == 2:
            host, port = answer
            name = host.decode() if isinstance(host, bytes) else host
            self._votes[name, int(port)] += 1
        return any(2 * count > self.asked for count in self._votes.values())

    def winner(self) -> Node:
        """The node that more than half named; raises `redis.ConnectionError`."""
        for node, count in self._votes.items():
            if 2 * count > self.asked:
                return node
        raise redis.ConnectionError(f"no majority of sentinels names {self._name}")
