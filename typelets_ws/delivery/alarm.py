"""Sleep until something is due, or is due earlier than was known. One sleeper.

`ring_by` wakes only a sleeper that would wake too late: each new device makes something
due, and a wake-up for each would cost a part of its handshake.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import Final

__all__ = ["Alarm"]

AWAKE: Final = -inf
"""Then the sleeper looks for what is due before it sleeps: nothing must wake it."""


class Alarm:
    """Wakes the sleeper. `monotonic` in seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._rung = asyncio.Event()
        self._until = AWAKE

    def ring(self) -> None:
        """End the sleep now, or the next one at once."""
        self._rung.set()

    def ring_by(self, when: float) -> None:
        """End the sleep, if it would last beyond `when`."""
        if when < self._until:
            self._rung.set()

    async def sleep(self, pause: float) -> None:
        """Sleep `pause` seconds, unless it has rung since the last sleep."""
        self._until = self._monotonic() + pause
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._rung.wait()
        self._rung.clear()
        self._until = AWAKE
