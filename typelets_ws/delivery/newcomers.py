"""Devices that have just signed in beside others: they get what they may have missed.

The old web client loads its data at a time the daemon does not know, then connects.
So a device is sent every row that was written since the horizon of `replay_s` ago. A
client that sends `sync` first is left out: it asks by itself. The first device of a
user is healed as the user is (`healing`).

Invariant: a row is sent to the device unless it was read while it was shown; then, and
while it is not stable, it is read again. Rows shown to other devices do
not matter here: this one may have connected later.
Tested by tests/integration/delivery/test_recovery.py.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import islice
from typing import Final

from ..config.model import RecoverySettings
from ..ports import VersionedRow
from ..recovery_ports import Changes, Extent, RowKey, RowKind, Since, StoredRow
from .cursors import Cursor, encode
from .deletions import Deletions
from .healing import MOST_FAILED, REST, by_its_rows
from .horizons import Horizons
from .hub import Device
from .reports import HealReports
from .shown import ShownRows
from .sign_ins import SYNCING_S
from .user_states import SIGN_IN

__all__ = ["Newcomers"]

NARROW_FROM: Final = 20
"""With so many at once only recently updated notes are read: most users come back
after a restart, and the audit reads all their rows."""
REREAD_S: Final = 0.2
RETRY_S: Final = 1.0


@dataclass(slots=True)
class _Newcomer:
    user_id: str
    device: Device
    due: float
    after: tuple[RowKind, str] | None = None
    sent: bool = False
    listed: bool = False
    """Whether all pages have been read."""
    again: dict[RowKey, str] = field(default_factory=dict)
    """Rows to be read again, with the version found; empty if it was being shown."""


@dataclass(slots=True)
class Newcomers:
    """The devices that are waiting for their replay. `monotonic` in seconds."""

    changes: Changes
    reports: HealReports
    shown: ShownRows
    horizons: Horizons
    settings: RecoverySettings
    monotonic: Callable[[], float]
    deletions: Deletions
    waiting: dict[str, _Newcomer] = field(default_factory=dict)
    """By connection id."""
    _due: list[tuple[float, str]] = field(default_factory=list)
    """A heap; an entry whose time is not that of its newcomer counts for nothing."""

    def add(self, user_id: str, device: Device, due: float) -> None:
        """Replay to this device at this time."""
        one = self.waiting[device.connection_id] = _Newcomer(user_id, device, due)
        self._schedule(one, due)

    def discard(self, connection_id: str) -> None:
        """The device is gone, or asks by itself."""
        self.waiting.pop(connection_id, None)

    def postpone(self, connection_id: str) -> None:
        """The device is syncing by itself: do not replay for a while."""
        if connection_id in self.waiting:
            due = self.monotonic() + SYNCING_S
            self._schedule(self.waiting[connection_id], due)

    def restart(self) -> None:
        """The database is another one: read all pages from the first."""
        for one in self.waiting.values():
            one.after, one.listed = None, False
            one.again.clear()

    def next_due(self) -> float | None:
        """When the next replay is due."""
        while self._due:
            when, connection_id = self._due[0]
            one = self.waiting.get(connection_id)
            if one is not None and one.due == when:
                return when
            heappop(self._due)
        return None

    async def replay(self, most: int) -> None:
        """Send at most so many devices what is due now."""
        now = self.monotonic()
        # One that has yet to read its last page comes again.
        due = [
            one
            for one in self._take_due(now, most)
            if not (one.sent and one.device.behind)
        ]
        fresh = [one for one in due if not one.listed]
        listed = [one for one in due if one.listed]
        await self._read(fresh, self._first)
        await self._read(listed, self._again)

    async def _read(
        self,
        some: Sequence[_Newcomer],
        read: Callable[[Sequence[_Newcomer]], Awaitable[None]],
    ) -> bool:
        """Read for these; if that fails by the rows of one, for each of them alone.

        Those for whom it fails come again, one alone after a rest.
        """
        began = self.monotonic()
        try:
            if some:
                await read(some)
            return True
        except Exception as failure:
            if not by_its_rows(failure):
                return True
            if len(some) == 1:
                self.reports.failed(some[0].user_id, failure)
                spent = self.monotonic() - began
                self._schedule(some[0], self.monotonic() + max(RETRY_S, REST * spent))
                return False
        failed = 0
        for one in some:
            if failed < MOST_FAILED:
                failed += not await self._read([one], read)
        return True

    def _take_due(self, now: float, most: int) -> list[_Newcomer]:
        """Those that are due now; they come again unless something else is done."""
        found: list[_Newcomer] = []
        while len(found) < most:
            when = self.next_due()
            if when is None or when > now:
                break
            one = self.waiting[heappop(self._due)[1]]
            found.append(one)
            # At once: the heap may have its time twice.
            self._schedule(one, now + RETRY_S)
        return found

    def _schedule(self, one: _Newcomer, due: float) -> None:
        one.due = due
        heappush(self._due, (due, one.device.connection_id))

    async def _first(self, some: Sequence[_Newcomer]) -> None:
        now = self.monotonic()
        started, generation = self.shown.sequence, self.horizons.generation
        horizon, age = self.horizons.oldest(self.settings.replay_s, now) or (None, 0.0)
        complete = age >= self.settings.replay_s
        narrow = complete and len(self.waiting) >= NARROW_FROM
        within = None if complete and not narrow else self.settings.replay_s
        settled = self.horizons.before(self.settings.quiet_s, now)
        wanted = [
            Since(one.user_id, horizon, one.after, settled, within) for one in some
        ]
        extent = Extent(
            self.settings.page_rows, self.settings.page_bytes, narrow=narrow
        )
        snapshot, found = await self.changes.changed(wanted, extent)
        self.horizons.observe(snapshot, self.monotonic())
        if self.horizons.generation != generation:
            return  # read with the horizon of another database; `restart` follows
        for one, changes in zip(some, found, strict=True):
            if one.after is None and one.device.open:
                one.sent = self.deletions.repeat_to(one.user_id, one.device, now)
            self._send(one, self._stable_rows(one, changes.rows, started))
            if changes.more:
                last = changes.rows[-1].key
                one.after = (last.kind, last.row_id)
                self._schedule(one, now + REREAD_S)
            else:
                one.listed = True
                self._settle(one, snapshot.identity, snapshot.horizon)

    def _stable_rows(
        self, one: _Newcomer, rows: Sequence[StoredRow], started: int
    ) -> list[StoredRow]:
        """The rows that may be sent; the others are read again."""
        stable = []
        for row in rows:
            if self.shown.touched(row.key, started):
                one.again[row.key] = ""
            elif row.settled:
                stable.append(row)
            else:
                one.again[row.key] = row.version
        return stable

    async def _again(self, some: Sequence[_Newcomer]) -> None:
        started = self.shown.sequence
        most = self.settings.page_rows
        keys = [key for one in some for key in islice(one.again, most)]
        found = await self.changes.rows(keys)
        horizon = self.horizons.newest
        for one in some:
            rows = []
            asked = [key for key in one.again if key in found]
            unread = len(asked) < len(one.again)
            for key in asked:
                row, version = found[key], one.again.pop(key)
                if row is None:
                    continue
                if self.shown.touched(key, started):
                    one.again[key] = ""
                elif version in {"", row.version}:
                    rows.append(row)
                else:
                    one.again[key] = row.version
            self._send(one, rows)
            self._settle(one, self.horizons.identity, horizon, unread=unread)

    def _send(self, one: _Newcomer, rows: list[StoredRow]) -> None:
        for row in rows:
            self.deletions.kept.add(row.key)
        if rows and one.device.open:
            self.reports.sender.send_to(one.device, rows)
            for row in rows:
                connection_id = one.device.connection_id
                shown = VersionedRow(row.text, row.updated_at)
                self.shown.sent_to_one(row.key, shown, connection_id)
            one.sent = True

    def _settle(
        self,
        one: _Newcomer,
        identity: str,
        horizon: int | None,
        *,
        unread: bool = False,
    ) -> None:
        """Look again at what is not stable or `unread`, or be done with the device."""
        if one.again:
            soon = unread or "" in one.again.values()
            pause = REREAD_S if soon else self.settings.quiet_s
            self._schedule(one, self.monotonic() + pause)
            return
        self.discard(one.device.connection_id)
        if one.sent and horizon is not None and one.device.open:
            cursor = encode(identity, Cursor(horizon))
            self.reports.sender.send_healed([one.device], SIGN_IN, cursor, None)
