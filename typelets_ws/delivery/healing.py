"""Healing: devices are brought to what Postgres holds, independent of what they missed.

One mechanism answers gaps, failed publishes, unreadable events, conflicts of versions
and changes that were never published: a *look* at the rows of a user that were written
since its horizon, and at the rows shown since its last look. Rows that the devices do
not hold are sent (`judging`, `shown`); then the horizon moves on. Invariants:

- **The horizon moves only when nothing is left to send**: no row waits to become
  stable, and there was not more than one look can send.
- **Looks at one user never overlap**: `Recovery` runs one at a time.
- **A horizon is never used with another database than its own**: a look during which
  the database turned out to be another one is thrown away.
- **No await between judging a row and queueing its frames.**
- With Postgres away devices are sent `resync_required`, once, and are healed as soon
  as a look succeeds.

Tested by tests/integration/delivery/test_recovery.py.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ..config.model import Recovery as Settings
from ..ports import StoreError
from ..recovery_ports import (
    Changes,
    Digest,
    Extent,
    RowKey,
    Since,
    Snapshot,
    StoredRow,
    UserChanges,
)
from ..telemetry.telemetry import Telemetry
from .cursors import Cursor, encode
from .deletions import Deletions
from .horizons import Horizons
from .judging import Judge, Verdict
from .kept_ids import MOST_IDS
from .resync import ResyncSender
from .senders import RowSender
from .shown import ShownRows
from .user_states import AUDIT, SIGN_IN, UserState, UserStates

__all__ = ["Healer"]

MOST_KNOWN: Final = 5_000
"""Versions remembered of one user; without them rows are compared once more."""
MOST_UNVERIFIED: Final = 1_000
"""Rows read by id in one look; the others wait for the next."""
NEXT_PAGE_S: Final = 0.2
"""Between looks at a user with more rows than one look sends."""
RETRY_S: Final = 1.0

Rows = Mapping[RowKey, StoredRow | None]


@dataclass(slots=True)
class Healer:
    """Looks at users' rows and sends what their devices do not hold.

    `monotonic` in seconds.
    """

    changes: Changes
    sender: RowSender
    shown: ShownRows
    horizons: Horizons
    states: UserStates
    settings: Settings
    telemetry: Telemetry
    monotonic: Callable[[], float]
    resync: ResyncSender
    deletions: Deletions

    def heal(self, user_id: str, reason: str, delay: float = 0.0) -> None:
        """Check the user in `delay` seconds, and send `healed` afterwards."""
        state = self.states.get(user_id)
        if state is not None:
            if state.reason in {None, SIGN_IN}:
                state.reason = reason
            self.states.schedule(user_id, self.monotonic() + delay)

    async def look(self, user_ids: Sequence[str], *, digest: bool) -> None:
        """Look at these users' rows, and send what is missing.

        Without `digest` only those users have one whose rows may have gone.
        """
        started, now = self.shown.sequence, self.monotonic()
        generation = self.horizons.generation
        users = [
            (user_id, state)
            for user_id in user_ids
            if (state := self.states.get(user_id)) is not None
        ]
        for _, state in users:
            state.begun = True
        wanted = [
            self._since(user_id, state, now, digest=digest) for user_id, state in users
        ]
        rows, size = self.settings.page_rows, self.settings.page_bytes
        extent = Extent(rows, size, digest=True, counts=True, packed=MOST_IDS)
        try:
            snapshot, found = await self.changes.changed(wanted, extent)
            self.horizons.observe(snapshot, self.monotonic())
            unverified = await self._read_unverified(users, found, started)
        except StoreError:
            self._retry(users)
            return
        if self.horizons.generation != generation:
            for user_id, _ in users:
                self.states.schedule(user_id, now)
            return
        for (user_id, state), changes in zip(users, found, strict=True):
            if self.states.get(user_id) is not state:
                continue  # its last device has gone meanwhile
            judge = Judge(self.shown, state, started, now, self.settings.quiet_s)
            if state.horizon is None and state.after is None:
                self.deletions.repeat(user_id, now)
            for row in changes.rows:
                self.deletions.kept.add(row.key)
                self._judge(judge, row, changed=True)
            for key in [key for key in unverified if key.user_id == user_id]:
                self._judge_shown(judge, key, unverified[key])
            self._finish(user_id, judge, changes, snapshot)

    async def reread(self, keys: Collection[RowKey]) -> list[RowKey]:
        """Send these rows as they are: what was shown of them is in conflict.

        Returns the keys that must be read again.
        """
        started = self.shown.sequence
        try:
            found = await self.changes.rows(list(keys), versions=False)
        except StoreError:
            self.resync.send({key.user_id for key in keys}, "conflict")
            for key in keys:
                self.heal(key.user_id, "conflict")
            return []
        again = [key for key in keys if self.shown.touched(key, started)]
        for key, row in found.items():
            if not self.shown.touched(key, started):
                self.sender.send(row)
                self.shown.sent(row)
                self.telemetry.metrics.repairs.inc()
        self.sender.hub.flush()
        return again

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
        users: Sequence[tuple[str, UserState]],
        found: Sequence[UserChanges],
        started: int,
    ) -> Rows:
        """Rows that were shown and are not among the changes; None if absent.

        Only with the last page of changes.
        """
        horizons: dict[str, int] = {}
        keys: list[RowKey] = []
        for (user_id, state), changes in zip(users, found, strict=True):
            if changes.more:
                continue
            if state.horizon is not None:
                horizons[user_id] = state.horizon
            changed = {row.key for row in changes.rows}
            unverified = self.shown.unverified(user_id, started)
            keys += [key for key in unverified if key not in changed]
        keys = keys[:MOST_UNVERIFIED]
        if not keys:
            return {}
        rows = await self.changes.rows(keys, before=horizons)
        return {key: rows.get(key) for key in keys}

    def _judge(self, judge: Judge, row: StoredRow, *, changed: bool) -> None:
        verdict = judge.judge(row, changed=changed)
        if verdict in {Verdict.HELD, Verdict.WAIT}:
            return
        known = self.shown.get(row.key)
        holder = None if known is None else known.holder_of(row)
        if self.sender.hub.has_other(row.key.user_id, holder):
            self.sender.send(row, holder)
            self._count(judge.state, verdict, row.key)
        judge.held(row)

    def _judge_shown(self, judge: Judge, key: RowKey, row: StoredRow | None) -> None:
        if row is not None:
            # Below a horizon it is as it was when the devices were known to hold it.
            self._judge(judge, row, changed=judge.state.horizon is None)
            return
        verdict = judge.absent(key)
        if verdict is Verdict.UNANNOUNCED:
            self._send_deletion(judge.state, key)
        if verdict is not Verdict.WAIT:
            self.deletions.kept.remove(key, judge.now)

    def _send_deletion(self, state: UserState, key: RowKey) -> None:
        self.sender.send_deletion(key)
        self.shown.forget(key)
        self._count(state, Verdict.UNANNOUNCED, key)

    def _count(self, state: UserState, verdict: Verdict, key: RowKey) -> None:
        """Count a row sent; one that no event announced also as a fault of others."""
        metrics = self.telemetry.metrics
        reason = state.reason or AUDIT
        metrics.healed_rows.labels(reason).inc()
        if verdict is Verdict.UNANNOUNCED and state.reason is None:
            table = f"{key.kind}s"
            metrics.unannounced_changes.labels(table).inc()
            self.telemetry.log.warning(
                "unannounced_change", table=table, user=key.user_id
            )
        state.sent = True

    def _finish(
        self, user_id: str, judge: Judge, changes: UserChanges, snapshot: Snapshot
    ) -> None:
        """Move on: to the next page, the next look, or the next horizon."""
        state, now = judge.state, self.monotonic()
        self.sender.hub.flush()
        state.collected = {**(state.collected or {}), **judge.waiting}
        if state.following is None:
            state.following = snapshot.horizon
        if changes.more:
            last = changes.rows[-1].key
            state.after = (last.kind, last.row_id)
            self.states.schedule(user_id, now + NEXT_PAGE_S)
            self._tell(user_id, state)
            return
        following, state.following = state.following, None
        single, state.after = state.after is None, None
        state.waiting, state.collected = state.collected or None, None
        self._find_gone(user_id, judge, changes)
        if state.waiting:
            self.states.schedule(user_id, now + self.settings.quiet_s)
            return
        state.horizon = following
        state.cursor = encode(snapshot.identity, Cursor(following))
        if single or len(state.known or ()) > MOST_KNOWN:
            state.known = {row.key: row.version for row in changes.rows} or None
        self.states.looked(user_id, now)
        unproven = state.sent and state.reason is None and changes.digest is None
        if state.recount or unproven:
            # An event of a deletion may be on its way.
            later = state.recount and state.reason is None
            state.recount = True
            pause = self.settings.quiet_s if later else 0.0
            self.states.schedule(user_id, now + pause)
            return
        self._healed(user_id, state, changes.digest)

    def _find_gone(self, user_id: str, judge: Judge, changes: UserChanges) -> None:
        """Send the deletion of rows that have gone, or have their ids read."""
        state, known = judge.state, self.deletions.kept.count(user_id) is not None
        gone = self.deletions.compare(user_id, state, changes, judge.now)
        state.recount = gone is not None and self.deletions.lacks_ids(changes)
        state.sent |= gone is not None and not (known and state.recount)
        for key in gone or ():
            self._send_deletion(state, key)
        self.sender.hub.flush()

    def _healed(self, user_id: str, state: UserState, digest: Digest | None) -> None:
        reason = state.reason or AUDIT
        news = state.sent or reason not in {AUDIT, SIGN_IN}
        state.reason, state.sent, state.told = None, False, False
        if news and state.cursor is not None:
            devices = self.sender.hub.devices_of(user_id)
            self.sender.send_healed(devices, reason, state.cursor, digest)
            self.telemetry.metrics.heals.labels(reason).inc()

    def _retry(self, users: Sequence[tuple[str, UserState]]) -> None:
        """Postgres is away: say so to those who are owed a heal, and look again."""
        for user_id, state in users:
            if state.reason is not None or state.waiting or state.after is not None:
                self._tell(user_id, state)
                self.states.schedule(user_id, self.monotonic() + RETRY_S)

    def _tell(self, user_id: str, state: UserState) -> None:
        """Send `resync_required`, once for each reason."""
        if state.reason and state.reason != SIGN_IN and not state.told:
            state.told = True
            self.resync.send([user_id], state.reason)
