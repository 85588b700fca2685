"""Whether a stored row must be sent to the devices of its user. Pure.

- **A row is sent once it is stable**: with the same version for `quiet_s`. A device
  that saves over REST would otherwise get its own older text while the person types.
  A row older than the horizon of `quiet_s` ago is stable (`StoredRow.settled`); any
  other must be found with the same version in two looks.
- **A row that was shown while it was read is not judged**: it may be older than what
  was shown. The next look decides.

Tested by tests/unit/delivery/test_judging.py and in whole by
tests/integration/delivery/test_recovery.py.
"""

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from ..recovery_ports import RowKey, StoredRow
from .shown import ShownRows
from .user_states import FirstLook, UserState

__all__ = ["Judge", "Verdict"]

ABSENT: Final = ""


class Verdict(Enum):
    """The verdict on a stored row."""

    HELD = auto()
    """The devices hold it."""
    WAIT = auto()
    """Look again."""
    SEND = auto()
    """It was shown in part, or to some devices: send it to the others."""
    UNANNOUNCED = auto()
    """No event has shown this version: send it."""


@dataclass(slots=True)
class Judge:
    """One look at one user's rows, begun at `started` (sequence) and `now` (s)."""

    shown: ShownRows
    state: UserState
    started: int
    now: float
    quiet_s: float
    waiting: dict[RowKey, FirstLook] = field(default_factory=dict)

    def judge(self, row: StoredRow, *, changed: bool = True) -> Verdict:
        """Judge a row; `changed` is False for one below the user's horizon."""
        key = row.key
        if self.shown.overtaken(key, self.started):
            return self._wait(row)
        if self._verified(key) == row.version:
            return Verdict.HELD
        known = self.shown.get(key)
        if known is not None and known.is_held(row, changed=changed):
            self.held(row)
            return Verdict.HELD
        if not (row.settled or self._stable(key, row.version)):
            return Verdict.WAIT
        if known is not None and known.version == row.updated_at:
            return Verdict.SEND
        return Verdict.UNANNOUNCED

    def judge_shown(self, row: StoredRow) -> Verdict:
        """Judge a row that was shown and is not among the changes.

        One that is not settled has changed since the changes were read. It may be
        gone before the next look, so it must not count as verified.
        """
        if not row.settled:
            return self._wait(row)
        # Below a horizon it is as it was when the devices were known to hold it.
        return self.judge(row, changed=self.state.horizon is None)

    def absent(self, key: RowKey) -> Verdict:
        """Judge a row that was shown and does not exist.

        One that was marked as deleted, and stayed in the table, may have been shown
        to a device since.
        """
        known = self.shown.get(key)
        if self.shown.touched(key, self.started):
            self.waiting[key] = FirstLook(ABSENT, self.now)
            return Verdict.WAIT
        if known is not None and known.is_removed:
            self.shown.forget(key)
            return Verdict.HELD
        stable = self._stable(key, ABSENT)
        return Verdict.UNANNOUNCED if stable else Verdict.WAIT

    def held(self, row: StoredRow) -> None:
        """All devices hold the row."""
        self.shown.sent(row)
        self.shown.verified(row.key)
        if self.state.known is None:
            self.state.known = {}
        self.state.known[row.key] = row.version

    def _wait(self, row: StoredRow) -> Verdict:
        self.waiting[row.key] = FirstLook(row.version, self.now)
        return Verdict.WAIT

    def _verified(self, key: RowKey) -> str | None:
        """The version that the last look found, if the row was not shown since."""
        if self.state.known is None or self.shown.is_unverified(key):
            return None
        return self.state.known.get(key)

    def _stable(self, key: RowKey, version: str) -> bool:
        first = self.state.waiting.get(key) if self.state.waiting else None
        if first is None or first.version != version:
            first = FirstLook(version, self.now)
        if self.now - first.at >= self.quiet_s:
            return True
        self.waiting[key] = first
        return False
