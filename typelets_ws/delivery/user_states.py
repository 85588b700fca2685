"""How far the devices of each user are known to be correct. Pure.

`UserState.horizon`: every device of the user on this process shows each change that
was committed below it. It only grows, and only by the horizon of a snapshot of which
no change is left to send. Times are monotonic seconds.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Final

from ..recovery_ports import RowKey, RowKind

__all__ = [
    "AUDIT", "DATABASE_CHANGED", "SIGN_IN", "FirstLook", "UserState", "UserStates",
]  # fmt: skip

AUDIT: Final = "audit"
SIGN_IN: Final = "sign_in"
DATABASE_CHANGED: Final = "database_changed"
"""Reasons of a heal, beside those of gaps."""


MIXED: Final = -1
"""Devices synced when the user had different numbers of rows."""


@dataclass(frozen=True, slots=True)
class FirstLook:
    """A change that is sent once it has had the same version for a while.

    `version` is empty for a row that does not exist.
    """

    version: str
    at: float


@dataclass(slots=True)
class UserState:
    """Recovery's state of one user with a device here. 300 bytes when idle."""

    looked_at: float
    horizon: int | None = None
    cursor: str | None = None
    """`horizon` as a cursor, for `pong`."""
    count: int | None = None
    """Rows the user had at the last whole look."""
    paged: int | None = None
    """Rows the user had when devices synced since the last look; see `MIXED`."""
    begun: bool = False
    """Whether a first look has begun: devices that come later are newcomers."""
    reason: str | None = None
    """Why the devices must be healed; None while there is only the audit."""
    told: bool = False
    """Whether `resync_required` was sent for this reason."""
    sent: bool = False
    """Whether rows were sent since the last `healed`."""
    recount: bool = False
    """Whether the next look reads the ids and the digest: rows may have gone."""
    due: float | None = None
    """When the next look is due; None leaves it to the audit."""
    after: tuple[RowKind, str] | None = None
    """Where the last look stopped, when there was too much for one."""
    unfinished: bool = False
    """Whether the last look left rows to verify that were shown."""
    paused_at: float = 0.0
    """When the last of several looks ended."""
    rests_until: float | None = None
    """When the next look may begin if the last one alone was slow; None if it was not.
    """
    following: int | None = None
    """The horizon of the first of several looks, which follows the last."""
    known: dict[RowKey, str] | None = None
    """Versions at or above `horizon` that the devices hold."""
    waiting: dict[RowKey, FirstLook] | None = None
    """Rows that the last whole look did not send yet."""
    collected: dict[RowKey, FirstLook] | None = None
    """Those of the look that is under way, over several pages."""

    def add_page(self, count: int) -> None:
        """A device has synced: it holds the `count` rows that the user had then."""
        self.paged = count if self.paged in {None, count} else MIXED

    def restart(self) -> None:
        """Forget what was read of a database that is not the one in use any more."""
        self.horizon = self.following = self.count = None
        self.cursor = self.after = None
        self.known = self.waiting = self.collected = None
        self.recount, self.unfinished = True, False


class UserStates:
    """The users with a device here, in the order of their last look."""

    def __init__(self) -> None:
        self._states: OrderedDict[str, UserState] = OrderedDict()
        self._due: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._states)

    def __iter__(self) -> Iterator[str]:
        return iter(self._states)

    def get(self, user_id: str) -> UserState | None:
        """The state of a user with a device here."""
        return self._states.get(user_id)

    def begun(self, user_ids: Sequence[str]) -> list[tuple[str, UserState]]:
        """Those of the users that have a device here; a look at them begins."""
        known = [(user_id, self._states.get(user_id)) for user_id in user_ids]
        users = [(user_id, state) for user_id, state in known if state is not None]
        for _, state in users:
            state.begun = True
        return users

    def add(self, user_id: str, now: float) -> UserState:
        """The user has a device here; the state is new for the first one."""
        state = self._states.get(user_id)
        if state is None:
            state = self._states[user_id] = UserState(now)
        return state

    def discard(self, user_id: str) -> None:
        """The user's last device is gone."""
        self._states.pop(user_id, None)

    def restart(self) -> None:
        """The database is another one."""
        for state in self._states.values():
            state.restart()

    def schedule(self, user_id: str, when: float) -> None:
        """Have the user looked at no later than this."""
        state = self._states.get(user_id)
        if state is not None and (state.due is None or when < state.due):
            state.due = when
            heappush(self._due, (when, user_id))

    def take_due(self, now: float, most: int) -> list[str]:
        """At most so many users whose look is due, which is not scheduled any more."""
        found: list[str] = []
        while self._due and self._due[0][0] <= now and len(found) < most:
            when, user_id = heappop(self._due)
            state = self._states.get(user_id)
            if state is not None and state.due == when:
                state.due = None
                found.append(user_id)
        return found

    def next_due(self) -> float | None:
        """When the next look is due."""
        return self._due[0][0] if self._due else None

    def looked(self, user_id: str, now: float) -> None:
        """A look at the user's rows is complete."""
        state = self._states.get(user_id)
        if state is not None:
            state.looked_at = now
            self._states.move_to_end(user_id)

    def oldest(self, before: float, most: int) -> list[str]:
        """At most so many users whose last look was at or before this time.

        Those who have a look scheduled are left out.
        """
        found: list[str] = []
        for user_id, state in self._states.items():
            if state.looked_at > before or len(found) == most:
                break
            if state.due is None:
                found.append(user_id)
        return found

    def next_audit(self, audit_s: float) -> float:
        """When the next user's look is as old as this."""
        for state in self._states.values():
            if state.due is None:
                return state.looked_at + audit_s
        return math.inf

    def staleness(self, now: float) -> float:
        """The age of the oldest look, in seconds: the bound on missed changes."""
        for state in self._states.values():
            return now - state.looked_at
        return 0.0
