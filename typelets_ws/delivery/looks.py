"""Reads the rows of a look at some users; see `healing`."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from ..config.model import RecoverySettings
from ..recovery_ports import (
    Changes,
    Extent,
    RowKey,
    Since,
    Snapshot,
    StoredRow,
    UserChanges,
)
from .deletions import Deletions
from .horizons import Horizons
from .kept_ids import MOST_IDS
from .shown import ShownRows
from .user_states import UserState

__all__ = ["Look", "LookReader", "Rows", "Users"]

MOST_UNVERIFIED: Final = 200
"""Rows of one user read by id in one look; the others wait for the next."""

Rows = Mapping[RowKey, StoredRow | None]
Users = Sequence[tuple[str, UserState]]


class Look(NamedTuple):
    """The result of one look: changes in the order of its users."""

    snapshot: Snapshot
    changes: list[UserChanges]
    unverified: Mapping[str, Rows]
    """By user: rows that were shown and are not among the changes; None if absent."""
    unfinished: Collection[str]
    """Users with more such rows than one look reads."""


@dataclass(frozen=True, slots=True)
class LookReader:
    """Reads the rows of some users, each from its own horizon."""

    database: Changes
    shown: ShownRows
    horizons: Horizons
    deletions: Deletions
    settings: RecoverySettings

    async def read(
        self, users: Users, started: int, now: float, *, digest: bool
    ) -> Look:
        """Read the changes of these users, and their rows shown before `started`.

        `now` in monotonic seconds. Raises `StoreError`.
        """
        wanted = [
            self._since(user_id, state, now, digest=digest) for user_id, state in users
        ]
        rows, size = self.settings.page_rows, self.settings.page_bytes
        extent = Extent(rows, size, digest=True, counts=True, packed=MOST_IDS)
        snapshot, changes = await self.database.changed(wanted, extent)
        unverified, unfinished = await self._read_unverified(
            users, changes, snapshot, started
        )
        return Look(snapshot, changes, unverified, unfinished)

    def _since(
        self, user_id: str, state: UserState, now: float, *, digest: bool
    ) -> Since:
        settled = self.horizons.before(self.settings.quiet_s, now)
        horizon, within = state.horizon, None
        if horizon is None:
            # A first look: as far back as the database's history is known, and beyond
            # that by the rows' own times.
            replay_s = self.settings.replay_s
            horizon, age = self.horizons.oldest(replay_s, now) or (None, 0.0)
            within = None if age >= replay_s else replay_s
        packed = self.deletions.wants_ids(user_id, state, few=digest)
        digest = digest or state.recount
        return Since(user_id, horizon, state.after, settled, within, digest, packed)

    async def _read_unverified(
        self,
        users: Users,
        found: Sequence[UserChanges],
        snapshot: Snapshot,
        started: int,
    ) -> tuple[Mapping[str, Rows], Collection[str]]:
        """The rows, and the users with more; only with the last page of changes.

        Rows that have changed since the changes were read are not settled.
        """
        horizons: dict[str, int] = {}
        keys: list[RowKey] = []
        unfinished: set[str] = set()
        for (user_id, state), changes in zip(users, found, strict=True):
            if changes.more:
                continue
            known = (state.horizon, state.following, snapshot.horizon)
            horizons[user_id] = next(one for one in known if one is not None)
            changed = {row.key for row in changes.rows}
            unverified = self.shown.unverified(user_id, started)
            wanted = [key for key in unverified if key not in changed]
            keys += wanted[:MOST_UNVERIFIED]
            if len(wanted) > MOST_UNVERIFIED:
                unfinished.add(user_id)
        rows = await self.database.rows(keys, before=horizons) if keys else {}
        unfinished |= {key.user_id for key in keys if key not in rows}
        by_user: dict[str, dict[RowKey, StoredRow | None]] = defaultdict(dict)
        for key, row in rows.items():
            by_user[key.user_id][key] = row
        return by_user, unfinished
