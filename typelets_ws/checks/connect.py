"""`check-config --connect`: all servers side by side, each within `TIMEOUT_S`."""

import asyncio
from collections.abc import Sequence

from ..config.model import Config
from .finding import Finding, guarded
from .keys import check_keys
from .postgres import check_postgres
from .redis import check_redis

__all__ = ["connect"]


async def connect(config: Config) -> Sequence[Finding]:
    """Ask the database, Redis and the key source; nothing is raised."""
    late = "no answer in time"
    found = await asyncio.gather(
        guarded("database", late, lambda: check_postgres(config.database)),
        guarded("redis", late, lambda: check_redis(config.redis)),
        guarded("keys", late, lambda: check_keys(config.auth)),
    )
    return [finding for findings in found for finding in findings]
