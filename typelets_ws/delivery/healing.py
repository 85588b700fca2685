"""Healing: devices are brought to what Postgres holds, independent of what they missed.

One mechanism answers gaps, failed publishes, unreadable events, conflicts of versions
and changes that were never published: a *look* at the rows of a user that were written
since its horizon, and at the rows shown since its last look. Rows that the devices do
not hold are sent (`judging`, `shown`); then the horizon moves on. Invariants:

- **The horizon moves only when nothing is left to send**: no row waits to become
  stable, and there was not more than one look sends or reads.
- **Looks at one user never overlap**: `Recovery` runs one at a time.
- **A horizon is never used with another database than its own**: a look during which
  the database turned out to be another one is thrown away.
- **A user whose rows take long, or meet a fault of this code, costs no other user a
  look**: it is looked at alone, and rests after it.
- **No await between judging a row and queueing its frames.**
- With Postgres away devices are sent `resync_required`, once, and are healed as soon
  as a look succeeds.

Tested by tests/integration/delivery/test_recovery.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ..ports import StoreError
from ..recovery_ports import RowKey, Snapshot, StoredRow, UserChanges
from .cursors import Cursor, encode
from .deletions import Deletions
from .judging import Judge, Verdict
from .looks import Look, LookReader, Users
from .reports import HealReports
from .senders import RowSender
from .user_states import SIGN_IN, UserState, UserStates

__all__ = ["MOST_FAILED", "REST", "SLOW_S", "Healer", "by_its_rows"]

MOST_KNOWN: Final = 5_000
"""Versions remembered of one user; without them rows are compared once more."""
NEXT_PAGE_S: Final = 0.2
"""Between looks at a user with more rows than one look sends."""
READING_S: Final = 10.0
"""The next of several looks waits so long, at most, for a device that is slow to read:
the user's other devices wait with it."""
RETRY_S: Final = 1.0
SLOW_S: Final = 1.0
"""A user whose rows take longer is read alone; after a look it rests as long."""
REST: Final = 5
"""Times as long after one that failed: of all the time of looks, a sixth."""
MOST_FAILED: Final = 2
"""Users in a row whose looks fail alone: then Postgres is slow for all."""


def by_its_rows(failure: Exception) -> bool:
    """Whether what was read may be to blame: looks at other users may succeed."""
    return not isinstance(failure, StoreError) or failure.by_its_rows


@dataclass(slots=True)
class Healer:
    """Looks at users' rows and sends what their devices do not hold.

    `monotonic` in seconds.
    """

    reader: LookReader
    states: UserStates
    sender: RowSender
    reports: HealReports
    deletions: Deletions
    monotonic: Callable[[], float]

    def heal(self, user_id: str, reason: str, delay: float = 0.0) -> None:
        """Check the user in `delay` seconds, and send `healed` afterwards."""
        state = self.states.get(user_id)
        if state is not None:
            if state.reason in {None, SIGN_IN}:
                state.reason = reason
            self.states.schedule(user_id, self.monotonic() + delay)

    async def look(self, user_ids: Sequence[str], *, digest: bool) -> None:
        """Look at these users' rows, and send what is missing.

        Without `digest` only those users have one whose rows may have gone. If a look
        at all of them fails, each is looked at alone.
        """
        generation = self.reader.horizons.generation
        users = self._begun(user_ids, self.monotonic())
        together = [one for one in users if one[1].rests_until is None]
        apart = [one for one in users if one[1].rests_until is not None]
        if len(together) < 2 or not await self._look(together, digest=digest):
            apart = together + apart
        failed = 0
        for one in apart:
            if failed == MOST_FAILED or self.reader.horizons.generation != generation:
                self._retry([one])
            elif not await self._look([one], digest=digest):
                failed += 1

    async def _look(self, users: Users, *, digest: bool) -> bool:
        """Returns False when the look failed by what it had to read."""
        now = self.monotonic()
        try:
            await self._read(users, now, digest=digest)
        except Exception as failure:
            return self._failed(users, failure, now)
        return True

    async def _read(self, users: Users, now: float, *, digest: bool) -> None:
        shown, horizons = self.reader.shown, self.reader.horizons
        started, generation = shown.sequence, horizons.generation
        look = await self.reader.read(users, started, now, digest=digest)
        self._took(users, now)
        # Not earlier than the snapshot: the statement may have waited.
        horizons.observe(look.snapshot, self.monotonic())
        if horizons.generation != generation:
            for user_id, _ in users:
                self.states.schedule(user_id, now)
            return
        for (user_id, state), changes in zip(users, look.changes, strict=True):
            if self.states.get(user_id) is state:  # its last device is still here
                judge = Judge(shown, state, started, now, self.reader.settings.quiet_s)
                self._show(user_id, judge, changes, look)

    def _failed(self, users: Users, failure: Exception, began: float) -> bool:
        """Returns False if looks at each alone may succeed."""
        if not by_its_rows(failure):
            self._retry(users)
            return True
        if len(users) == 1:
            self.reports.failed(users[0][0], failure)
            self._retry(users)
            self._took(users, began, failed=True)
        return False

    def _took(self, users: Users, began: float, *, failed: bool = False) -> None:
        """A look has ended: a user whose look alone takes long rests after it."""
        if len(users) > 1:
            return
        state, seconds = users[0][1], self.monotonic() - began
        state.rests_until = None
        if failed or seconds > SLOW_S:
            rest = max(RETRY_S, seconds * (REST if failed else 1))
            state.rests_until = self.monotonic() + rest

    def _show(
        self, user_id: str, judge: Judge, changes: UserChanges, look: Look
    ) -> None:
        state = judge.state
        if state.horizon is None and not (state.after or state.unfinished):
            self.deletions.repeat(user_id, judge.now)
        for row in changes.rows:
            self.deletions.kept.add(row.key)
            self._act(judge, row, judge.judge(row))
        for key, found in look.unverified.get(user_id, {}).items():
            self._judge_shown(judge, key, found)
        state.unfinished = user_id in look.unfinished
        self._finish(user_id, judge, changes, look.snapshot)

    def _begun(
        self, user_ids: Sequence[str], now: float
    ) -> list[tuple[str, UserState]]:
        """Begin a look at those of the users that can be looked at now."""
        users = [
            (user_id, state)
            for user_id, state in self.states.begun(user_ids)
            if not self._must_wait(user_id, state, now)
        ]
        for user_id, state in users:
            self.deletions.begin(user_id, state)
        return users

    def _must_wait(self, user_id: str, state: UserState, now: float) -> bool:
        """Whether the user rests, or a device has to read what the last look sent."""
        until = state.rests_until or now
        if (state.after or state.unfinished) and now - state.paused_at <= READING_S:
            devices = self.sender.hub.devices_of(user_id)
            if any(device.behind for device in devices):
                until = max(until, now + RETRY_S)
        if until > now:
            self.states.schedule(user_id, until)
        return until > now

    def _act(self, judge: Judge, row: StoredRow, verdict: Verdict) -> None:
        if verdict in {Verdict.HELD, Verdict.WAIT}:
            return
        known = self.reader.shown.get(row.key)
        holder = None if known is None else known.holder_of(row)
        if self.sender.hub.has_other(row.key.user_id, holder):
            self.sender.send(row, holder)
            unannounced = verdict is Verdict.UNANNOUNCED
            self.reports.row_sent(judge.state, row.key, unannounced=unannounced)
        judge.held(row)

    def _judge_shown(self, judge: Judge, key: RowKey, row: StoredRow | None) -> None:
        if row is not None:
            self._act(judge, row, judge.judge_shown(row))
            return
        verdict = judge.absent(key)
        if verdict is Verdict.UNANNOUNCED:
            self._send_deletion(judge.state, key)
        if verdict is not Verdict.WAIT:
            self.deletions.kept.remove(key, judge.now)

    def _send_deletion(self, state: UserState, key: RowKey) -> None:
        self.sender.send_deletion(key)
        self.reader.shown.forget(key)
        self.reports.row_sent(state, key, unannounced=True)

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
            self._pause(user_id, state, now)
            return
        state.waiting, state.collected = state.collected or None, None
        if state.unfinished:
            state.following = state.after = None
            self._pause(user_id, state, now)
            return
        self._find_gone(user_id, judge, changes)
        if state.waiting:
            state.following = state.after = None
            self.states.schedule(user_id, now + self.reader.settings.quiet_s)
            return
        self._advance(state, changes, snapshot.identity)
        self.states.looked(user_id, now)
        unproven = state.sent and state.reason is None and changes.digest is None
        if state.recount or unproven:
            # An event of a deletion may be on its way.
            later = state.recount and state.reason is None
            state.recount = True
            pause = self.reader.settings.quiet_s if later else 0.0
            self.states.schedule(user_id, now + pause)
            return
        self.reports.healed(user_id, state, changes.digest)

    def _pause(self, user_id: str, state: UserState, now: float) -> None:
        """There is more than one look sends or reads: look again soon."""
        state.paused_at = now
        self.states.schedule(user_id, now + NEXT_PAGE_S)
        self.reports.delayed(user_id, state)

    def _advance(self, state: UserState, changes: UserChanges, identity: str) -> None:
        """Move the horizon on: nothing is left to send."""
        state.horizon, state.following = state.following, None
        single, state.after = state.after is None, None
        assert state.horizon is not None, "a look has begun"
        state.cursor = encode(identity, Cursor(state.horizon))
        if single or len(state.known or ()) > MOST_KNOWN:
            state.known = {row.key: row.version for row in changes.rows} or None

    def _find_gone(self, user_id: str, judge: Judge, changes: UserChanges) -> None:
        """Send the deletion of rows that have gone, or have their ids read."""
        state, known = judge.state, self.deletions.kept.count(user_id) is not None
        gone = self.deletions.compare(user_id, state, changes, judge.now)
        state.recount = gone is not None and self.deletions.lacks_ids(changes)
        state.sent |= gone is not None and not (known and state.recount)
        for key in gone or ():
            self._send_deletion(state, key)
        self.sender.hub.flush()

    def _retry(self, users: Users) -> None:
        """Postgres is away: say so to those who are owed a heal, and look again."""
        for user_id, state in users:
            if state.reason is not None or state.waiting or state.after is not None:
                self.reports.delayed(user_id, state)
                self.states.schedule(user_id, self.monotonic() + RETRY_S)
