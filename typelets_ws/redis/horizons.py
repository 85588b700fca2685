"""Horizons of the last minutes in Redis, so that a new process knows them.

A device that signs in is healed from the horizon of some minutes ago. A process that
has just started has none that old; it takes those of the processes before it. Each
slot of `SLOT_S` has one key, ``<prefix>horizon:<slot>``, written by the first process.

Invariants: nothing here is needed for correctness of what is known; a lost key makes
the replay of a new process rely on the rows' own times. Failures are not reported:
the connection itself is watched elsewhere.
Tested by tests/integration/delivery/test_recovery.py.
"""

import re
from collections.abc import Callable
from typing import Any, Final

import hiredis

from .client import RedisClient
from .connection import RedisUnavailableError

__all__ = ["SharedHorizons"]

SLOT_S: Final = 5
_VALUE: Final = re.compile(rb"(\d{1,20}) (\d{1,15}) (.+)", re.DOTALL)
"""The horizon, when it was taken in ms since the epoch, the database's identity."""


class SharedHorizons:
    """Fulfils `recovery_ports.HorizonMemory`. `wall` in seconds since the epoch."""

    def __init__(
        self,
        commands: RedisClient,
        prefix: str,
        keep_s: float,
        wall: Callable[[], float],
    ) -> None:
        self._commands = commands
        self._prefix = f"{prefix}horizon:".encode()
        self._keep_ms = int((keep_s + 2 * SLOT_S) * 1000)
        self._slots = int(keep_s // SLOT_S) + 2
        self._wall = wall
        self._remembered = 0

    def remember(self, identity: str, horizon: int) -> None:
        """Keep a horizon taken now, unless this slot has one."""
        slot = int(self._wall() // SLOT_S)
        if slot == self._remembered or not self._commands.up:
            return
        self._remembered = slot
        value = b"%d %d %s" % (horizon, int(self._wall() * 1000), identity.encode())
        key = self._key(slot)
        self._commands.send(_ignore, b"SET", key, value, b"NX", b"PX", self._keep_ms)

    async def recall(self, identity: str) -> list[tuple[float, int]] | None:
        """The horizons of this database and their ages in s, the newest first.

        None when Redis does not answer.
        """
        newest = int(self._wall() // SLOT_S)
        found = []
        try:
            for slot in range(newest, newest - self._slots, -1):
                value = await self._commands.call(b"GET", self._key(slot))
                match = _VALUE.fullmatch(value) if isinstance(value, bytes) else None
                if match is not None and match[3] == identity.encode():
                    age = max(0.0, self._wall() - int(match[2]) / 1000)
                    found.append((age, int(match[1])))
        except (RedisUnavailableError, hiredis.ReplyError):
            return None
        return found

    def _key(self, slot: int) -> bytes:
        return self._prefix + b"%d" % slot


def _ignore(_reply: Any) -> None:
    """Another process was first, or Redis is away: the next slot comes soon."""
