"""Publishing through a Sentinel group: the master that most sentinels name.

Invariants. All sentinels are asked at once, each for `ASK_TIMEOUT_S`, and more than
half of them must agree. They are asked before each new connection and again when the
last answer is older than `ASK_EVERY_S`: after a failover the old master keeps its
connections for ten seconds and more and acknowledges events that no process receives.
"""

import asyncio
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, Final

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import SentinelConnectionPool as AsyncPool
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry
from redis.sentinel import SentinelConnectionPool

from ..config.redis_address import Node, RedisAddress

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


class _AsyncClient(redis.asyncio.Redis):
    asked_at = float("-inf")

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        if time.monotonic() - self.asked_at > ASK_EVERY_S:
            pool: Any = self.connection_pool
            await pool.get_master_address()
            self.asked_at = time.monotonic()
        return await super().execute_command(*args, **kwargs)  # type: ignore[no-untyped-call]


def sentinel_client(
    address: RedisAddress, timeout_s: float, connections: int
) -> redis.Redis:
    """A blocking client of the master; nothing is connected yet."""
    pool = SentinelConnectionPool(  # type: ignore[no-untyped-call]
        address.master,
        _Sentinels(address),
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
    pool = AsyncPool(  # type: ignore[no-untyped-call]
        address.master,
        _AsyncSentinels(address),
        max_connections=connections,
        retry=AsyncRetry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        **options(
            address.server_url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
        ),
    )
    return _AsyncClient.from_pool(pool)


class _Sentinels:
    """Answers redis-py's pool when it asks for the master."""

    def __init__(self, address: RedisAddress) -> None:
        self._address = address
        self._options = options(
            address.sentinel_url,
            socket_timeout=ASK_TIMEOUT_S,
            socket_connect_timeout=ASK_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )

    def discover_master(self, name: str) -> Node:
        """Ask all sentinels; raises `redis.ConnectionError` without a majority."""
        nodes = self._address.nodes
        pool = ThreadPoolExecutor(len(nodes))
        try:
            asked = [pool.submit(self._ask, node) for node in nodes]
            votes = _Votes(name, len(nodes))
            for each in as_completed(asked):
                if votes.add(each.result()):
                    break
            return votes.winner()
        finally:
            # A sentinel that does not answer ends its thread a little later.
            pool.shutdown(wait=False)

    def _ask(self, node: Node) -> Any:
        try:
            with redis.Redis(*node, **self._options) as client:
                return client.execute_command(QUESTION, self._address.master)
        except (redis.RedisError, OSError):
            return None


class _AsyncSentinels:
    """The same for asyncio."""

    def __init__(self, address: RedisAddress) -> None:
        self._address = address
        self._options = options(
            address.sentinel_url,
            socket_timeout=ASK_TIMEOUT_S,
            socket_connect_timeout=ASK_TIMEOUT_S,
            retry=AsyncRetry(NoBackoff(), 0),
        )

    async def discover_master(self, name: str) -> Node:
        """See `_Sentinels.discover_master`."""
        nodes = self._address.nodes
        votes = _Votes(name, len(nodes))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._ask(node)) for node in nodes]
            for answer in asyncio.as_completed(tasks):
                if votes.add(await answer):
                    break
            for task in tasks:
                task.cancel()
        return votes.winner()

    async def _ask(self, node: Node) -> Any:
        client = redis.asyncio.Redis(host=node[0], port=node[1], **self._options)
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                return await client.execute_command(QUESTION, self._address.master)  # type: ignore[no-untyped-call]
        except (redis.RedisError, OSError, TimeoutError):
            return None
        finally:
            await client.aclose()


class _Votes:
    """Counts the sentinels' answers until more than half agree."""

    def __init__(self, name: str, asked: int) -> None:
        self._name = name
        self._asked = asked
        self._votes: Counter[Node] = Counter()

    def add(self, answer: Any) -> bool:
        """Count one answer; true when there is a majority."""
        if isinstance(answer, (list, tuple)) and len(answer) == 2:
            host, port = answer
            name = host.decode() if isinstance(host, bytes) else host
            self._votes[name, int(port)] += 1
        return any(2 * count > self._asked for count in self._votes.values())

    def winner(self) -> Node:
        """The node that more than half named; raises `redis.ConnectionError`."""
        for node, count in self._votes.items():
            if 2 * count > self._asked:
                return node
        raise redis.ConnectionError(f"no majority of sentinels names {self._name}")
