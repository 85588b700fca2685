"""Recovery as the rest of the daemon sees it, and the one task that does its work.

`run` keeps the horizon and does what is due, in turns: rows in conflict, users to be
healed, devices that have signed in, the audit. One statement at a time, so looks at one
user never overlap; `sync` pages run beside it, and both share the quarter of the pool
that is recovery's. The audit rests so long after each statement that it takes no more
than `audit_share` of the time.

While recovery is off (setting, privileges, server version, standby) `heal` sends
`resync_required`, as the first release did, and everything else works.
"""

import asyncio
from collections.abc import Callable, Collection
from math import ceil
from typing import Final, Protocol

from msgspec import UNSET

from ..config.model import RecoverySettings
from ..ports import StoreError
from ..protocol import client_messages, messages
from ..recovery_ports import Changes, HorizonMemory
from ..telemetry.telemetry import Telemetry
from .alarm import Alarm
from .conflicts import Conflicts
from .deletions import KEPT_BYTES, Deletions
from .healing import Healer
from .horizon_keeper import HorizonKeeper
from .horizons import Horizons
from .hub import Device
from .kept_ids import KeptIds
from .looks import LookReader
from .newcomers import Newcomers
from .reports import HealReports
from .resync import ResyncSender
from .senders import RowSender
from .shown import SHOWN_BYTES, ShownRows
from .sign_ins import SignIns
from .syncing import Syncer
from .user_states import DATABASE_CHANGED, SIGN_IN, UserStates

__all__ = ["Recovery"]

HORIZON_S: Final = 2.0
"""Between horizons: `auth_success` has the newest one."""
RECALL_RETRY_S: Final = 0.2
"""Between horizons at the start, while those of earlier processes are not known."""
UNSUPPORTED_S: Final = 30.0
"""Between looks for missing privileges: a GRANT needs no restart."""
AWAY_S: Final = 1.0
SIGN_IN_S: Final = 0.4
"""After `auth_success`: a client that syncs has asked by then."""
GATHERED_S: Final = 0.1
"""Sign-ins within this time are looked at in one statement."""
AUDIT_GAP_S: Final = 0.05
BATCH: Final = 25
"""A look at so many users with some changes each takes the loop for milliseconds.
While more are due, recovery rests after each as long as it took: clients' updates go
on (row `gap` of scripts/bench)."""
AUDIT_BATCH: Final = 100
DIGESTS: Final = 10
"""Larger batches of heals have none unless rows came or went: 2 ms of Postgres each."""


class Peer(Protocol):
    """The session of a device."""

    @property
    def authenticated(self) -> bool: ...
    @property
    def user_id(self) -> str: ...

    connection_id: str


class Recovery:
    """Healing, audit and sync. `on` while the setting and Postgres allow it.

    `monotonic` in seconds.
    """

    def __init__(
        self,
        changes: Changes,
        sender: RowSender,
        resync: ResyncSender,
        memory: HorizonMemory,
        settings: RecoverySettings,
        telemetry: Telemetry,
        monotonic: Callable[[], float],
    ) -> None:
        self._monotonic = monotonic
        self._changes, self._hub = changes, sender.hub
        self._settings, self._telemetry = settings, telemetry
        self.on = False
        self.shown = shown = ShownRows(SHOWN_BYTES)
        self.resync = resync.send
        self.states = UserStates()
        self.horizons = Horizons(settings.replay_s + 2 * HORIZON_S)
        self._keeper = HorizonKeeper(changes, memory, self.horizons, monotonic)
        self._sign_ins = SignIns(self._hub, self.states, self.horizons, monotonic)
        kept = KeptIds(KEPT_BYTES, settings.replay_s)
        self.deletions = Deletions(kept, shown, sender)
        self._syncer = Syncer(changes, shown, self.horizons, kept, settings, monotonic)
        looks = LookReader(changes, shown, self.horizons, self.deletions, settings)
        reports = HealReports(sender, resync, telemetry)
        self._healer = Healer(
            looks, self.states, sender, reports, self.deletions, monotonic
        )
        self._newcomers = Newcomers(
            changes, reports, shown, self.horizons, settings, monotonic, self.deletions
        )
        self._alarm = Alarm(monotonic)
        self.conflicts = Conflicts(changes, sender, shown, self._alarm, self.heal)
        self._audit_at, self._generation = 0.0, 0
        self._why: str | None = None

    # For the session.

    @property
    def cursor(self) -> str | None:
        """The cursor for `auth_success`."""
        return self.horizons.cursor if self.on else None

    def pong_cursor(self, session: Peer) -> str | None:
        """All that was committed before it was sent to this device; None: unknown."""
        if not self.on:
            return None
        state = self.states.get(session.user_id)  # "" before it has authenticated
        if state is None or session.connection_id in self._newcomers.waiting:
            return None
        return state.cursor if self._generation == self.horizons.generation else None

    async def sync(
        self, user_id: str, connection_id: str, message: client_messages.Sync
    ) -> messages.SyncPage:
        """Answer `sync`. Raises `ClientError` or `StoreError`."""
        self._newcomers.postpone(connection_id)
        self._sign_ins.postpone(user_id, connection_id)
        page = await self._syncer.page(user_id, connection_id, message)
        self._telemetry.metrics.syncs.inc()
        if page.more:
            self._newcomers.postpone(connection_id)
            self._sign_ins.postpone(user_id, connection_id)
        else:
            self._newcomers.discard(connection_id)
            self._sign_ins.cancel(user_id, connection_id)
            if (state := self.states.get(user_id)) and page.digest is not UNSET:
                state.add_page(page.digest.notes.count + page.digest.folders.count)
        return page

    def attach(self, user_id: str, device: Device) -> None:
        """A device has authenticated; it is healed unless it syncs by itself."""
        now, state = self._monotonic(), self.states.get(user_id)
        self.shown.add_user(user_id)
        if not self._settings.enabled:
            return
        due = ceil((now + SIGN_IN_S) / GATHERED_S) * GATHERED_S
        if state is None:
            self.deletions.kept.enter(user_id, now)
            self.states.add(user_id, now).reason = SIGN_IN
            self.states.schedule(user_id, due)
        elif state.begun or self.shown.unverified(user_id, self.shown.sequence):
            # The first look takes rows shown before for held by this device as well.
            self._newcomers.add(user_id, device, due)
        self._alarm.ring_by(due)

    def detach(self, user_id: str, device: Device) -> None:
        """The device has left the hub."""
        self._newcomers.discard(device.connection_id)
        if not self._hub.count(user_id):
            self.states.discard(user_id)
            self.shown.discard_user(user_id)
            self.deletions.kept.leave(user_id, self._monotonic())

    def heal(self, user_ids: Collection[str], reason: str, delay: float = 0.0) -> None:
        """The users' devices may have missed something: heal them in `delay` s."""
        if not self.on:
            self.resync(user_ids, reason, delay)
            return
        for user_id in user_ids:
            self._healer.heal(user_id, reason, delay)
        self._alarm.ring()

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            if self._settings.enabled:
                group.create_task(self._keep_horizon())
                group.create_task(self._syncer.gathered.run())
            group.create_task(self._work())

    async def _keep_horizon(self) -> None:
        while True:
            pause = AWAY_S
            try:
                if not self.on:
                    self._switch(await self._changes.supported())
                if self.on:
                    await self._keeper.take()
                    pause = HORIZON_S if self._keeper.ready else RECALL_RETRY_S
                    self._alarm.ring()
                else:
                    pause = UNSUPPORTED_S
            except StoreError:
                pass  # the store reports it
            except Exception:
                self._telemetry.log.exception("horizon_failed")
            await asyncio.sleep(pause)

    def _switch(self, why_not: str | None) -> None:
        self.on = why_not is None
        self._telemetry.metrics.recovery_up.set(self.on)
        if self.on:
            self._telemetry.log.info("recovery_on")
        elif why_not != self._why:
            self._telemetry.log.warning("recovery_off", reason=why_not)
        self._why = why_not
        self._alarm.ring()

    async def _work(self) -> None:
        while True:
            if not await self._try_step():
                await self._alarm.sleep(self._pause())

    async def _try_step(self) -> bool:
        """A step that fails is logged; the audit looks at its users again."""
        try:
            return await self._step()
        except Exception:
            self._telemetry.log.exception("recovery_step_failed")
            await asyncio.sleep(AWAY_S)
            return True

    async def _step(self) -> bool:
        """Give each kind of work a turn; False when only the audit had some.

        Users who have conflicts or rows to be read for ever keep no one waiting.
        """
        if worked := bool(self.conflicts.waiting):
            await self.conflicts.read()
        if not (self.on and self._keeper.ready):
            return worked
        for work in (self._heal_due, self._replay_due, self._audit):
            if self._generation != self.horizons.generation:
                self._restart()
            worked |= await work(self._monotonic())
        return worked

    async def _heal_due(self, now: float) -> bool:
        if due := self.states.take_due(now, BATCH):
            await self._healer.look(due, digest=len(due) <= DIGESTS)
        if len(due) == BATCH:
            await asyncio.sleep(self._monotonic() - now)
        return bool(due)

    async def _replay_due(self, now: float) -> bool:
        replay_at = self._newcomers.next_due()
        if due := replay_at is not None and replay_at <= now:
            await self._newcomers.replay(BATCH)
        return due

    def _restart(self) -> None:
        """The database is another one: compare everything that was shown with it.

        Writes that a primary acknowledged may be missing on the promoted replica.
        """
        known, self._generation = self._generation > 0, self.horizons.generation
        if known:
            self._telemetry.log.warning("database_changed")
            self.states.restart()
            self._newcomers.restart()
            self.deletions.restart(self.states)
            self.shown.unverify()
            self.heal(tuple(self.states), DATABASE_CHANGED)

    async def _audit(self, now: float) -> bool:
        """Look at those who were looked at longest ago; False, as it rests after."""
        self._telemetry.metrics.audit_round.set(self.states.staleness(now))
        oldest = self.states.oldest(now - self._settings.audit_s, AUDIT_BATCH)
        if oldest and now >= self._audit_at:
            await self._healer.look(oldest, digest=False)
            spent = self._monotonic() - now
            self._audit_at = now + max(AUDIT_GAP_S, spent / self._settings.audit_share)
        return False

    def _pause(self) -> float:
        """Seconds until something may be due."""
        if not (self.on and self._keeper.ready):
            return HORIZON_S
        now = self._monotonic()
        times = [
            self.states.next_due(),
            self._newcomers.next_due(),
            max(self._audit_at, self.states.next_audit(self._settings.audit_s)),
            now + 1.0,  # the gauge of the audit
        ]
        return max(0.01, min(when - now for when in times if when is not None))
