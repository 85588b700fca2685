"""redis-py clients for a publisher: every wait short, no connection beyond a bound.

A pool made by `from_url` refuses above 100 connections and waits 5 s for an answer;
here a full pool waits, and one attempt of connecting or reading ends after `timeout_s`.
A connection that broke while idle is replaced at once.
"""

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

__all__ = ["async_client", "client"]


def client(url: str, timeout_s: float, connections: int) -> redis.Redis:
    """A blocking client of its own pool; nothing is connected yet."""
    pool = redis.BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
    )
    return redis.Redis.from_pool(pool)


def async_client(url: str, timeout_s: float, connections: int) -> redis.asyncio.Redis:
    """The same for asyncio."""
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=AsyncRetry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
    )
    return redis.asyncio.Redis.from_pool(pool)
