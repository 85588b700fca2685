"""Whether Redis lets the daemon do what it needs, by doing it to keys of no user.

Every command and every kind of key and channel is tried, with names that no user and no
session can have; the keys expire within a second.
"""

import asyncio
import hashlib
import secrets
from typing import Final

import redis.asyncio
from redis import exceptions

from .._publisher.redis import async_client
from ..config.model import Redis
from ..config.redis_address import Topology, parse
from ..redis.role import is_refusal
from .finding import TIMEOUT_S, Finding, FindingKind, first_line
from .redis_servers import SUBJECT, server_problems

__all__ = ["check_redis"]

CONNECTIONS: Final = 8
RETURN_1: Final = hashlib.sha1(b"return 1", usedforsecurity=False).hexdigest()
"""The name of a script that is loaded one command earlier."""


async def check_redis(config: Redis) -> list[Finding]:
    """Log in as the daemon does, and try each command and channel."""
    if parse(config.url).kind is Topology.SERVER:
        # A replica and a node of a Cluster answer much like a master.
        problems = await server_problems(config)
        if problems:
            return list(problems)
    client = async_client(config.url, config.command_timeout_s, CONNECTIONS)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await _check(client, config)
    except (exceptions.RedisError, exceptions.RedisClusterException, OSError) as exc:
        kind = FindingKind.WRONG if is_refusal(exc) else FindingKind.AWAY
        return await _explained(config, Finding(kind, SUBJECT, first_line(exc)))
    finally:
        await client.aclose()


async def _explained(config: Redis, failure: Finding) -> list[Finding]:
    """What is wrong with each server; the failure itself when that says more."""
    problems = await server_problems(config)
    refused = any(each.kind is FindingKind.WRONG for each in problems)
    if problems and (refused or failure.kind is FindingKind.AWAY):
        return list(problems)
    return [failure]


async def _check(client: redis.asyncio.Redis, config: Redis) -> list[Finding]:
    found = []
    for name, args in _commands(config):
        try:
            await client.execute_command(*args)  # type: ignore[no-untyped-call]
        except exceptions.ResponseError as exc:
            found.append(
                Finding(FindingKind.WRONG, SUBJECT, f"{name}: {first_line(exc)}")
            )
    found += await _check_channels(client, config.prefix)
    if not found:
        text = f"commands, keys and channels of {config.prefix!r} are allowed"
        found.append(Finding(FindingKind.OK, SUBJECT, text))
    return found


def _commands(config: Redis) -> list[tuple[str, tuple[str | int, ...]]]:
    mark = f"check:{secrets.token_hex(8)}"
    key = {kind: f"{config.prefix}{kind}:{mark}" for kind in (
        "devices", "era", "nonce", "barred",
    )}  # fmt: skip
    wanted: list[tuple[str, tuple[str | int, ...]]] = [
        ("barred sessions", ("SET", key["barred"], 1, "PX", 1)),
        ("barred sessions", ("EXISTS", key["barred"])),
        ("scripts", ("SCRIPT LOAD", "return 1")),
        ("scripts", ("EVAL", "return 1", 1, key["devices"])),
        ("scripts", ("EVALSHA", RETURN_1, 1, key["devices"])),
    ]
    if config.shared_nonces:
        wanted.append(("nonces", ("SET", key["nonce"], 1, "NX", "PX", 1)))
    if config.shared_limits:
        wanted += [
            ("leases", ("SET", key["era"], 1, "PX", 1)),
            ("leases", ("DEL", key["era"])),
            ("devices", ("SADD", key["devices"], "x")),
            ("devices", ("EXPIRE", key["devices"], 1)),
            ("devices", ("SMEMBERS", key["devices"])),
            ("devices", ("SREM", key["devices"], "x")),
        ]
    return wanted


async def _check_channels(client: redis.asyncio.Redis, prefix: str) -> list[Finding]:
    """Subscribe to each kind of channel, and hear what is published."""
    mark = f"check:{secrets.token_hex(8)}"
    found = []
    for channel in (f"{prefix}user:{mark}", f"{prefix}probe:{mark}"):
        problem = await _round_trip(client, channel)
        if problem:
            found.append(Finding(FindingKind.WRONG, SUBJECT, f"{channel}: {problem}"))
    problem = await _round_trip(client, f"{prefix}control", publish=False)
    if problem:
        found.append(Finding(FindingKind.WRONG, SUBJECT, f"{prefix}control: {problem}"))
    return found


async def _round_trip(
    client: redis.asyncio.Redis, channel: str, *, publish: bool = True
) -> str:
    """Why a channel cannot be used; empty when it can. Nothing is sent to `control`."""
    async with client.pubsub() as pubsub:
        try:
            await pubsub.subscribe(channel)
            message = await pubsub.get_message(timeout=1.0)
            if message is None:
                return "the subscription is not confirmed"
            if publish:
                await client.publish(channel, b"check")
                message = await pubsub.get_message(timeout=1.0)
            await pubsub.unsubscribe(channel)
            await pubsub.get_message(timeout=1.0)
        except exceptions.ResponseError as exc:
            return first_line(exc)
        return "" if message else "what is published is not heard (a replica?)"
