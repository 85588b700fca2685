"""Takes horizons from Postgres, and shares them with the other processes."""

from collections.abc import Callable

from ..recovery_ports import Changes, HorizonMemory
from .horizons import Horizons

__all__ = ["HorizonKeeper"]


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

    async def take(self) -> None:
        """Take a horizon now. Raises `StoreError`."""
        snapshot = await self._changes.horizon()
        self._horizons.observe(snapshot, self._monotonic())
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
