"""Rows whose versions disagree: they are read, and sent as Postgres holds them.

No comparison of timestamps says which version is right: hosts' clocks differ. So an
event older than what was shown, and a reply that an event has overtaken, are answered
by a read. Invariants:

- **A conflict found while its row is read is not answered by that read**: its write
  may be newer. The row is read once more.
- It works without recovery's privileges: `Changes.rows` needs none.

Tested by tests/unit/delivery/test_conflicts.py.
"""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from ..ports import StoreError, VersionedRow
from ..recovery_ports import Changes, RowKey
from .alarm import Alarm
from .senders import RowSender
from .shown import ShownRows

__all__ = ["Conflicts"]

GATHERED_S: Final = 0.02
"""Two processes writing one note make many conflicts: they share a read."""
MOST_READ: Final = 100
"""Rows in one read; the others wait for the next."""


@dataclass(slots=True)
class Conflicts:
    """The rows to be read. `heal` is for the users whose rows cannot be read."""

    changes: Changes
    sender: RowSender
    shown: ShownRows
    alarm: Alarm
    heal: Callable[[Collection[str], str], None]
    waiting: dict[RowKey, bool] = field(default_factory=dict)
    """True if found since the last read began."""

    def add(self, key: RowKey) -> None:
        """Versions of this row disagree: read it, and show that."""
        self.waiting[key] = True
        self.alarm.ring()

    def note_reply(
        self, key: RowKey, row: VersionedRow, connection_id: str, sequence: int
    ) -> None:
        """Note that a device was shown the row it wrote.

        It is newer than all that was shown before the update began, at `sequence`.
        A row shown since may be newer still: if its version says so, the row is
        read.
        """
        shown = self.shown
        if shown.touched(key, sequence) and shown.is_stale(key, row.updated_at):
            shown.sent_to_one(key, row, connection_id)
            self.add(key)
        else:
            shown.replied(key, row, connection_id)

    def note_refusal(
        self, key: RowKey, row: VersionedRow, connection_id: str, sequence: int
    ) -> None:
        """Note that a device is about to be shown the row which refused its update.

        A row shown since the update began, at `sequence`, may be newer.
        """
        overtaken = self.shown.touched(key, sequence)
        self.shown.sent_to_one(key, row, connection_id)
        if overtaken:
            self.add(key)

    async def read(self) -> None:
        """Read and send the rows that wait."""
        await asyncio.sleep(GATHERED_S)
        keys, started = tuple(islice(self.waiting, MOST_READ)), self.shown.sequence
        for key in keys:  # last in line, should one have to be read again
            del self.waiting[key]
        self.waiting |= dict.fromkeys(keys, False)
        try:
            found = await self.changes.rows(keys, versions=False)
        except Exception as failure:
            users = {key.user_id for key in self.waiting}
            self.waiting.clear()
            self.heal(users, "conflict")
            if isinstance(failure, StoreError):
                return
            raise
        for key, row in found.items():
            if self.shown.overtaken(key, started):
                continue  # what was read may be older than what was shown
            if not self.waiting[key]:
                del self.waiting[key]
            if row is not None:
                self.sender.send(row)
                self.shown.sent(row)
                self.sender.metrics.repairs.inc()
        self.sender.hub.flush()
