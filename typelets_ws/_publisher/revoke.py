"""Writes a revocation, and waits until a replica has it where there are replicas.

Invariant: a revocation that only the master has is not reported as done: a failover
would lose it and let the session in. Without replicas, in a Cluster, and where the ACL
refuses INFO or WAIT, nothing is awaited.
"""

from contextlib import suppress
from typing import Any, Final

import redis
import redis.asyncio

__all__ = ["NotReplicated", "revoke", "revoke_async"]

WAIT_MS: Final = 100


class NotReplicated(redis.TimeoutError):
    """There are replicas, and none has the revocation yet."""


def revoke(link: Any, key: str, seconds: int) -> None:
    """Set the key; raises what redis-py raises, or `NotReplicated`."""
    replicas = False
    if isinstance(link, redis.Redis):
        with suppress(redis.ResponseError):
            replicas = _has_replicas(link.info("replication"))
    if not replicas:
        link.set(key, b"1", ex=seconds)
        return
    # On one connection: WAIT is about the writes of its own.
    with link.pipeline(transaction=False) as pipeline:
        pipeline.set(key, b"1", ex=seconds).execute_command("WAIT", 1, WAIT_MS)
        _check(pipeline.execute(raise_on_error=False))


async def revoke_async(link: Any, key: str, seconds: int) -> None:
    """The same for asyncio."""
    replicas = False
    if isinstance(link, redis.asyncio.Redis):
        with suppress(redis.ResponseError):
            replicas = _has_replicas(await link.info("replication"))
    if not replicas:
        await link.set(key, b"1", ex=seconds)
        return
    async with link.pipeline(transaction=False) as pipeline:
        pipeline.set(key, b"1", ex=seconds).execute_command("WAIT", 1, WAIT_MS)
        _check(await pipeline.execute(raise_on_error=False))


def _has_replicas(info: Any) -> bool:
    return bool(isinstance(info, dict) and info.get("connected_slaves"))


def _check(replies: list[Any]) -> None:
    if isinstance(replies[0], Exception):
        # Taken out of the list: this frame must not refer to the exception.
        raise replies.pop(0)
    if replies[1] == 0:
        raise NotReplicated("no replica has the revocation")
