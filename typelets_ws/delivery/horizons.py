"""Horizons of the last minutes, by the time they were taken. Pure.

Invariant: all horizons are of one database. The first snapshot of another one (a
failover, a restored dump) discards them, and `generation` counts that. A database
whose transaction ids have been set (`pg_resetwal`) counts as another one.
Tested by tests/unit/delivery/test_horizons.py.
"""

from collections import deque
from typing import Final

from ..recovery_ports import Snapshot
from .cursors import HORIZON_XIDS, Cursor, encode

__all__ = ["Horizons"]

SPACING_S: Final = 1.0
"""At most one is kept per second."""
OVERLAP_XIDS: Final = 2**20
"""So many transactions may begin between two snapshots that are noted in the wrong
order: their statements ran side by side, for seconds at most."""


class Horizons:
    """The known history of the database. Times in monotonic seconds."""

    def __init__(self, keep_s: float) -> None:
        self._keep_s = keep_s
        self._taken: deque[tuple[float, int]] = deque()
        self.identity = ""
        self.generation = 0
        """Grows when the database turns out to be another one."""
        self.cursor: str | None = None
        """The newest horizon as a cursor, for `auth_success`."""

    def observe(self, snapshot: Snapshot, now: float) -> None:
        """Note a horizon taken at `now`; never older than those noted before."""
        if snapshot.identity != self.identity or not self._follows(snapshot):
            self._taken.clear()
            self.identity = snapshot.identity
            self.generation += 1
        taken = self._taken
        if not taken or now - taken[-1][0] >= SPACING_S:
            taken.append((now, snapshot.horizon))
        while len(taken) > 1 and taken[1][0] <= now - self._keep_s:
            taken.popleft()
        self.cursor = encode(self.identity, Cursor(snapshot.horizon))

    def recall(self, horizon: int, taken_at: float) -> None:
        """Note a horizon of another process, older than all of this one.

        Horizons come in descending order of `taken_at`. Their transaction ids decide
        which one is older: times are as good as the hosts' clocks, and as the link.
        """
        if not self._taken:
            return
        first_at, first = self._taken[0]
        if 0 <= first - horizon <= HORIZON_XIDS:
            self._taken.appendleft((min(taken_at, first_at), horizon))

    def _follows(self, snapshot: Snapshot) -> bool:
        """Whether ids have gone on from the newest horizon, as those of one history."""
        if not self._taken:
            return True
        passed = snapshot.newest - self._taken[-1][1]
        return -OVERLAP_XIDS <= passed <= HORIZON_XIDS

    def before(self, age_s: float, now: float) -> int | None:
        """The newest horizon at least `age_s` old, or None."""
        for taken_at, horizon in reversed(self._taken):
            if taken_at <= now - age_s:
                return horizon
        return None

    @property
    def newest(self) -> int | None:
        """The newest horizon, at most a few seconds old."""
        return self._taken[-1][1] if self._taken else None

    def oldest(self, age_s: float, now: float) -> tuple[int, float] | None:
        """The newest horizon at least `age_s` old, or else the oldest; and its age."""
        if not self._taken:
            return None
        for taken_at, horizon in reversed(self._taken):
            if taken_at <= now - age_s:
                return horizon, now - taken_at
        return self._taken[0][1], now - self._taken[0][0]
