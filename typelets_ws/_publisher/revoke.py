"""Writes a revocation, and waits until a replica has it where there are replicas.

Invariant: a revocation that only the master has is not reported as done: a failover
would lose it and let the session in. Without replicas, and where the ACL refuses INFO
or WAIT, nothing is awaited. In a Cluster the master of the key's slot is asked.
Tested by tests/integration/redis/test_publishers.py.
"""

from contextlib import suppress
from typing import Any, Final

import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.cluster
from redis.asyncio.cluster import PipelineCommand

from .redis import Cluster

__all__ = ["NotReplicated", "revoke", "revoke_async"]

WAIT_MS: Final = 100


class NotReplicated(redis.TimeoutError):
    """There are replicas, and none has the revocation yet."""


def revoke(link: Any, key: str, seconds: int) -> None:
    """Set the key; raises what redis-py raises, or `NotReplicated`."""
    master = link
    if isinstance(link, Cluster):
        master = link = link.client()
    if isinstance(link, redis.cluster.RedisCluster):
        # Finds the slot's master, also when it has moved.
        link.set(key, b"1", ex=seconds)
        node = link.get_node_from_key(key)  # type: ignore[no-untyped-call]
        master = link.get_redis_connection(node)
    replicas = False
    if isinstance(master, redis.Redis):
        with suppress(redis.ResponseError):
            replicas = _has_replicas(master.info("replication"))
    if not replicas:
        link.set(key, b"1", ex=seconds)
        return
    # On one connection: WAIT is about the writes of its own.
    with master.pipeline(transaction=False) as pipeline:
        pipeline.set(key, b"1", ex=seconds).execute_command("WAIT", 1, WAIT_MS)
        _check(pipeline.execute(raise_on_error=False))


async def revoke_async(link: Any, key: str, seconds: int) -> None:
    """The same for asyncio."""
    if isinstance(link, redis.asyncio.cluster.RedisCluster):
        await _revoke_in_cluster(link, key, seconds)
        return
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


async def _revoke_in_cluster(
    link: redis.asyncio.cluster.RedisCluster, key: str, seconds: int
) -> None:
    await link.set(key, b"1", ex=seconds)
    master = link.get_node_from_key(key)
    if master is None:
        return
    replicas = False
    with suppress(redis.ResponseError):
        replicas = _has_replicas(await master.execute_command("INFO", "replication"))
    if replicas:
        commands = [
            PipelineCommand(0, "SET", key, b"1", "EX", seconds),
            PipelineCommand(1, "WAIT", 1, WAIT_MS),
        ]
        await master.execute_pipeline(commands)
        _check([command.result for command in commands])


def _has_replicas(info: Any) -> bool:
    return bool(isinstance(info, dict) and info.get("connected_slaves"))


def _check(replies: list[Any]) -> None:
    if isinstance(replies[0], Exception):
        # Taken out of the list: this frame must not refer to the exception.
        raise replies.pop(0)
    if replies[1] == 0:
        raise NotReplicated("no replica has the revocation")
