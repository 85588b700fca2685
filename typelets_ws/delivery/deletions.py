"""Rows that have gone: which, and which devices must be shown that.

The number of a user's rows shows that some have gone, the ids kept show which. While
the ids are not known the devices get a digest, and those that sync find the rows.

Invariant: **a row that a page has shown is missed when it is gone**, though no look
has found it. If the user had another number of rows then than is known here, the
devices get a digest.
Tested by tests/integration/delivery/test_returning.py.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ..recovery_ports import RowKey, UserChanges
from .hub import Device
from .kept_ids import MOST_IDS, KeptIds
from .senders import RowSender
from .shown import ShownRows
from .user_states import UserState

__all__ = ["KEPT_BYTES", "Deletions"]

KEPT_BYTES: Final = 32 * 1_048_576
"""Of ids: some 7,000 users of 300 rows."""
UNSURE: Final = -1
"""The ids are not known: a new row may make up for one that has gone."""


@dataclass(frozen=True, slots=True)
class Deletions:
    """Finds unpublished deletions. Times are monotonic seconds."""

    kept: KeptIds
    shown: ShownRows
    sender: RowSender

    def wants_ids(self, user_id: str, state: UserState, *, few: bool) -> bool:
        """Whether the next look reads the user's ids.

        Without `few` there are many users at once: then it waits for the audit.
        """
        if (state.count or 0) > MOST_IDS:
            return False
        missing = self.kept.count(user_id) is None
        return state.recount or (missing and (few or state.horizon is not None))

    def repeat(self, user_id: str, now: float) -> None:
        """Send deletions of late once more: devices that sign in were away."""
        for key in self.kept.gone(user_id, now):
            self.sender.send_deletion(key)

    def repeat_to(self, user_id: str, device: Device, now: float) -> bool:
        """The same for one device; returns whether there were any."""
        keys = self.kept.gone(user_id, now) + self.shown.deletions(user_id)
        self.sender.send_deletions(device, keys)
        return bool(keys)

    def restart(self, user_ids: Iterable[str]) -> None:
        """The database is another one: rows that were deleted may be there again."""
        for user_id in user_ids:
            for key in self.kept.take_gone(user_id):
                self.shown.deleted(key)

    def begin(self, user_id: str, state: UserState) -> None:
        """A look begins: compare with what devices have synced since the last one."""
        paged, state.paged = state.paged, None
        if paged is None:
            return
        expected = self._expected(user_id, state)
        if expected is None:
            state.count = paged
        elif paged != expected:
            state.recount = state.sent = True

    def compare(
        self, user_id: str, state: UserState, changes: UserChanges, now: float
    ) -> list[RowKey] | None:
        """The rows that have gone and are still shown; None if no row has gone.

        The list is empty when their names are not known, or devices know already.
        """
        expected = self._expected(user_id, state)
        if changes.rows and self.kept.count(user_id) is None and expected is not None:
            expected = UNSURE
        state.count = changes.count
        named: list[RowKey] = []
        if changes.packed is not None:
            named = self.kept.replace(user_id, changes.packed, now)
        if not named and expected in {None, changes.count}:
            return None
        known = ((key, self.shown.get(key)) for key in named)
        return [key for key, row in known if row is None or not row.is_removed]

    def _expected(self, user_id: str, state: UserState) -> int | None:
        """How many rows the user has if none has gone; None when it is unknown."""
        count = self.kept.count(user_id)
        return state.count if count is None else count

    @staticmethod
    def lacks_ids(changes: UserChanges) -> bool:
        """Whether a look with digest and ids can tell more than this one."""
        few = (changes.count or 0) <= MOST_IDS
        return changes.digest is None or (few and changes.packed is None)
