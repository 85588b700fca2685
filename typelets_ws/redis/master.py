"""Where the master is: always at one address, or where a Sentinel group says.

Invariant: `open` connects to the master as known at that moment, and `confirm` says
whether that is still known to be true: an old master answers like a master for seconds
after a failover, so its own word proves nothing.
Tested by tests/integration/redis/test_sentinel.py.
"""

import asyncio
from typing import Any, Protocol

from redis.asyncio.connection import AbstractConnection

from .connection import RedisConnection
from .connector import RedisConnector

__all__ = ["FailoverHandler", "MasterFinder", "SingleServer"]


class FailoverHandler(Protocol):
    """Is called by a `MasterFinder`."""

    def on_failover(self, node: str) -> None:
        """The master is another server now; connections to the old one are wrong."""

    def on_old_master_settled(self) -> None:
        """The old master took writes of others until now: events may be missing."""


class MasterFinder(Protocol):
    """Finds the master and follows it.

    `names_failovers`: false when a failover shows only in the server's replies.
    """

    names_failovers: bool

    async def open(self, protocol: RedisConnection[Any]) -> AbstractConnection:
        """Connect to the master; raises as `RedisConnector.open`."""

    async def confirm(self, node: str) -> bool:
        """Whether `node` is known to be the master now."""

    async def run(self, handler: FailoverHandler) -> None:
        """Follow the master until cancelled."""


class SingleServer:
    """One address; a failover moves the address or demotes the server."""

    names_failovers = False

    def __init__(self, connector: RedisConnector) -> None:
        self._connector = connector

    async def open(self, protocol: RedisConnection[Any]) -> AbstractConnection:
        """Connect to the address."""
        return await self._connector.open(protocol)

    async def confirm(self, node: str) -> bool:
        """True: the server's own word, asked for by the caller, is all there is."""
        return True

    async def run(self, handler: FailoverHandler) -> None:
        """Do nothing until cancelled."""
        await asyncio.Event().wait()
