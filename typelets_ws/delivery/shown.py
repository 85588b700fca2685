"""The version of each row that this process has sent to users with a device here. Pure.

Invariants:

- **No comparison of timestamps decides what is right.** An older `updatedAt` than the
  one shown is a reason to read the row, nothing more: hosts' clocks differ.
- **`sequence` orders showing and reading.** A row read by a statement that began at
  sequence s may be older than what was shown after s (`touched`), and newer or equal
  to what was shown before.
- **Every row shown is verified** against Postgres by the next audit of its user
  (`unverified`), also when the row itself has not changed since the last one: that is
  what a late event of an older version looks like.
- Memory is bounded by `max_bytes`: a user above an equal share evicts own rows, any
  other the row shown longest ago. An evicted row is unknown, so it may be sent once
  more; nothing is missed.

Tested by tests/unit/delivery/test_shown.py.
"""

from collections import OrderedDict
from typing import Final

from ..ports import VersionedRow
from ..recovery_ports import RowKey, StoredRow
from .shown_row import ShownRow, Step, is_complete

__all__ = ["SHOWN_BYTES", "ShownRows"]

SHOWN_BYTES: Final = 32 * 1_048_576
"""Of rows shown and their changes: some 20,000 rows of 1 KB."""


class _User:
    """The keys of one user's rows: remembered, and shown since they were verified."""

    __slots__ = ("keys", "paged", "unverified", "used")

    def __init__(self) -> None:
        self.keys: dict[RowKey, None] = {}
        """The one shown longest ago is the first."""
        self.used = 0
        """Bytes of its rows."""
        self.unverified: dict[RowKey, int] = {}
        """With the sequence of the last showing, which is their order: those shown all
        the time keep no other from being verified."""
        self.paged = 0
        """The sequence of the last page of a sync."""


class ShownRows:
    """The rows shown to users with a device here."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._used = 0
        self._rows: OrderedDict[RowKey, ShownRow] = OrderedDict()
        self._users: dict[str, _User] = {}
        self.sequence = 0

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def used_bytes(self) -> int:
        """Bytes held, about."""
        return self._used

    def add_user(self, user_id: str) -> None:
        """The user has a device here: note what is shown."""
        if user_id not in self._users:
            self._users[user_id] = _User()

    def discard_user(self, user_id: str) -> None:
        """The last device is gone; what is shown elsewhere is not known here."""
        user = self._users.pop(user_id, None)
        if user is not None:
            for key in user.keys:
                self._used -= self._rows.pop(key).counted

    def get(self, key: RowKey) -> ShownRow | None:
        """The row as shown, if it is remembered."""
        return self._rows.get(key)

    def is_stale(
        self, key: RowKey, version: str | None, holder: str | None = None
    ) -> bool:
        """Whether the row `is_newer` as it was shown; see `ShownRow`."""
        row = self._rows.get(key)
        return row is not None and row.is_newer(version, holder)

    def touched(self, key: RowKey, sequence: int) -> bool:
        """Whether the row was shown after `sequence`."""
        row = self._rows.get(key)
        return row is not None and row.sequence > sequence

    def since(self, user_id: str, sequence: int) -> list[RowKey]:
        """The user's rows shown after `sequence` that were not shown as deleted."""
        user = self._users.get(user_id)
        rows = self._rows
        return [
            key
            for key in (user.keys if user is not None else ())
            if rows[key].sequence > sequence and not rows[key].gone
        ]

    def page_sent(self, user_id: str) -> None:
        """A device was sent a page: its rows may be shown without being remembered."""
        user = self._users.get(user_id)
        if user is not None:
            self.sequence += 1
            user.paged = self.sequence

    def overtaken(self, key: RowKey, sequence: int) -> bool:
        """Whether the row was shown after `sequence`, or may have been by a page."""
        user = self._users.get(key.user_id)
        paged = user is not None and user.paged > sequence and key not in self._rows
        return paged or self.touched(key, sequence)

    def unverified(self, user_id: str, sequence: int) -> list[RowKey]:
        """The user's rows shown up to `sequence` that were not verified since."""
        user = self._users.get(user_id)
        if user is None:
            return []
        return [key for key, at in user.unverified.items() if at <= sequence]

    def unverify(self) -> None:
        """Have every row remembered compared with the database once more."""
        for user in self._users.values():
            for key in user.keys:
                user.unverified.setdefault(key, self._rows[key].sequence)

    def updated(
        self,
        key: RowKey,
        changes: bytes,
        row: bytes,
        version: str | None,
        *,
        holder: str | None = None,
        alone: bool = False,
    ) -> bool:
        """An event of an update was shown to all but its holder, which wrote it.

        `alone`: there was no other device, so the holder's copy is all there is.
        False, and nothing is noted, if it must not be shown: the event `is_stale`, or
        the row is shown as deleted, and devices that removed it ignore an update.
        """
        known = self._rows.get(key)
        if known is not None and (known.gone or known.is_newer(version, holder)):
            return False
        known = self._touch(key, known)
        if known is None:
            return True
        older = known.was_replied_to(holder) and version != known.version
        before = older or known.was_shown_to(holder, version)
        step = Step(changes, row, holder, holds=not before)
        if not alone:
            known.add(step)
        elif not older:
            known.add_alone(step)
        if not older:
            known.take_version(version, holder)
        known.event_version = version or known.event_version
        self._weigh(key, known)
        return True

    def created(
        self,
        key: RowKey,
        row: bytes,
        version: str | None,
        *,
        holder: str | None = None,
    ) -> None:
        """An event of a creation was shown; devices that know the row ignore it.

        It did not go to its holder, which has removed the row if its deletion was
        shown since.
        """
        known = self._touch(key, self._rows.get(key))
        if known is None:
            return
        if known.gone or known.is_new:
            # Devices that were shown the row since its deletion keep what they hold.
            apart = known.mixed or any(step.row != row for step in known.steps)
            if known.gone and holder is not None:
                apart |= not known.was_shown_to(holder, version)
            whole = is_complete(row) and not apart
            known.rebase(row if whole else None, mixed=apart)
        if known.base != row or known.steps:
            known.add(Step(b"{}", row, None))
        known.version = known.event_version = version or known.version
        known.gone = known.replied = False
        self._weigh(key, known)

    def deleted(self, key: RowKey) -> None:
        """A deletion was shown."""
        known = self._touch(key, self._rows.get(key))
        if known is None:
            return
        known.version = known.event_version = known.holder = None
        known.rebase(None)
        known.gone, known.replied = True, False
        self._weigh(key, known)

    def replied(self, key: RowKey, row: VersionedRow, connection_id: str) -> None:
        """The writer was shown the row it wrote; the event is still on its way."""
        known = self._touch(key, self._rows.get(key))
        if known is None:
            return
        known.version, known.holder, known.replied = row.updated_at, connection_id, True
        known.add(Step(None, row.row, connection_id, version=row.updated_at))
        self._weigh(key, known)

    def sent_to_one(self, key: RowKey, row: VersionedRow, connection_id: str) -> None:
        """One device was sent the whole row, as Postgres holds it.

        It may be newer than what the others were shown, and be changed back before
        the next look.
        """
        known = self._rows.get(key)
        if known is None or (known.base == row.row and not known.steps):
            return
        self._touch(key, known)
        known.add(Step(None, row.row, connection_id, version=row.updated_at))
        self._weigh(key, known)

    def sent(self, row: StoredRow) -> None:
        """The stored row was sent whole to all devices, or verified to be held."""
        known = self._touch(row.key, self._rows.get(row.key))
        if known is None:
            return
        known.version = known.event_version = row.updated_at
        known.rebase(row.text)
        known.holder = None
        known.gone = known.replied = False
        self._weigh(row.key, known)

    def deletions(self, user_id: str) -> list[RowKey]:
        """The user's rows whose deletion was shown last, and is not verified."""
        user = self._users.get(user_id)
        return [] if user is None else [k for k in user.keys if self._rows[k].gone]

    def is_unverified(self, key: RowKey) -> bool:
        """Whether the row was shown since it was verified."""
        user = self._users.get(key.user_id)
        return user is not None and key in user.unverified

    def verified(self, key: RowKey) -> None:
        """The row as shown equals the stored one, until it is shown again."""
        user = self._users.get(key.user_id)
        if user is not None:
            user.unverified.pop(key, None)

    def forget(self, key: RowKey) -> None:
        """The row does not exist, and the devices know."""
        self._drop(key)
        self.verified(key)

    def _touch(self, key: RowKey, known: ShownRow | None) -> ShownRow | None:
        """The entry to change, `known` if there is one; None when no device here is
        the user's."""
        user = self._users.get(key.user_id)
        if user is None:
            return None
        self.sequence += 1
        if known is None:
            known = self._rows[key] = ShownRow()
        else:
            self._rows.move_to_end(key)
            del user.keys[key]
        user.keys[key] = None
        user.unverified.pop(key, None)
        known.sequence = user.unverified[key] = self.sequence
        return known

    def _weigh(self, key: RowKey, known: ShownRow) -> None:
        user, more = self._users[key.user_id], known.size - known.counted
        self._used += more
        user.used += more
        known.counted = known.size
        while self._used > self._max_bytes:
            crowded = user.used * len(self._users) > self._max_bytes
            self._drop(next(iter(user.keys if crowded else self._rows)))

    def _drop(self, key: RowKey) -> None:
        known = self._rows.pop(key, None)
        if known is not None:
            user = self._users[key.user_id]
            self._used -= known.counted
            user.used -= known.counted
            del user.keys[key]
