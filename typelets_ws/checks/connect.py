"""`check-config --connect`: all servers side by side, each within `TIMEOUT_S`."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from ..config.model import Config
from .finding import Finding, FindingKind
from .keys import check_keys
from .postgres import check_postgres
from .redis import check_redis

__all__ = ["connect"]


async def connect(config: Config) -> Sequence[Finding]:
    """Ask the database, Redis and the key source; nothing is raised."""
    found = await asyncio.gather(
        _in_time("database", check_postgres(config.database)),
        _in_time("redis", check_redis(config.redis)),
        _in_time("keys", check_keys(config.auth)),
    )
    return [finding for findings in found for finding in findings]


async def _in_time(
    subject: str, check: Coroutine[Any, Any, list[Finding]]
) -> list[Finding]:
    try:
        return await check
    except TimeoutError:
        return [Finding(FindingKind.AWAY, subject, "no answer in time")]
