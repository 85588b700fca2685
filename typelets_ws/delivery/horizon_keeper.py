"""Takes horizons from Postgres, and shares them with the other processes.

Invariant: no look begins before the horizons of earlier processes are known, or Redis
has not told them for `RECALL_S`. Without them a device that returns after a restart
would not get a row whose own time does not show the change.
Tested by tests/unit/delivery/test_horizon_keeper.py.
"""

from collections.abc import Callable
from math import inf
from typing import Final

from ..recovery_ports import Changes, HorizonMemory
from .horizons import Horizons

__all__ = ["RECALL_S", "HorizonKeeper"]

RECALL_S: Final = 5.0
"""After the first horizon. Devices wait so long for a Redis that is away at the start;
one that is up answers in milliseconds, but may be connected later than Postgres."""


class HorizonKeeper:
    """Keeps `horizons` up to date. `monotonic` in seconds."""

    def __init__(
        self,
        changes: Changes,
        memory: HorizonMemory,
        horizons: Horizons,
        monotonic: Callable[[], float],
    ) -> None:
        self._changes = changes
        self._memory = memory
        self._horizons = horizons
        self._monotonic = monotonic
        self._recalled = 0
        self._give_up_at = inf

    @property
    def ready(self) -> bool:
        """Whether looks may begin."""
        return self._recalled > 0 or self._monotonic() >= self._give_up_at

    async def take(self) -> None:
        """Take a horizon now. Raises `StoreError`."""
        snapshot = await self._changes.horizon()
        now = self._monotonic()
        self._give_up_at = min(self._give_up_at, now + RECALL_S)
        self._horizons.observe(snapshot, now)
        self._memory.remember(snapshot.identity, snapshot.horizon)
        await self._recall()

    async def _recall(self) -> None:
        """Learn what other processes know of this database, once."""
        generation = self._horizons.generation
        if self._recalled == generation:
            return
        found = await self._memory.recall(self._horizons.identity)
        if found is not None:
            self._recalled, now = generation, self._monotonic()
            for age, horizon in found:
                self._horizons.recall(horizon, now - age)
