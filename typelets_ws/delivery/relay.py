"""Turns events into messages for devices: decodes, orders, frames once, queues.

Invariants. Every event for another device passes `on_event`, whether the REST service,
another process or this one published it; so one process and ten behave alike. A
malformed event is dropped, counted and logged with its reason; other events are not
affected. Tested by tests/integration/delivery/test_events.py.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from msgspec import Raw, structs

from ..config.live import LiveConfig
from ..ports import Clock
from ..protocol import events, messages
from ..protocol.errors import CloseCode
from ..protocol.events import EventRejected, EventRejectReason
from ..telemetry.telemetry import Telemetry
from ..wire.frames import Frame
from .hub import Hub
from .revocations import RevokedSessions
from .versions import (
    Evicted,
    VersionCache,
    VersionedRow,
    refresh_changes,
    version_of,
    wire_time,
)

__all__ = ["Relay"]

RESYNC_GAP_S: Final = 0.005
"""Devices that must fetch anew are told at least this far apart, up to the spread."""
UNDELIVERABLE_DELAY_S: Final = 1.0
"""Before the devices are told of an event that could not be delivered: the resyncs of
a publisher that sends nothing else gather into one a second."""
MAX_AHEAD_MS: Final = 300_000
"""A row whose `updatedAt` is further ahead of our clock is delivered, but never shown
in place of another row: the publisher's clock or the row is wrong."""


@dataclass(slots=True)
class Relay:
    """Turns events into messages; fulfils `bus.handler.EventHandler`.

    `random` returns numbers from 0 up to 1.
    """

    hub: Hub
    versions: VersionCache
    revoked: RevokedSessions
    live: LiveConfig
    clock: Clock
    telemetry: Telemetry
    random: Callable[[], float]

    def on_event(self, user_id: str, payload: bytes) -> None:
        """Handle one event of this user. Never raises for what is in the payload.

        What devices get of it leaves with the next `hub.flush`.
        """
        try:
            if len(payload) > self.live.current.limits.unsent_bytes:
                raise EventRejected(EventRejectReason.TOO_LARGE)
            event = events.decode(payload)
        except EventRejected as rejected:
            self.on_undeliverable(user_id, rejected.reason)
            self.telemetry.metrics.events.labels("unknown", rejected.reason).inc()
            self.telemetry.log.warning(
                "event_dropped",
                reason=str(rejected.reason),
                field=rejected.field,
                user=user_id,
            )
            return
        self.telemetry.metrics.events.labels(events.name(event), "ok").inc()
        if isinstance(event, events.ControlEvent):
            self._apply_control(user_id, event)
        elif isinstance(event, events.ResyncRequired):
            self.on_gap([user_id], event.reason or "requested")
        else:
            self._deliver(user_id, event)

    def on_batch_end(self) -> None:
        """Write what the events of one read have queued for the devices."""
        self.hub.flush()

    def on_unpublished(self, user_id: str, event: bytes) -> None:
        """Deliver to the devices of this process an event others do not get now."""
        self.on_event(user_id, event)
        self.hub.flush()

    def on_undeliverable(self, user_id: str, reason: EventRejectReason) -> None:
        """An event of this user could not be read: its devices have missed a change."""
        for device in self.hub.devices_of(user_id):
            device.ask_resync(f"event_{reason}", UNDELIVERABLE_DELAY_S)

    def _deliver(self, user_id: str, event: events.Event) -> None:
        if isinstance(event, events.NoteUpdated):
            try:
                event = self._in_order(user_id, event)
            except Evicted:
                self.on_gap([user_id], "conflict")
                if event.version is not None:
                    return
        if not self.hub.has_other(user_id, event.exceptConnectionId):
            return
        now_ms = self.clock.now_ms()
        published = event.publishedAt
        timestamp = now_ms if published is None else int(published)
        frame = Frame(messages.encode(event.message(timestamp)))
        count = self.hub.queue(user_id, frame, event.exceptConnectionId)
        self.telemetry.metrics.deliveries.inc(count)
        if published is not None:
            self.telemetry.metrics.lag.observe(max(0.0, now_ms - published) / 1000)

    def _in_order(self, user_id: str, event: events.NoteUpdated) -> events.NoteUpdated:
        """See `versions`. Raises `Evicted`."""
        text = bytes(event.updatedNote)
        version = version_of(text)
        if event.version != version:
            # A publisher cannot set it: it only ever repeats the row's own.
            event = structs.replace(event, version=None)
        if version is None:
            return event
        if version > wire_time(self.clock.now_ms() + MAX_AHEAD_MS):
            self.on_gap([user_id], "conflict")
            return event
        key = (user_id, event.noteId)
        row = self.versions.latest(
            key, VersionedRow(version, text), self.clock.monotonic()
        )
        if row.version == version:
            return event
        if event.version is None:
            # Published late, or by a clock that is behind: the database knows.
            self.on_gap([user_id], "conflict")
            return event
        self.telemetry.metrics.repairs.inc()
        return structs.replace(
            event,
            changes=Raw(refresh_changes(bytes(event.changes), row)),
            updatedNote=Raw(row.text),
        )

    def _apply_control(self, user_id: str, order: events.Event) -> None:
        # What came before the order is for those who are sent away as well.
        self.hub.flush()
        if isinstance(order, events.SessionRevoked):
            self.revoked.revoke(order.sessionId, self.clock.monotonic())
            for device in self.hub.devices_of(user_id):
                if device.session_id == order.sessionId:
                    device.close(CloseCode.UNAUTHENTICATED, "session_revoked")
        else:
            for device in self.hub.devices_of(user_id):
                device.close(CloseCode.UNAUTHENTICATED, "user_disconnected")

    def on_gap(self, user_ids: Collection[str], reason: str) -> None:
        """Tell the users' devices to fetch anew.

        Spread at random over up to `resync_spread_s` seconds when they are many,
        so that they do not all run to the REST service in the same instant.
        """
        devices = [d for user_id in user_ids for d in self.hub.devices_of(user_id)]
        spread = min(
            self.live.current.redis.resync_spread_s, RESYNC_GAP_S * (len(devices) - 1)
        )
        for device in devices:
            device.ask_resync(reason, self.random() * max(0.0, spread))
